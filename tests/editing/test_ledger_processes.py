"""Several processes on one ledger: what one refuses or breaks never costs another one its edits."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from transformer_lens import HookedTransformer

import mechstyle as ms
from mechstyle.editing import ledger_lock
from mechstyle.editing.ledger import Ledger
from mechstyle.editing.ledger_files import LedgerFolder
from mechstyle.editing.ledger_lock import locked
from mechstyle.errors import FileError
from tests.editing.test_ledger import edit_of
from tests.editing.test_ledger_files import entry_file, files, three_entries
from tests.editing.test_running_sums import same, weights


@pytest.fixture
def other_model(tiny_model: HookedTransformer) -> HookedTransformer:
    return copy.deepcopy(tiny_model)


@pytest.mark.parametrize("seed", [0, 9], ids=["the same edit", "another edit"])
def test_a_refused_write_of_a_second_ledger_leaves_the_first_ones_edit(
    tiny_model: HookedTransformer, other_model: HookedTransformer, tmp_path: Path, seed: int
) -> None:
    folder = tmp_path / "edits"
    with Ledger.open(tiny_model, folder) as first, Ledger.open(other_model, folder) as second:
        added = first.add(edit_of(tiny_model, 0))
        found, inside = files(folder), weights(tiny_model)
        with pytest.raises(FileError, match="changed since this ledger was opened"):
            second.add(edit_of(other_model, seed))
        assert files(folder) == found
        assert second.entries == ()
    with Ledger.open(tiny_model, folder) as again:
        assert [entry.edit.id for entry in again.entries] == [added.edit.id]
        assert same(weights(tiny_model), inside)


def test_who_comes_in_the_middle_of_a_write_waits_and_is_refused(
    tiny_model: HookedTransformer,
    other_model: HookedTransformer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ledger_lock, "_WAIT_SECONDS", 0.05)
    folder, save_edit, refused = tmp_path / "edits", LedgerFolder.save_edit, []
    first, second = Ledger.open(tiny_model, folder), Ledger.open(other_model, folder)

    def interrupted(self: LedgerFolder, *args: object) -> None:
        save_edit(self, *args)  # type: ignore[arg-type]
        with monkeypatch.context() as patch:
            patch.setattr(LedgerFolder, "save_edit", save_edit)
            with pytest.raises(FileError, match="another process is writing there"):
                second.add(edit_of(other_model, 3))
            refused.append(files(folder))

    monkeypatch.setattr(LedgerFolder, "save_edit", interrupted)
    added = first.add(edit_of(tiny_model, 0))
    assert len(refused) == 1
    first.close()
    assert [entry.edit.id for entry in Ledger.open(tiny_model, folder).entries] == [added.edit.id]


def test_the_lock_is_let_go_after_success_and_failure(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), locked(tmp_path):
        raise KeyboardInterrupt
    with locked(tmp_path):
        pass
    with pytest.raises(FileError, match="cannot write .*absent"), locked(tmp_path / "absent"):
        pass


def test_a_ledger_whose_files_have_the_old_names_opens_and_goes_on(
    tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    folder = three_entries(tiny_model, tmp_path / "edits")
    with Ledger.open(tiny_model, folder):
        inside = weights(tiny_model)
    data = json.loads((folder / "ledger.json").read_text(encoding="utf-8"))
    for entry in data["entries"]:
        old = entry_file(folder, entry["number"])
        entry["file"] = f"entries/{entry['number']:04d}.safetensors"
        old.rename(folder / entry["file"])
    (folder / "ledger.json").write_text(json.dumps(data), encoding="utf-8")
    with Ledger.open(tiny_model, folder) as ledger:
        assert same(weights(tiny_model), inside)
        ledger.toggle(2)
        ledger.remove(3)
        four = ledger.add(edit_of(tiny_model, 5)).edit.id
        inside = weights(tiny_model)
    names = {"entries/0001.safetensors", "entries/0002.safetensors", f"entries/0004-{four[:12]}.safetensors"}
    assert set(files(folder)) == {"ledger.json", *names}
    with Ledger.open(tiny_model, folder):
        assert same(weights(tiny_model), inside)


@pytest.mark.parametrize("name", ["../0001.safetensors", "entries/../0001.safetensors", "entries/a.txt", 3])
def test_an_entry_whose_file_lies_elsewhere_is_refused(
    tiny_model: HookedTransformer, tmp_path: Path, name: object
) -> None:
    folder = three_entries(tiny_model, tmp_path / "edits")
    data = json.loads((folder / "ledger.json").read_text(encoding="utf-8"))
    data["entries"][0]["file"] = name
    (folder / "ledger.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(FileError, match="entries are incomplete"):
        Ledger.open(tiny_model, folder)
    assert ms.fingerprint(tiny_model) == data["fingerprint"]
