"""The same call on a ledger that has changed in between: nothing is written twice, nothing is passed over."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import pytest
from transformer_lens import HookedTransformer

import mechstyle as ms
from mechstyle.editing.ledger import Ledger
from mechstyle.editing.ledger_batches import LedgerWarning, unknown_part
from mechstyle.errors import InputError, WorkError
from tests.editing.test_ledger_write import REQUESTS, turned


class Stateful:
    """An editor that may change."""

    def __call__(self, model: HookedTransformer, batch: Sequence[ms.EditRequest]) -> ms.EditSet:
        return turned(model, batch)

    def method(self, model: HookedTransformer, batch: Sequence[ms.EditRequest]) -> ms.EditSet:
        return turned(model, batch)


def test_an_editor_without_a_name_of_its_own_is_not_taken_for_the_one_that_wrote(
    tiny_model: HookedTransformer,
) -> None:
    def local(model: HookedTransformer, batch: Sequence[ms.EditRequest]) -> ms.EditSet:
        return turned(model, batch)

    unknown = [lambda model, batch: turned(model, batch), local, Stateful(), Stateful().method]
    for editor in (*unknown, functools.partial(unknown[0])):
        with Ledger(tiny_model) as ledger:
            ledger.write(editor, REQUESTS[:1])
            with pytest.raises(InputError, match=r"cannot be told from another editor .* or editor_name="):
                ledger.write(editor, REQUESTS[:2], batch_size=1)
            ledger.write(editor, REQUESTS[1:2], editor_name="mine")
            assert [one.number for one in ledger.write(local, REQUESTS[1:2], editor_name="mine")] == [2]
            assert [one.editor for one in ledger.entries][1:] == ["mine"]
    for named in (turned, functools.partial(turned, size=1.0), ms.memit, functools.partial(ms.EditSet)):
        assert unknown_part(named) is None
    assert unknown_part(functools.partial(turned, size=local)) == unknown_part(local)
    with Ledger(tiny_model) as ledger, pytest.raises(InputError, match="editor_name: expected some text"):
        ledger.write(turned, REQUESTS[:1], editor_name="")


def test_after_a_removal_the_same_call_writes_only_what_is_missing(tiny_model: HookedTransformer) -> None:
    with Ledger(tiny_model) as ledger:
        ledger.write(turned, REQUESTS[:3], batch_size=1)
        ledger.remove(2)
        entries = ledger.write(turned, REQUESTS[:3], batch_size=1)
        assert [entry.number for entry in entries] == [1, 3, 4]
        assert entries[2].requests == REQUESTS[1:2]
        ledger.toggle(3)
        with pytest.warns(LedgerWarning, match="are switched off: 3; switch them on"):
            ledger.write(turned, REQUESTS[:3], batch_size=1)
        assert [entry.number for entry in ledger.entries] == [1, 3, 4]


def test_an_edit_that_is_refused_again_takes_the_place_of_its_refusal(
    tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    check = ms.HealthCheck(max_delta_ratio=1e-9)
    with Ledger.open(tiny_model, tmp_path / "edits", health=check) as ledger:
        for number in (1, 2):
            with pytest.raises(WorkError, match=f"refused as entry {number}"):
                ledger.write(turned, REQUESTS[:1])
            assert [entry.number for entry in ledger.entries] == [number]
    with Ledger.open(tiny_model, tmp_path / "edits") as ledger:
        assert [entry.number for entry in ledger.write(turned, REQUESTS[:1])] == [3]
        assert [entry.active for entry in ledger.entries] == [True]
    assert len(list((tmp_path / "edits" / "entries").iterdir())) == 1


def test_an_edit_that_was_given_does_not_count_as_written(tiny_model: HookedTransformer) -> None:
    with Ledger(tiny_model) as ledger:
        given = turned(tiny_model, REQUESTS[:1])
        ledger.add(ms.EditSet(given.edits, given.fingerprint, requests=REQUESTS[:1]))
        for _ in range(2):
            assert [entry.number for entry in ledger.write(turned, REQUESTS[:1])] == [2]
