"""When an entry is damaged or refused, or an editor misbehaves, the ledger says what helps, and it helps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from transformer_lens import HookedTransformer

import mechstyle as ms
from mechstyle.editing.application import active_edits
from mechstyle.editing.ledger import Ledger
from mechstyle.editing.ledger_books import LedgerBooks
from mechstyle.errors import FileError, InputError, WorkError
from tests.editing.test_ledger import REQUEST, edit_of
from tests.editing.test_ledger_files import entry_file, files, three_entries
from tests.editing.test_running_sums import same, weights

STRICT = ms.HealthCheck(max_delta_ratio=1e-9)


@pytest.fixture
def folder(tiny_model: HookedTransformer, tmp_path: Path) -> Path:
    return three_entries(tiny_model, tmp_path / "edits")


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_an_entry_without_its_file_can_be_forgotten_without_a_model(
    tiny_model: HookedTransformer, folder: Path, damage: str
) -> None:
    path = entry_file(folder, 1)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(FileError, match=r"entry 1 of the ledger.*Ledger\.forget\('.*edits', 1\)"):
        Ledger.open(tiny_model, folder)
    Ledger.forget(folder, 1)
    assert not path.exists()
    with Ledger.open(tiny_model, folder) as ledger:
        assert [(entry.number, entry.stale) for entry in ledger.entries] == [(2, True), (3, True)]
        assert ledger.add(edit_of(tiny_model, 7)).number == 4


def test_what_is_no_entry_cannot_be_forgotten(folder: Path, tmp_path: Path) -> None:
    found = files(folder)
    for wrong in (4, 0, True):
        with pytest.raises(InputError, match="number: expected that of an entry"):
            Ledger.forget(folder, wrong)
    assert files(folder) == found
    with pytest.raises(FileError, match="folder: expected a ledger, but .*absent is empty or absent"):
        Ledger.forget(tmp_path / "absent", 1)


def test_a_refused_entry_is_let_in_by_force_or_by_a_check_only(
    tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    folder, before = tmp_path / "edits", weights(tiny_model)
    with Ledger.open(tiny_model, folder, health=STRICT) as ledger:
        with pytest.raises(WorkError, match="refused as entry 1"):
            ledger.add(edit_of(tiny_model, 0))
        with pytest.raises(WorkError, match="refused as entry 1"):
            ledger.toggle(1, force=True)
        problems = ledger.entries[0].health.problems
        with pytest.raises(InputError, match=r"none is active; remove\(number\)"):
            ledger.undo()
    with Ledger.open(tiny_model, folder) as ledger:
        with pytest.raises(InputError, match=r"1 was refused, because the change .*force=True"):
            ledger.toggle(1)
        assert same(weights(tiny_model), before)
        entry = ledger.toggle(1, force=True)
        assert (entry.active, entry.refused, entry.health.problems) == (True, True, problems)
        ledger.toggle(1)
    with Ledger.open(tiny_model, folder, health=ms.HealthCheck()) as ledger:
        entry = ledger.toggle(1)
        assert (entry.active, entry.refused) == (True, False)


def test_a_refusal_that_cannot_be_written_is_still_said(
    tiny_model: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: LedgerBooks, entries: object) -> None:
        raise FileError("cannot write ledger.json: No space left on device.")

    before = weights(tiny_model)
    with Ledger.open(tiny_model, tmp_path / "edits", health=STRICT) as ledger:
        monkeypatch.setattr(LedgerBooks, "_save", full)
        with pytest.raises(WorkError, match=r"refused, because the change of .* No space left on device"):
            ledger.add(edit_of(tiny_model, 0))
        assert same(weights(tiny_model), before)


def test_an_editor_that_leaves_its_edit_in_the_model_is_refused_and_undone(
    tiny_model: HookedTransformer,
) -> None:
    def applies(model: HookedTransformer, batch: Sequence[ms.EditRequest]) -> ms.EditSet:
        edit = edit_of(model, 1)
        edit.apply_(model)
        return edit

    def undoes(model: HookedTransformer, batch: Sequence[ms.EditRequest]) -> ms.EditSet:
        for handle in active_edits(model):
            handle.undo()
        return edit_of(model, 1)

    with Ledger(tiny_model) as ledger:
        ledger.add(edit_of(tiny_model, 0))
        inside, active = weights(tiny_model), active_edits(tiny_model)
        for editor in (applies, undoes):
            with pytest.raises(WorkError, match="editor: expected one that leaves the model as it is"):
                ledger.write(editor, [REQUEST, REQUEST])
            assert same(weights(tiny_model), inside)
            assert active_edits(tiny_model) == active
        assert len(ledger.entries) == 1
        with pytest.raises(InputError, match="editor: expected a function such as partial.*got 'x'"):
            ledger.write("x", [REQUEST])  # type: ignore[arg-type]


def test_a_closed_ledger_is_not_exported(tiny_model: HookedTransformer, tmp_path: Path) -> None:
    with Ledger(tiny_model) as ledger:
        ledger.add(edit_of(tiny_model, 0))
    with pytest.raises(WorkError, match="ledger: it is closed"):
        ledger.export(tmp_path / "exported")
    assert not (tmp_path / "exported").exists()
