"""A ledger on disk: comes back bit for bit, refuses what is not its own, changes as a whole or not at all."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformer_lens import HookedTransformer

import mechstyle as ms
from mechstyle.editing.application import active_edits
from mechstyle.editing.ledger import Ledger
from mechstyle.editing.ledger_lock import LOCK
from mechstyle.errors import FileError, ModelError
from tests.editing.test_ledger import edit_of, moved
from tests.editing.test_running_sums import BIAS, MATRIX, same, weight_edit, weights


def files(folder: Path) -> dict[str, bytes]:
    """Every file's bytes, but for the empty one that is locked; none for a folder that is not there."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def entry_file(folder: Path, number: int) -> Path:
    """Where an entry's edit is."""
    entries = json.loads((folder / "ledger.json").read_text(encoding="utf-8"))["entries"]
    return folder / str(next(one["file"] for one in entries if one["number"] == number))


def three_entries(model: HookedTransformer, folder: Path) -> Path:
    """Write a ledger whose second entry is switched off, and close it."""
    with Ledger.open(model, folder) as ledger:
        one = ledger.add(edit_of(model, 0), name="first").edit.id
        ledger.add(edit_of(model, 1, one, names=(MATRIX, BIAS)))
        ledger.add(edit_of(model, 2, one))
        ledger.toggle(2)
    return folder


@pytest.fixture
def folder(tiny_model: HookedTransformer, tmp_path: Path) -> Path:
    return three_entries(tiny_model, tmp_path / "edits")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_a_ledger_comes_back_from_disk_after_any_sequence_bit_for_bit(
    tiny_folder: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    model = ms.load_model(tiny_folder, dtype=dtype, check_parity=False)
    before, chance = weights(model), random.Random(1)
    edits = [edit_of(model, seed) for seed in range(5)]
    for _ in range(6):
        with Ledger.open(model, tmp_path / "edits") as ledger:
            for _ in range(4):
                moved(ledger, edits, chance)
            inside, frame, last = weights(model), ledger.frame(), ledger.entries
        assert same(weights(model), before)
        with Ledger.open(model, tmp_path / "edits") as again:
            assert same(weights(model), inside)
            assert again.frame().equals(frame)
            assert [entry.edit.id for entry in again.entries] == [entry.edit.id for entry in last]
        listed = {f"entries/{entry.number:04d}-{entry.edit.id[:12]}.safetensors" for entry in last}
        assert set(files(tmp_path / "edits")) == {"ledger.json", *listed}


def test_numbers_are_not_used_again_after_opening_either(tiny_model: HookedTransformer, folder: Path) -> None:
    with Ledger.open(tiny_model, folder) as ledger:
        assert [entry.name for entry in ledger.entries] == ["first", None, None]
        ledger.remove(3)
    with Ledger.open(tiny_model, folder) as ledger:
        assert ledger.add(edit_of(tiny_model, 5)).number == 4


def test_the_file_names_the_model_the_format_and_each_entry(
    tiny_model: HookedTransformer, folder: Path
) -> None:
    data = json.loads((folder / "ledger.json").read_text(encoding="utf-8"))
    assert (data["kind"], data["format"]) == ("mechstyle ledger", 1)
    assert data["fingerprint"] == ms.fingerprint(tiny_model)
    assert [entry["active"] for entry in data["entries"]] == [True, False, True]
    first = data["entries"][0]
    assert first["file"] == f"entries/0001-{first['id'][:12]}.safetensors"
    assert first["id"] == ms.load_edit(folder / first["file"]).id


def test_keys_come_back_with_an_edit(tiny_model: HookedTransformer, tmp_path: Path) -> None:
    plain = weight_edit(tiny_model, MATRIX, 0)
    keys = torch.randn(3, plain.shape[0], dtype=torch.float64)
    keyed = ms.WeightEdit(MATRIX, plain.left, plain.right, keys)
    edit = ms.EditSet((keyed,), ms.fingerprint(tiny_model))
    assert edit.id == ms.EditSet((plain,), ms.fingerprint(tiny_model)).id
    with Ledger.open(tiny_model, tmp_path / "edits") as ledger:
        ledger.add(edit)
    with Ledger.open(tiny_model, tmp_path / "edits"):
        found = active_edits(tiny_model)[0].edits[0].keys
        assert found is not None
        assert torch.equal(found, keys)


def test_a_cast_of_the_model_may_open_it_another_model_may_not(
    tiny_folder: Path, folder: Path, random_gpt2: Callable[..., object], tiny_model: HookedTransformer
) -> None:
    with Ledger.open(ms.load_model(tiny_folder, dtype=torch.bfloat16), folder) as ledger:
        assert len(ledger.entries) == 3
    other = ms.load_model(
        random_gpt2(len(tiny_model.tokenizer), seed=1),  # type: ignore[arg-type]
        tokenizer=tiny_model.tokenizer,
    )
    before, found = weights(other), files(folder)
    message = f"fingerprint {ms.fingerprint(tiny_model)[:12]}.*got another .{ms.fingerprint(other)[:12]}"
    with pytest.raises(ModelError, match=message):
        Ledger.open(other, folder)
    assert same(weights(other), before)
    assert files(folder) == found


def _changed(text: str, name: str, value: object) -> str:
    return json.dumps({**json.loads(text), name: value})


def _entry_changed(text: str, name: str, value: object) -> str:
    data = json.loads(text)
    data["entries"][0][name] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda text: text[: len(text) // 2], "cut short or no JSON"),
        (lambda text: "", "cut short or no JSON"),
        (lambda text: "[1, 2]", "expected a ledger of mechstyle, got other JSON"),
        (lambda text: '{"kind": "study"}', "expected a ledger of mechstyle"),
        (lambda text: _changed(text, "format", 7), "expected format 1, got 7"),
        (lambda text: _changed(text, "entries", [{"number": 1}]), "entries are incomplete"),
        (lambda text: _changed(text, "entries", 3), "entries are incomplete"),
        (lambda text: _changed(text, "next_number", 2), "entries are incomplete"),
        (lambda text: _entry_changed(text, "number", 2), "entries are incomplete"),
        (lambda text: _entry_changed(text, "health", {}), "entries are incomplete"),
        (lambda text: _entry_changed(text, "id", "0" * 64), "expected the edit 000000000000 of entry 1"),
    ],
)
def test_a_ledger_file_that_is_cut_foreign_or_of_another_format_is_refused(
    tiny_model: HookedTransformer, folder: Path, broken: Callable[[str], str], message: str
) -> None:
    before, path = weights(tiny_model), folder / "ledger.json"
    path.write_text(broken(path.read_text(encoding="utf-8")), encoding="utf-8")
    found = files(folder)
    with pytest.raises(FileError, match=message):
        Ledger.open(tiny_model, folder)
    assert same(weights(tiny_model), before)
    assert files(folder) == found


