"""Many entries: what is known is not looked at again, and what one edit of all says stays short."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from transformer_lens import HookedTransformer

import mechstyle as ms
from mechstyle.editing import ledger_books
from mechstyle.editing.application import active_ids
from mechstyle.editing.ledger import Ledger
from mechstyle.editing.ledger_entries import with_stale
from tests.editing.test_ledger import edit_of, moved


def test_what_is_stale_is_found_once_and_is_what_a_fresh_look_finds(
    tiny_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    edits = [edit_of(tiny_model, 0)]
    for seed in range(1, 6):
        edits.append(edit_of(tiny_model, seed, *(edit.id for edit in edits[: seed % 4])))
    for seed in range(8):
        chance = random.Random(seed)
        with Ledger(tiny_model) as ledger:
            for _ in range(8):
                moved(ledger, edits, chance)
                bare = [replace(entry, stale=False) for entry in ledger.entries]
                assert ledger.entries == with_stale(bare, [])
            with monkeypatch.context() as patch:
                patch.setattr(ledger_books, "with_stale", lambda *_: pytest.fail("looked again"))
                assert len(ledger.entries) == len(bare)


def test_ids_that_entries_share_are_kept_once(tiny_model: HookedTransformer, tmp_path: Path) -> None:
    with Ledger.open(tiny_model, tmp_path / "edits") as ledger:
        for seed in range(3):
            ledger.add(edit_of(tiny_model, seed, *active_ids(tiny_model)))
    with Ledger.open(tiny_model, tmp_path / "edits") as ledger:
        ids = [entry.edit.id for entry in ledger.entries]
        below = [entry.edit.provenance["settings"]["on_top_of"] for entry in ledger.entries]
        assert below == [[], ids[:1], ids[:2]]
        assert below[1][0] is below[2][0]


@pytest.mark.parametrize("second", [False, True])
def test_merged_entries_keep_what_they_agree_on(tiny_model: HookedTransformer, second: bool) -> None:
    with Ledger(tiny_model) as ledger:
        for bos in (False, second):
            edit = edit_of(tiny_model, int(bos), *active_ids(tiny_model))
            settings = {**edit.provenance["settings"], "prepend_bos": bos}
            ledger.add(ms.EditSet(edit.edits, edit.fingerprint, {"settings": settings}, edit.requests))
        merged = ledger.merged().provenance
    assert merged["versions"]["mechstyle"] == ms.__version__
    assert merged["settings"].get("prepend_bos") == (None if second else False)
    assert [sorted(part["provenance"]["settings"]) for part in merged["settings"]["merged"]] == [
        ["method", "prepend_bos"]
    ] * 2
