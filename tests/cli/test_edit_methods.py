"""``mechstyle edit``: every method writes what its Python function computes; options go where they belong."""

from __future__ import annotations

import copy
import csv
import json
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

from mechstyle.cli.methods import METHODS, Method, require_own_options
from mechstyle.cli.tuning import Tuning, option
from mechstyle.documents import read_documents
from mechstyle.editing.batch_methods import MEMIT_OPTIONS, alphaedit, emmet, memit
from mechstyle.editing.covariance import Covariance
from mechstyle.editing.finetune import FinetuneOptions, finetune
from mechstyle.editing.hparams import Hyperparameters
from mechstyle.editing.layer_sweep import best_layer, sweep_layers
from mechstyle.editing.loading import load_edit
from mechstyle.editing.memory_editors import edit_cache, in_context_edit
from mechstyle.editing.methods import rome
from mechstyle.editing.neuron_edit import neuron_edit
from mechstyle.editing.target_options import TargetOptions
from mechstyle.errors import InputError
from tests.cli.conftest import REQUESTS, Run

FAST = TargetOptions(steps=2)
MANY = TargetOptions(**{**vars(MEMIT_OPTIONS), "steps": 2})
CLOSED = {"layers": [0, 1], "target_options": MANY}

CASES: dict[str, tuple[list[str], Any]] = {
    "rome": (
        ["--layers", "1,0", "--steps", "2", "--limit", "1", "--legacy"],
        partial(rome, layer=[0, 1], target_options=FAST, legacy=True),
    ),
    "memit": (
        ["--layers", "0,1", "--steps", "2", "--mom2-weight", "3", "--batch-size", "2", "--seed", "3"],
        partial(memit, **CLOSED, mom2_weight=3.0, batch_size=2, seed=3),
    ),
    "emmet": (
        ["--layers", "0,1", "--steps", "2", "--ridge", "0.5", "--legacy"],
        partial(emmet, **CLOSED, ridge=0.5, legacy=True),
    ),
    "alphaedit": (
        ["--layers", "0,1", "--steps", "2", "--threshold", "0.4", "--l2", "2"],
        partial(alphaedit, **CLOSED, threshold=0.4, l2=2.0),
    ),
    "ft": (
        ["--layer", "1", "--steps", "2", "--lr", "1e-3", "--parameters", "mlp.W_in,mlp.b_out", "--legacy"],
        partial(
            finetune,
            layers=1,
            parameters=("mlp.W_in", "mlp.b_out"),
            options=FinetuneOptions(steps=2, lr=1e-3, loss="as-published"),
        ),
    ),
    "ft-l": (
        ["--layer", "0", "--steps", "2", "--norm-constraint", "1e-4", "--weight-decay", "0.1"],
        partial(
            finetune,
            layers=0,
            options=FinetuneOptions(steps=2, norm_constraint=1e-4, weight_decay=0.1),
        ),
    ),
    "neurons": (
        ["--mode", "suppress", "--steps", "3", "--threshold", "0.3", "--share", "0.5", "--legacy"],
        partial(neuron_edit, mode="suppress", steps=3, threshold=0.3, share=0.5, rule="code"),
    ),
    "cache": (
        ["--threshold", "0.9", "--layer", "1", "--epsilon", "0.01"],
        partial(edit_cache, threshold=0.9, layer=1, epsilon=0.01),
    ),
    "in-context": (["--template", "Note that {}. "], partial(in_context_edit, template="Note that {}. ")),
}


def same_changes(found: Any, wanted: Any) -> None:
    """Equal to the bit, or up to what the processor rounds otherwise from one solve to the next."""
    if found.id == wanted.id:
        return
    assert found.parameters == wanted.parameters != ()
    for name in wanted.parameters:
        change = wanted.delta(name)
        assert float((found.delta(name) - change).norm() / change.norm()) < 1e-6


