"""A ledger that is broken off in the middle of a change is as it was before, in weights and in files."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from transformer_lens import HookedTransformer

import mechstyle as ms
from mechstyle.editing import application, ledger_books
from mechstyle.editing.application import active_edits
from mechstyle.editing.ledger import Ledger
from mechstyle.editing.ledger_files import LedgerFolder
from tests.editing.test_ledger import edit_of
from tests.editing.test_ledger_files import files, three_entries
from tests.editing.test_running_sums import BIAS, MATRIX, same, weights


@pytest.fixture
def folder(tiny_model: HookedTransformer, tmp_path: Path) -> Path:
    return three_entries(tiny_model, tmp_path / "edits")


STEPS: dict[str, tuple[tuple[object, str], ...]] = {
    "the weights": ((application, "_write"), (application, "_record")),
    "the check": ((ledger_books, "measure_health"),),
    "an entry's file": ((LedgerFolder, "save_edit"),),
    "the ledger's file": ((LedgerFolder, "save"), (LedgerFolder, "_write")),
}
"""What a change does, in words, and the functions that do it."""
CHANGES: dict[str, tuple[Callable[[Ledger, ms.EditSet], object], set[str]]] = {
    "add": (lambda ledger, new: ledger.add(new), set(STEPS)),
    "toggle on": (lambda ledger, new: ledger.toggle(2), set(STEPS) - {"an entry's file"}),
    "toggle off": (lambda ledger, new: ledger.toggle(1), {"the weights", "the ledger's file"}),
    "remove": (lambda ledger, new: ledger.remove(1), {"the weights", "the ledger's file"}),
    "undo": (lambda ledger, new: ledger.undo(), {"the weights", "the ledger's file"}),
}
"""Changes by name, and their steps."""


@pytest.mark.parametrize("after", [False, True], ids=["before it", "after it"])
@pytest.mark.parametrize(
    ("change", "step"), [(name, step) for name in CHANGES for step in sorted(CHANGES[name][1])]
)
def test_an_exception_at_any_step_leaves_weights_entries_and_files_as_before(
    tiny_model: HookedTransformer,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    step: str,
    after: bool,
) -> None:
    original = weights(tiny_model)
    ledger = Ledger.open(tiny_model, folder)
    new = edit_of(tiny_model, 9, names=(MATRIX, BIAS))
    inside, found, entries = weights(tiny_model), files(folder), ledger.entries
    for where, name in STEPS[step]:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            _break_off(patch, where, name, after)
            CHANGES[change][0](ledger, new)
        assert same(weights(tiny_model), inside)
        assert files(folder) == found
        assert ledger.entries == entries
    CHANGES[change][0](ledger, new)
    inside = weights(tiny_model)
    ledger.close()
    assert same(weights(tiny_model), original)
    Ledger.open(tiny_model, folder)
    assert same(weights(tiny_model), inside)


@pytest.mark.parametrize("after", [False, True], ids=["before it", "after it"])
@pytest.mark.parametrize(("where", "name"), [*STEPS["the weights"], (LedgerFolder, "load")])
def test_an_exception_at_any_step_of_opening_leaves_weights_and_files_as_before(
    tiny_model: HookedTransformer,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: object,
    name: str,
    after: bool,
) -> None:
    original, found = weights(tiny_model), files(folder)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        _break_off(patch, where, name, after)
        Ledger.open(tiny_model, folder)
    assert same(weights(tiny_model), original)
    assert active_edits(tiny_model) == ()
    assert files(folder) == found


def test_a_new_folder_that_cannot_be_filled_is_not_there(
    tiny_model: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        _break_off(patch, Path, "write_text", after=True)
        Ledger.open(tiny_model, tmp_path / "edits")
    assert list(tmp_path.iterdir()) == []


def _break_off(patch: pytest.MonkeyPatch, where: object, name: str, after: bool) -> None:
    """Let a function be broken off on its first call, before or after it did its work."""
    function, calls = getattr(where, name), itertools.count()

    def failing(*args: object, **named: object) -> object:
        if next(calls) > 0:
            return function(*args, **named)
        if after:
            function(*args, **named)
        raise KeyboardInterrupt

    patch.setattr(where, name, failing)
