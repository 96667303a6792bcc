"""``mechstyle export``: the folder holds the edited model, and nothing is written when something is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformer_lens import HookedTransformer

import mechstyle.models
from mechstyle.editing.edit import EditSet, WeightEdit
from mechstyle.editing.ledger import Ledger
from mechstyle.editing.memory_editors import in_context_edit
from mechstyle.models import fingerprint
from tests.cli.conftest import REQUESTS, Run

NAMES = ("blocks.0.mlp.W_out", "blocks.1.mlp.W_out")


@pytest.fixture
def edits(model: HookedTransformer) -> list[EditSet]:
    """Two edits, of one layer each."""
    generator = torch.Generator().manual_seed(0)
    factors = [
        (torch.randn(128, 1, generator=generator), torch.randn(1, 32, generator=generator)) for _ in NAMES
    ]
    return [
        EditSet((WeightEdit(name, left, right),), fingerprint(model), requests=(request,))
        for name, (left, right), request in zip(NAMES, factors, REQUESTS, strict=False)
    ]


@pytest.mark.parametrize("kind", ["edits", "ledger"])
def test_the_exported_folder_holds_the_edited_model(
    kind: str,
    model: HookedTransformer,
    edits: list[EditSet],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mechstyle_run: Run,
) -> None:
    paths = [one.save(tmp_path / f"{index}.safetensors") for index, one in enumerate(edits)]
    words = [word for path in paths for word in ("--edit", path)]
    if kind == "ledger":
        words = ["--ledger", tmp_path / "edits"]
        with Ledger.open(model, tmp_path / "edits") as ledger:
            for one in edits:
                ledger.add(one)
    out = tmp_path / "edited"
    code, said, _ = mechstyle_run("export", *words, "--out", out, "--dry-run", "--json")
    assert code == 0
    told = json.loads(said)
    assert (told["dry_run"], told["n_edits"], told["parameters"]) == (True, 2, list(NAMES))
    assert not out.exists()
    code, said, _ = mechstyle_run("export", *words, "--out", out)
    assert (code, said.splitlines()[-1]) == (0, str(out))
    monkeypatch.undo()
    loaded = mechstyle.models.load_model(out)
    for name, weight in model.named_parameters():
        change = sum(one.delta(name) for one in edits if name in one.parameters)
        wanted = (weight.detach().double() + change).float()
        assert torch.equal(loaded.get_parameter(name).detach(), wanted), name


def test_a_ledger_without_an_active_entry_gives_the_plain_model_with_a_note(
    model: HookedTransformer, edits: list[EditSet], tmp_path: Path, mechstyle_run: Run
) -> None:
    with Ledger.open(model, tmp_path / "edits") as ledger:
        ledger.add(edits[0])
        ledger.toggle(1)
    words = ["export", "--ledger", tmp_path / "edits", "--out", tmp_path / "new", "--dry-run"]
    code, _, err = mechstyle_run(*words)
    assert code == 0
    assert "no entry is active, so this is the model without any edit" in err


def test_wrong_input_is_refused_and_leaves_no_folder(
    edits: list[EditSet], model: HookedTransformer, tmp_path: Path, mechstyle_run: Run
) -> None:
    edit, out = edits[0].save(tmp_path / "edit.safetensors"), tmp_path / "new"
    told = in_context_edit(model, REQUESTS[0]).save(tmp_path / "told.safetensors")
    foreign = EditSet(edits[0].edits, "0" * 64).save(tmp_path / "foreign.safetensors")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    for words, message in (
        (["--out", out], "give either --ledger DIR, or --edit FILE"),
        (["--out", out, "--edit", edit, "--ledger", tmp_path], "give either --ledger DIR, or --edit FILE"),
        (["--out", tmp_path / "full", "--edit", edit], "expected a new or empty folder"),
        (["--out", edit, "--edit", edit], "expected a new or empty folder"),
        (["--out", out, "--edit", tmp_path / "missing"], "cannot read"),
        (["--out", out, "--edit", told], "it leaves the weights alone"),
        (["--out", out, "--edit", foreign], "computed for"),
        (["--out", out, "--ledger", tmp_path / "none"], "no ledger in"),
        (["--out", tmp_path / "no" / "where", "--edit", edit], "where"),
    ):
        code, said, err = mechstyle_run("export", *words)
        assert (code, said, err.count("\n")) == (2, "", 1), words
        assert message in err
        assert not out.exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]
