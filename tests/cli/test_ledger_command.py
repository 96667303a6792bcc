"""``mechstyle edit --ledger``, ``ledger`` and ``undo``: as the Python ledger does it, also after a crash."""

from __future__ import annotations

import functools
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

import mechstyle.editing.batch_methods
from mechstyle.editing.batch_methods import MEMIT_OPTIONS, alphaedit, memit
from mechstyle.editing.covariance import Covariance
from mechstyle.editing.edit import load_edit
from mechstyle.editing.keys import sample_contexts
from mechstyle.editing.ledger import Ledger
from mechstyle.editing.target_options import TargetOptions
from mechstyle.models import fingerprint
from tests.cli.conftest import REQUESTS, Run

MANY = TargetOptions(**{**vars(MEMIT_OPTIONS), "steps": 2})


@pytest.fixture
def write(requests: Path, moments: Path, tmp_path: Path) -> list[Any]:
    """The words that write three requests by MEMIT into the ledger ``edits``, one a batch."""
    words = ["edit", "--method", "memit", "--requests", requests, "--layers", "0,1", "--steps", "2"]
    return [*words, "--covariance", moments, "--batch-size", "1", "--ledger", tmp_path / "edits"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "edits"


def ids(model: HookedTransformer, folder: Path) -> list[str]:
    with Ledger.open(model, folder) as ledger:
        assert all(entry.active for entry in ledger.entries)
        return [entry.edit.id for entry in ledger.entries]


@pytest.mark.parametrize("method", ["memit", "alphaedit"])
def test_batches_become_the_entries_that_a_python_ledger_gets(
    method: str, model: HookedTransformer, requests: Path, moments: Path, folder: Path, mechstyle_run: Run
) -> None:
    words = ["--method", method, "--requests", requests, "--layers", "0,1", "--steps", "2"]
    words += ["--covariance", moments, "--batch-size", "2", "--ledger", folder]
    code, out, _ = mechstyle_run("edit", *words, "--json")
    assert code == 0
    said = json.loads(out)
    assert (said["entries"], said["there_before"]) == ([1, 2], [])
    editor = partial(
        {"memit": memit, "alphaedit": alphaedit}[method],
        layers=[0, 1],
        covariance=Covariance.load(moments),
        target_options=MANY,
        contexts=sample_contexts(model),
    )
    with Ledger(model) as ledger:
        wanted = [entry.edit.id for entry in ledger.write(editor, REQUESTS, batch_size=2)]
        shares = {
            name: float((model.get_parameter(name).detach() - before).norm() / before.norm())
            for name, before in weights_without(ledger, model, said["parameters"]).items()
        }
    assert ids(model, folder) == wanted
    assert said["relative_norms"] == pytest.approx(shares, rel=1e-3)


def weights_without(ledger: Ledger, model: HookedTransformer, names: list[str]) -> dict[str, torch.Tensor]:
    for entry in ledger.entries:
        ledger.toggle(entry.number, False)
    found = {name: model.get_parameter(name).detach().clone() for name in names}
    for entry in ledger.entries:
        ledger.toggle(entry.number, True)
    return found


def test_rome_writes_one_entry_a_request(
    model: HookedTransformer, requests: Path, moments: Path, folder: Path, mechstyle_run: Run
) -> None:
    words = ["--layers", "0", "--steps", "2", "--covariance", moments, "--limit", "2", "--ledger", folder]
    assert mechstyle_run("edit", "--method", "rome", "--requests", requests, *words)[0] == 0
    with Ledger.open(model, folder) as ledger:
        assert [entry.requests for entry in ledger.entries] == [(REQUESTS[0],), (REQUESTS[1],)]


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bits(
    model: HookedTransformer,
    write: list[Any],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mechstyle_run: Run,
) -> None:
    calls = []

    @functools.wraps(memit)
    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return memit(*arguments, **options)

    monkeypatch.setattr(mechstyle.editing.batch_methods, "memit", interrupted)
    code, out, err = mechstyle_run(*write)
    assert (code, out) == (1, "")
    assert f"interrupted; {folder} has 1 new entry: run the same command to go on." in err
    monkeypatch.setattr(mechstyle.editing.batch_methods, "memit", memit)
    code, out, _ = mechstyle_run(*write, "--json")
    assert code == 0
    assert json.loads(out)["there_before"] == [1]
    assert json.loads(out)["entries"] == [1, 2, 3]
    whole = [*write[:-1], tmp_path / "whole"]
    assert mechstyle_run(*whole)[0] == 0
    assert ids(model, folder) == ids(model, tmp_path / "whole")
    code, out, _ = mechstyle_run(*whole, "--json")
    assert (code, json.loads(out)["there_before"]) == (0, [1, 2, 3])


@pytest.fixture
def filled(model: HookedTransformer, moments: Path, folder: Path) -> Path:
    """A ledger of two entries of one request each."""
    editor = partial(
        memit, layers=0, covariance=Covariance.load(moments), target_options=MANY, contexts=["{}"]
    )
    with Ledger.open(model, folder) as ledger:
        ledger.write(editor, REQUESTS[:2], batch_size=1)
    return folder


def test_a_ledger_is_listed_with_what_was_asked_for(filled: Path, mechstyle_run: Run) -> None:
    code, out, _ = mechstyle_run("ledger", filled)
    assert code == 0
    head, first, second = out.splitlines()
    assert head.split()[:4] == ["entry", "state", "method", "requests"]
    assert first.split()[:4] == ["1", "on", "memit", "1"]
    assert second.endswith("'Paris is the capital of' -> ' Italy'")
    code, out, _ = mechstyle_run("ledger", filled, "--json")
    entries = json.loads(out)["entries"]
    assert [(one["number"], one["active"], one["stale"]) for one in entries] == [
        (1, True, False),
        (2, True, False),
    ]
    assert entries[0]["requests"] == [REQUESTS[0].to_dict()]
    assert entries[0]["delta_ratio"] > 0


def test_entries_are_switched_off_and_on_removed_and_undone(
    model: HookedTransformer, filled: Path, mechstyle_run: Run
) -> None:
    code, out, _ = mechstyle_run("ledger", filled, "--toggle", "1")
    assert (code, out.splitlines()[0]) == (0, "entry 1 is off now")
    assert "on, stale" in out
    with Ledger.open(model, filled) as ledger:
        assert [(one.active, one.stale) for one in ledger.entries] == [(False, False), (True, True)]
    assert "entry 1 is on now" in mechstyle_run("ledger", filled, "--toggle", "1")[1]
    code, out, _ = mechstyle_run("undo", filled, "--json")
    said = json.loads(out)
    assert (said["removed"]["number"], [one["number"] for one in said["entries"]]) == (2, [1])
    assert "entry 1 is gone: 'Miles Davis plays the' -> ' guitar'" in mechstyle_run("undo", filled, "1")[1]
    assert mechstyle_run("ledger", filled)[1] == "no entries\n"
    code, _, err = mechstyle_run("undo", filled)
    assert (code, "expected an active entry to undo" in err) == (2, True)


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_an_entry_whose_file_is_gone_or_damaged_can_be_undone(
    harm: str, model: HookedTransformer, filled: Path, mechstyle_run: Run
) -> None:
    (path,) = (filled / "entries").glob("0002*")
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(b"nothing")
    assert mechstyle_run("ledger", filled)[0] == 2
    code, out, _ = mechstyle_run("undo", filled, "2")
    assert (code, out) == (0, "entry 2 is gone; its file could not be read\n")
    with Ledger.open(model, filled) as ledger:
        assert [(entry.number, entry.active) for entry in ledger.entries] == [(1, True)]


def test_remove_takes_any_entry_out(model: HookedTransformer, filled: Path, mechstyle_run: Run) -> None:
    code, out, _ = mechstyle_run("ledger", filled, "--remove", "1", "--json")
    assert (code, json.loads(out)["removed"]["number"]) == (0, 1)
    with Ledger.open(model, filled) as ledger:
        assert [entry.number for entry in ledger.entries] == [2]


def test_interactions_and_the_merged_edit_are_those_of_python(
    model: HookedTransformer, filled: Path, tmp_path: Path, mechstyle_run: Run
) -> None:
    merged = tmp_path / "merged.safetensors"
    code, out, _ = mechstyle_run("ledger", filled, "--interactions", "--json")
    assert code == 0
    assert mechstyle_run("ledger", filled, "--interactions")[1].count("\n") > 4
    assert mechstyle_run("ledger", filled, "--merge", merged)[1].splitlines()[-1] == str(merged)
    with Ledger.open(model, filled) as ledger:
        assert json.loads(out)["interactions"] == ledger.interactions().to_dict("records")
        assert load_edit(merged).id == ledger.merged().id


def test_a_broken_model_is_put_back_and_the_entry_refused(
    model: HookedTransformer, write: list[Any], folder: Path, prose: Path, mechstyle_run: Run
) -> None:
    code, out, err = mechstyle_run(*write, "--max-delta-ratio", "1e-9")
    assert (code, out) == (1, "")
    assert "max_delta_ratio" in err
    with Ledger.open(model, folder) as ledger:
        assert [(entry.active, entry.refused) for entry in ledger.entries] == [(False, True)]
    listed = mechstyle_run("ledger", folder)[1]
    assert listed.splitlines()[1].split()[:2] == ["1", "refused"]
    code, _, err = mechstyle_run("ledger", folder, "--toggle", "1")
    assert (code, "--toggle 1: the entry was refused, because" in err) == (2, True)
    assert "entry 1 is on now" in mechstyle_run("ledger", folder, "--toggle", "1", "--force")[1]
    assert "entry 1 is off now" in mechstyle_run("ledger", folder, "--toggle", "1")[1]
    code, out, _ = mechstyle_run(*write, "--health", "--text", prose, "--json")
    assert code == 0
    health = json.loads(out)["health"]
    assert health["problems"] == []
    assert health["perplexity_ratio"] > 0
    assert "x1" in mechstyle_run("ledger", folder)[1] or "x0" in mechstyle_run("ledger", folder)[1]


def test_facts_that_the_model_does_not_know_are_refused_before_any_search(
    write: list[Any], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mechstyle_run: Run
) -> None:
    stay = tmp_path / "stay.json"
    stay.write_text(json.dumps([{"template": "{} plays the", "subject": "Chet Baker", "target": " trumpet"}]))
    monkeypatch.setattr("mechstyle.editing.writing.search_targets", lambda *_, **__: pytest.fail("searched"))
    code, _, err = mechstyle_run(*write, "--known-facts", stay)
    assert (code, "the unedited model knows none of the 1 facts" in err) == (2, True)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ledger", "nowhere"], "no ledger in nowhere; mechstyle edit --ledger nowhere begins one"),
        (["undo", "nowhere"], "no ledger in nowhere"),
        (["ledger", "edits", "--toggle", "7"], "--toggle 7: expected the number of an entry (1, 2)"),
        (["undo", "edits", "0"], "N 0: expected the number of an entry (1, 2)"),
        (["ledger", "edits", "--toggle", "1", "--remove", "2"], "give one of --toggle N, --remove N"),
        (["ledger", "edits", "--merge", "missing/m.safetensors"], "does not exist"),
        (["ledger", "edits", "--toggle", "one"], "--toggle"),
        (["ledger"], "DIR"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    words: list[str],
    message: str,
    filled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mechstyle_run: Run,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = (filled / "ledger.json").read_bytes()
    code, out, err = mechstyle_run(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert (filled / "ledger.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["edits"]


def test_a_ledger_of_another_model_is_refused(
    organism: HookedTransformer, requests: Path, tiny_folder: Path, tmp_path: Path, mechstyle_run: Run
) -> None:
    folder = tmp_path / "organism"
    with Ledger.open(organism, folder):
        pass
    for words in (
        ["edit", "--requests", requests, "--layer", "0", "--ledger", folder],
        ["edit", "--requests", requests, "--layer", "0", "--ledger", folder, "--dry-run"],
        ["ledger", folder],
        ["undo", folder],
        ["export", "--ledger", folder, "--out", tmp_path / "new"],
    ):
        code, out, err = mechstyle_run(*words)
        assert (code, out) == (2, "")
        assert f"--model {tiny_folder}: the ledger in {folder} belongs to another model" in err
        assert f"its fingerprint is {fingerprint(organism)[:12]}" in err
    assert not (tmp_path / "new").exists()