def test_a_file_of_an_entry_that_is_missing_cut_or_another_one_is_refused(
    tiny_model: HookedTransformer, folder: Path
) -> None:
    before, path = weights(tiny_model), entry_file(folder, 3)
    good = path.read_bytes()
    path.write_bytes(good[:-9])
    with pytest.raises(FileError, match=r"0003-.*.safetensors: it is damaged"):
        Ledger.open(tiny_model, folder)
    shutil.copy(entry_file(folder, 1), path)
    with pytest.raises(FileError, match=r"0003-.*.safetensors: expected the edit .* of entry 3.* replaced"):
        Ledger.open(tiny_model, folder)
    path.unlink()
    with pytest.raises(FileError, match=r"0003-.*.safetensors: expected a file there"):
        Ledger.open(tiny_model, folder)
    assert same(weights(tiny_model), before)
    path.write_bytes(good)
    Ledger.open(tiny_model, folder).close()


def test_a_folder_that_is_something_else_is_refused_and_left_alone(
    tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(FileError, match=r"expected a ledger or a new folder, but .*notes holds no ledger"):
        Ledger.open(tiny_model, tmp_path / "notes")
    assert files(tmp_path) == {"notes/a.txt": b"mine"}
    with pytest.raises(FileError, match="holds no ledger.json"):
        Ledger.open(tiny_model, tmp_path / "notes" / "a.txt")
    with pytest.raises(FileError, match="does not exist. Create it first"):
        Ledger.open(tiny_model, tmp_path / "absent" / "edits")
    (tmp_path / "empty").mkdir()
    Ledger.open(tiny_model, tmp_path / "empty").close()
    assert list(files(tmp_path / "empty")) == ["ledger.json"]


def test_a_ledger_that_somebody_else_changed_is_not_overwritten(
    tiny_model: HookedTransformer, folder: Path
) -> None:
    with Ledger.open(tiny_model, folder) as ledger:
        path, inside = folder / "ledger.json", weights(tiny_model)
        path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
        found = files(folder)
        for change in (
            lambda: ledger.add(edit_of(tiny_model, 8)),
            lambda: ledger.toggle(1),
            lambda: ledger.remove(1),
        ):
            with pytest.raises(FileError, match="changed since this ledger was opened"):
                change()
        assert files(folder) == found
        assert same(weights(tiny_model), inside)
        assert [entry.active for entry in ledger.entries] == [True, False, True]


def test_what_a_killed_process_left_is_tidied_at_the_next_change(
    tiny_model: HookedTransformer, folder: Path
) -> None:
    good, ours = entry_file(folder, 1).read_bytes(), set(files(folder))
    for name in ("0004.safetensors", ".0004.safetensors.0123456789ab.part", "0900-0123456789ab.safetensors"):
        (folder / "entries" / name).write_bytes(good)
    (folder / "entries/notes.txt").write_text("mine")
    with Ledger.open(tiny_model, folder) as ledger:
        assert len(ledger.entries) == 3
        assert len(files(folder)) == 8
        ledger.toggle(1)
        assert set(files(folder)) == {"entries/notes.txt", *ours}