def same_numbers(found: Any, wanted: Any) -> None:
    """The same JSON; numbers that were computed are equal up to rounding."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            same_numbers(found[key], value)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            same_numbers(one, other)
    else:
        assert found == (pytest.approx(wanted, rel=1e-6) if isinstance(wanted, float) else wanted)


@pytest.mark.parametrize("method", CASES)
def test_each_method_writes_what_its_function_computes(
    method: str, model: HookedTransformer, requests: Path, moments: Path, tmp_path: Path, mechstyle_run: Run
) -> None:
    words, editor = CASES[method]
    out = tmp_path / "edit.safetensors"
    if METHODS[Method(method)].moments:
        words = [*words, "--covariance", str(moments)]
        editor = partial(editor, covariance=Covariance.load(moments))
    code, said, _ = mechstyle_run(
        "edit", "--method", method, "--requests", requests, "--out", out, *words, "--json"
    )
    assert code == 0
    wanted = editor(model, REQUESTS[:1] if method == "rome" else REQUESTS)
    found = load_edit(out)
    same_changes(found, wanted)
    assert found.requests == wanted.requests
    same_numbers(found.provenance["settings"], json.loads(json.dumps(wanted.provenance["settings"])))
    summary = json.loads(said)
    assert summary["parameters"] == list(wanted.parameters)
    assert summary["out"] == str(out)
    for name, share in summary["relative_norms"].items():
        weight = model.get_parameter(name).detach().double()
        assert share == pytest.approx(float(wanted.delta(name).norm() / weight.norm()))


def test_ft_kl_preserves_documents_of_the_text(
    model: HookedTransformer, requests: Path, prose: Path, tmp_path: Path, mechstyle_run: Run
) -> None:
    out = tmp_path / "edit.safetensors"
    words = ["--layer", "0", "--steps", "2", "--text", prose, "--preserve", "3", "--kl-factor", "2"]
    assert mechstyle_run("edit", "--method", "ft-kl", "--requests", requests, "--out", out, *words)[0] == 0
    options = FinetuneOptions(steps=2, kl_factor=2.0)
    wanted = finetune(model, REQUESTS, layers=0, options=options, preserve=read_documents(prose)[:3])
    assert load_edit(out).id == wanted.id
    assert wanted.provenance["settings"]["n_preserved"] == 3


def test_the_table_has_every_method_and_every_option_an_owner() -> None:
    assert set(METHODS) == set(Method)
    owned = frozenset().union(*(spec.options for spec in METHODS.values()))
    assert owned == {one.name for one in fields(Tuning)}


@pytest.mark.parametrize("method", list(Method))
def test_options_of_other_methods_are_refused_with_their_owners(method: Method) -> None:
    values = {"covariance": Path("c"), "text": "t", "legacy": True, "mode": "write", "template": "{}"}
    for one in fields(Tuning):
        given = Tuning(**{one.name: values.get(one.name, 1)})
        if one.name in METHODS[method].options:
            require_own_options(method, given)
            continue
        with pytest.raises(InputError) as refused:
            require_own_options(method, given)
        said = str(refused.value)
        assert said.startswith(f"{option(one.name)} belongs to --method ")
        assert said.endswith(f", not to --method {method}.")
        assert all(other in said for other, spec in METHODS.items() if one.name in spec.options)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--method", "cache", "--ledger", "d"],
            "--ledger holds changes of weights, and --method cache makes none",
        ),
        (
            ["--method", "ft", "--out", "e", "--batch-size", "2"],
            "--batch-size belongs to --method memit, emmet, alp",
        ),
        (["--method", "rome", "--ledger", "d", "--batch-size", "2"], "rome writes one request at a time"),
        (
            ["--method", "neurons", "--out", "e", "--layers", "1"],
            "--layers does not belong to --method neurons",
        ),
        (["--method", "memit", "--out", "e", "--health"], "belong to --ledger DIR"),
        (["--method", "memit", "--out", "e", "--min-known", "0.5"], "belong to --ledger DIR"),
        (["--method", "memit"], "give one of --out FILE, for the edit, --ledger DIR"),
        (["--method", "memit", "--out", "e", "--ledger", "d"], "give one of --out FILE"),
        (["--method", "memit", "--out", "e", "--limit", "0"], "--limit"),
        (["--method", "memit", "--out", "e", "--sweep", "2"], "--sweep tries the layers of --covariance"),
        (["--method", "memit", "--out", "e", "--layers", "0", "--lr", "-1"], "TargetOptions.lr"),
        (["--method", "ft", "--out", "e", "--layers", "0", "--lr", "nan"], "FinetuneOptions.lr"),
        (["--method", "ft-l", "--out", "e", "--layers", "0"], "--norm-constraint missing: ft-l needs it"),
        (
            ["--method", "alphaedit", "--out", "e", "--layers", "0", "--l2", "0"],
            "--l2: expected a finite number above 0",
        ),
        (
            ["--method", "cache", "--out", "e", "--layers", "0,1", "--threshold", "0.9"],
            "at one layer, got [0, 1]",
        ),
        (["--method", "memit", "--ledger", "d", "--max-delta-ratio", "0"], "HealthCheck.max_delta_ratio"),
        (["--method", "memit", "--ledger", "d", "--layers", "0", "--health"], "brings no texts of its own"),
        (
            ["--method", "memit", "--out", "e", "--layers", "0", "--covariance", "missing"],
            "cannot read missing",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_before_a_model_is_loaded(
    words: list[str],
    message: str,
    requests: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mechstyle_run: Run,
) -> None:
    monkeypatch.setattr("mechstyle.models.load_model", lambda *_: pytest.fail("loaded"))
    monkeypatch.chdir(tmp_path)
    code, out, err = mechstyle_run("edit", "--requests", requests, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert list(tmp_path.iterdir()) == [requests]


@pytest.mark.parametrize("kind", ["pairs", "counterfact"])
def test_requests_are_read_from_a_file_of_any_kind(kind: str, tmp_path: Path, mechstyle_run: Run) -> None:
    path, out = tmp_path / "edits.dat", tmp_path / "edit.safetensors"
    facts = [one.fact for one in REQUESTS]
    if kind == "pairs":
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["template", "subject", "target", "new_target"])
            rows.writerows([fact.template, fact.subject, fact.target, one.new_target]
                           for fact, one in zip(facts, REQUESTS, strict=True))  # fmt: skip
    else:
        records = [
            {
                "requested_rewrite": {
                    "prompt": fact.template,
                    "subject": fact.subject,
                    "target_true": {"str": fact.target.strip()},
                    "target_new": {"str": one.new_target.strip()},
                },
                "paraphrase_prompts": [],
                "neighborhood_prompts": [],
            }
            for fact, one in zip(facts, REQUESTS, strict=True)
        ]
        path.write_text(json.dumps(records), encoding="utf-8")
    code, *_ = mechstyle_run(
        "edit", "--method", "in-context", "--requests", path, "--limit", "2", "--out", out
    )
    assert code == 0
    found = load_edit(out).requests
    assert [(one.fact, one.new_target) for one in found] == [
        (one.fact, one.new_target) for one in REQUESTS[:2]
    ]


def test_without_layers_published_settings_are_taken_and_named(
    requests: Path, moments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mechstyle_run: Run
) -> None:
    row = Hyperparameters(
        model="tiny", method="memit", layers=(1,), source="a paper", target_options=FAST, mom2_weight=7.0
    )
    monkeypatch.setattr("mechstyle.editing.hparams.hyperparameters", lambda *_: row)
    out = tmp_path / "edit.safetensors"
    words = ["edit", "--method", "memit", "--requests", requests, "--out", out, "--covariance", moments]
    code, _, err = mechstyle_run(*words, "--lr", "0.25")
    assert code == 0
    assert "--layers 1 and other settings that were not given: a paper." in err
    settings: Any = load_edit(out).provenance["settings"]
    assert (settings["layers"], settings["ridge"], settings["target_options"]["steps"]) == ([1], 7.0, 2)
    assert (settings["target_options"]["lr"], settings["target_options"]["clamp_norm"]) == (0.25, 4.0)
    assert mechstyle_run(*words, "--layers", "1", "--steps", "1", "--mom2-weight", "5")[0] == 0
    chosen: Any = load_edit(out).provenance["settings"]
    assert (chosen["ridge"], chosen["target_options"]["steps"]) == (5.0, 1)
    assert chosen["target_options"]["clamp_norm"] == MEMIT_OPTIONS.clamp_norm


@pytest.mark.filterwarnings("default::mechstyle.editing.suggest.HparamsWarning")
def test_a_sweep_tries_the_layers_of_the_covariance(
    model: HookedTransformer, requests: Path, moments: Path, tmp_path: Path, mechstyle_run: Run
) -> None:
    out = tmp_path / "edit.safetensors"
    words = ["edit", "--method", "rome", "--requests", requests, "--limit", "1", "--out", out, "--steps", "1"]
    code, _, err = mechstyle_run(*words, "--covariance", moments, "--sweep", "1", "--seed", "2")
    assert code == 0
    sweep = sweep_layers(model, REQUESTS[:1], covariance=Covariance.load(moments), seed=2)
    assert f"--layers {best_layer(sweep)} and other settings that were not given: suggested" in err
    assert load_edit(out).parameters == (f"blocks.{best_layer(sweep)}.mlp.W_out",)


def test_a_weight_of_zeros_has_no_share(
    model: HookedTransformer,
    requests: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mechstyle_run: Run,
) -> None:
    blank = copy.deepcopy(model)
    with torch.no_grad():
        blank.blocks[0].mlp.b_out.zero_()
    monkeypatch.setattr("mechstyle.models.load_model", lambda _: blank)
    words = ["--method", "ft", "--layers", "0", "--steps", "2", "--parameters", "mlp.b_out"]
    words = ["edit", "--requests", str(requests), "--out", str(tmp_path / "e"), *words]
    code, out, _ = mechstyle_run(*words, "--json")
    assert (code, json.loads(out)["relative_norms"]) == (0, {"blocks.0.mlp.b_out": None})
    assert "blocks.0.mlp.b_out changes from zero" in mechstyle_run(*words)[1]


def test_without_layers_and_published_settings_a_guess_is_called_one(
    requests: Path, moments: Path, tmp_path: Path, mechstyle_run: Run
) -> None:
    out = tmp_path / "edit.safetensors"
    words = ["--requests", requests, "--out", out]
    code, _, err = mechstyle_run("edit", "--method", "emmet", *words, "--covariance", moments, "--steps", "1")
    assert code == 0
    assert "--layers 0 and other settings that were not given: suggested, not published" in err
    assert "a guess" in err
    assert "--sweep N" in err
    code, _, err = mechstyle_run("edit", "--method", "ft", *words)
    assert code == 2
    assert "--layers missing: name them" in err
