"""``mechstyle compare``: tables across prompts and across models."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from transformer_lens import HookedTransformer

from mechstyle.cli import run
from mechstyle.facts import Fact
from mechstyle.tracing import Trace
from mechstyle.tracing.compare_models import compare_models
from mechstyle.tracing.compare_prompts import compare_prompts
from mechstyle.tracing.trace_facts import trace_facts
from mechstyle.tracing.trace_set import TraceSet
from tests.cli.conftest import Run
from tests.tracing.written import written

FACTS = [
    Fact(template, subject, " x", template)
    for template in ("{} plays the", "{} is the capital of")
    for subject in ("Miles Davis", "Chet Baker", "Jimi Hendrix")
]


def quick(
    model: HookedTransformer,
    fact: Fact,
    *,
    layers: int = 3,
    seed: int = 0,
    owner: str = "",
    kind: str = "mlp",
) -> Trace:
    """A trace with random effects, of the model with this fingerprint."""
    values = np.random.default_rng(seed).normal(size=(4, layers))
    return written({kind: values}, fact=fact, fingerprint=owner)


@pytest.fixture
def traced(model: HookedTransformer, tmp_path: Path) -> dict[str, Path]:
    """Two folders: of the tiny model, and as if of another one that is deeper."""
    from mechstyle.models import fingerprint

    folders = {"tiny": (3, fingerprint(model)), "deep": (7, "another")}
    for name, (layers, owner) in folders.items():
        tracer = functools.partial(quick, layers=layers, owner=owner)
        trace_facts(model, FACTS, tracer=tracer, folder=tmp_path / name, skip_unknown=False)
    return {name: tmp_path / name for name in folders}


def test_prompts_are_compared_into_tables(
    mechstyle_run: Run, traced: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "compared"
    words = ["compare", "prompts", traced["tiny"], "--permutations", 99, "--layer", 1, "--seed", 3]
    code, said, err = mechstyle_run(*words, "--out", out, "--json")
    assert (code, err) == (0, "")
    summary = json.loads(said)
    assert summary == json.loads((out / "summary.json").read_text(encoding="utf-8"))
    expected = compare_prompts(TraceSet.load(traced["tiny"]), permutations=99, seed=3)
    for name, row in expected.mantel.iterrows():
        assert summary["mantel"][str(name)]["r"] == pytest.approx(row["r"])
        assert summary["mantel"][str(name)]["p"] == row["p"]
    assert "hidden state of layer 1" in summary["mantel"]  # --model was given
    table = pd.read_csv(out / "mantel.csv", index_col="distance")
    assert table["p"].to_dict() == {name: row["p"] for name, row in summary["mantel"].items()}
    assert pd.read_csv(out / "pairs.csv").shape[0] == 15
    assert sorted(pd.read_csv(out / "order.csv")["fact"]) == list(range(6))
    assert set(pd.read_csv(out / "groups.csv")["pairs"]) == set(summary["groups"])


def test_models_are_compared_into_tables(
    traced: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "compared"
    named = [f"{name}={folder}" for name, folder in traced.items()]
    assert run(["compare", "models", *named, "--out", str(out), "--points", "5", "--json", "--quiet"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["models"] == {"tiny": 6, "deep": 6}
    expected = compare_models({name: TraceSet.load(folder) for name, folder in traced.items()}, points=5)
    curves = pd.read_csv(out / "curves.csv")
    assert curves["mean"].tolist() == pytest.approx(expected.curves["mean"].tolist())
    assert summary["similarity"][0]["r"] == pytest.approx(expected.similarity["r"][0])
    best = {(peak["model"], peak["kind"]): peak["effect"] for peak in summary["peaks"]}
    assert best["deep", "mlp"] == pytest.approx(expected.peaks.query("model == 'deep'")["effect"].max())
    assert run(["compare", "models", *named, "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out / "figure.html")
    assert "<html>" in (out / "figure.html").read_text(encoding="utf-8")[:100]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prompts", "nowhere"], "holds no traces that can be read"),
        (["prompts", "tiny", "--layer", "1"], "--layer: hidden states are read from a model"),
        (["prompts", "tiny", "--measure", "cosine"], "measure: expected one of correlation, rms"),
        (["models", "tiny"], "expected NAME=FOLDER, such as small=traces/small, got 'tiny'"),
        (["models", "one=tiny"], "expected at least two models"),
        (["models", "one=tiny", "one=deep"], "the name 'one' is given twice"),
        (["models", "one=tiny", "two=nowhere"], "holds no traces that can be read"),
        (["models", "one=tiny", "two=deep", "--kinds", "attn"], "kinds: expected kinds that all models have"),
        (["models", "one=tiny", "two=deep", "--points", "1"], "points: expected a whole number"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    words: list[str],
    message: str,
    traced: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["compare", *words, "--out", "out"]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert message in said.err


@pytest.mark.parametrize("command", ["prompts", "models"])
def test_both_comparisons_have_help_json_seed_and_quiet(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", command, "--help"]) == 0
    said = capsys.readouterr().out
    assert all(option in said for option in ("--json", "--seed", "--quiet", "--out"))
