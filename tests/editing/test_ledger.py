"""The ledger: the original plus the active entries in order, bit for bit, whatever came and went."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformer_lens import HookedTransformer

import mechstyle as ms
from mechstyle.editing.application import active_edits, active_ids, put_first
from mechstyle.editing.ledger import Ledger, LedgerEntry
from mechstyle.errors import InputError, ModelError, WorkError
from mechstyle.models import active_base
from tests.editing.test_running_sums import BIAS, HEADS, MATRIX, same, slow_sums, weight_edit, weights

REQUEST = ms.EditRequest(ms.Fact("{} plays the", "Miles Davis", " trumpet"), " guitar")
DTYPES = (torch.float32, torch.bfloat16, torch.float64)


def edit_of(
    model: HookedTransformer, seed: int, *below: str, names: tuple[str, ...] = (MATRIX,)
) -> ms.EditSet:
    edits = tuple(weight_edit(model, name, seed) for name in names)
    settings = {"method": "random", "on_top_of": list(below)}
    return ms.EditSet(edits, ms.fingerprint(model), {"settings": settings}, (REQUEST,))


def moved(ledger: Ledger, edits: list[ms.EditSet], chance: random.Random) -> None:
    """One step that somebody could take."""
    step = chance.choice(["add", "add", "toggle", "remove", "undo"])
    numbers = [entry.number for entry in ledger.entries]
    if step == "add" or not numbers:
        ledger.add(chance.choice(edits))
    elif step == "toggle":
        ledger.toggle(chance.choice(numbers), chance.choice([None, None, True, False]))
    elif step == "remove":
        ledger.remove(chance.choice(numbers))
    elif any(entry.active for entry in ledger.entries):
        ledger.undo()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_after_any_sequence_the_bits_are_those_of_a_fresh_ledger_and_closing_brings_the_original_back(
    tiny_folder: Path, dtype: torch.dtype
) -> None:
    model = ms.load_model(tiny_folder, dtype=dtype)
    before = weights(model)
    edits = [edit_of(model, seed, names=(MATRIX, BIAS, HEADS)[seed % 2 : 2 + seed % 2]) for seed in range(6)]
    for seed in range(67):  # 201 sequences in all
        chance = random.Random(seed)
        with Ledger(model) as ledger:
            for _ in range(chance.randint(1, 7)):
                moved(ledger, edits, chance)
            inside = weights(model)
            active = [entry.edit for entry in ledger.entries if entry.active]
        assert same(weights(model), before)
        assert active_base(model) == {}
        with Ledger(model) as fresh:
            for edit in active:
                fresh.add(edit)
            assert same(weights(model), inside)
        if seed % 10 == 0:
            assert same(inside, slow_sums(before, [list(edit.edits) for edit in active]))


def test_an_entry_that_is_switched_on_again_comes_back_to_its_place_and_not_to_the_end(
    tiny_model: HookedTransformer,
) -> None:
    with Ledger(tiny_model) as ledger:
        first, second, third = (ledger.add(edit_of(tiny_model, seed)).edit.id for seed in range(3))
        inside = weights(tiny_model)
        assert not ledger.toggle(1).active
        assert active_ids(tiny_model) == (second, third)
        assert ledger.toggle(1).active
        assert active_ids(tiny_model) == (first, second, third)
        assert same(weights(tiny_model), inside)


def test_entries_are_numbered_and_a_number_is_never_used_again(tiny_model: HookedTransformer) -> None:
    with Ledger(tiny_model) as ledger:
        added = [ledger.add(edit_of(tiny_model, seed), name=f"edit {seed}") for seed in range(3)]
        assert [entry.number for entry in added] == [1, 2, 3]
        assert ledger.remove(2).name == "edit 1"
        gone = ledger.undo()
        assert (gone.number, gone.active) == (3, False)
        assert ledger.add(edit_of(tiny_model, 9)).number == 4
        assert [entry.number for entry in ledger.entries] == [1, 4]
        assert ledger.entries[0].requests == (REQUEST,)


def test_undo_passes_over_entries_that_are_switched_off(tiny_model: HookedTransformer) -> None:
    with Ledger(tiny_model) as ledger:
        for seed in range(3):
            ledger.add(edit_of(tiny_model, seed))
        ledger.toggle(3)
        assert ledger.undo().number == 2
        assert [(entry.number, entry.active) for entry in ledger.entries] == [(1, True), (3, False)]
        ledger.undo()
        with pytest.raises(InputError, match="expected an active entry to undo, but none is active"):
            ledger.undo()


def test_switching_to_the_state_it_has_does_nothing(tiny_model: HookedTransformer) -> None:
    with Ledger(tiny_model) as ledger:
        entry = ledger.add(edit_of(tiny_model, 0))
        assert ledger.toggle(1, active=True) == entry
        handles = active_edits(tiny_model)
        ledger.toggle(1, active=True)
        assert active_edits(tiny_model) == handles


def test_an_entry_is_stale_while_what_it_was_computed_on_is_not_active_before_it(
    tiny_model: HookedTransformer,
) -> None:
    def stale() -> list[int]:
        return [entry.number for entry in ledger.entries if entry.stale]

    with Ledger(tiny_model) as ledger:
        one = ledger.add(edit_of(tiny_model, 0)).edit.id
        two = ledger.add(edit_of(tiny_model, 1, one)).edit.id
        ledger.add(edit_of(tiny_model, 2, one, two))
        ledger.add(edit_of(tiny_model, 3))
        assert stale() == []
        ledger.toggle(2)
        assert stale() == [3]
        ledger.toggle(1)
        assert stale() == [2, 3]
        ledger.toggle(2)
        ledger.toggle(1)
        assert stale() == []
        ledger.remove(1)
        assert stale() == [2, 3]
        ledger.add(edit_of(tiny_model, 0))  # the same again, but after them
        assert stale() == [2, 3]


def test_an_entry_that_was_computed_on_top_of_an_edit_by_hand_is_stale_without_that(
    tiny_model: HookedTransformer,
) -> None:
    by_hand = edit_of(tiny_model, 7)
    with Ledger(tiny_model) as ledger:
        with by_hand.applied(tiny_model):
            assert not ledger.add(edit_of(tiny_model, 0, by_hand.id)).stale
        assert ledger.entries[0].stale


def test_an_edit_without_settings_is_never_stale(tiny_model: HookedTransformer) -> None:
    bare = ms.EditSet((weight_edit(tiny_model, MATRIX, 0),), ms.fingerprint(tiny_model))
    with Ledger(tiny_model) as ledger:
        assert not ledger.add(bare).stale


def test_edits_by_hand_stand_after_all_entries_in_their_own_order(tiny_model: HookedTransformer) -> None:
    before = weights(tiny_model)
    early, late = edit_of(tiny_model, 20).apply_(tiny_model), edit_of(tiny_model, 21, names=(MATRIX, BIAS))
    ledger = Ledger(tiny_model)
    one = ledger.add(edit_of(tiny_model, 0)).edit
    handle = late.apply_(tiny_model)
    two = ledger.add(edit_of(tiny_model, 1)).edit
    assert active_ids(tiny_model) == (one.id, two.id, early.id, late.id)
    expected = slow_sums(before, [list(edits.edits) for edits in (one, two, early, late)])
    assert same(weights(tiny_model), expected)
    ledger.toggle(1)
    early.undo()
    assert same(weights(tiny_model), slow_sums(before, [list(two.edits), list(late.edits)]))
    ledger.close()
    assert same(weights(tiny_model), slow_sums(before, [list(late.edits)]))
    handle.undo()
    assert same(weights(tiny_model), before)


def test_merged_entries_write_the_same_bits_and_can_be_saved(
    tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    with Ledger(tiny_model) as ledger:
        for seed in range(4):
            ledger.add(edit_of(tiny_model, seed, names=(MATRIX, HEADS)))
        ledger.toggle(2)
        inside, merged = weights(tiny_model), ledger.merged()
        ledger.export(tmp_path / "exported")
    loaded = ms.load_edit(merged.save(tmp_path / "merged.safetensors"))
    assert len(loaded.requests) == 3
    with loaded.applied(tiny_model):
        assert same(weights(tiny_model), inside)
    exported = weights(ms.load_model(tmp_path / "exported"))
    assert torch.equal(exported[MATRIX], inside[MATRIX])
    assert not torch.equal(exported[MATRIX], weights(tiny_model)[MATRIX])


def test_what_is_empty_cannot_be_merged(tiny_model: HookedTransformer) -> None:
    with pytest.raises(InputError, match="expected an active entry to merge"):
        Ledger(tiny_model).merged()


def test_the_frame_has_a_row_for_each_entry(tiny_model: HookedTransformer) -> None:
    with Ledger(tiny_model) as ledger:
        assert list(ledger.frame()["number"]) == []
        ledger.add(edit_of(tiny_model, 0, names=(MATRIX, BIAS)), name="first")
        ledger.add(edit_of(tiny_model, 1, "unknown"))
        ledger.toggle(1)
        frame = ledger.frame().set_index("number")
        assert frame.loc[1, ["name", "method", "requests", "active"]].tolist() == [
            "first",
            "random",
            1,
            False,
        ]
        assert frame.loc[1, "parameters"] == f"{MATRIX}, {BIAS}"
        assert frame["stale"].tolist() == [False, True]
        live, base = weights(tiny_model)[MATRIX].double(), active_base(tiny_model)[MATRIX].double()
        assert ledger.interactions().empty
        ledger.remove(1)
        expected = float((live - base).norm() / base.norm())
        entry = ledger.toggle(ledger.add(edit_of(tiny_model, 2)).number, active=False)
        assert entry.health.perplexity is None
        assert ledger.toggle(2, active=False) == ledger.entries[0]
        assert ledger.toggle(2, active=True).health.delta_ratio == pytest.approx(expected, rel=1e-12)


def test_a_number_that_is_not_there_is_refused(tiny_model: HookedTransformer) -> None:
    with Ledger(tiny_model) as ledger:
        with pytest.raises(InputError, match=r"of an entry \(none: the ledger is empty\), got 1"):
            ledger.remove(1)
        ledger.add(edit_of(tiny_model, 0))
        for wrong in (2, 0, True, "1"):
            with pytest.raises(InputError, match=r"number: expected that of an entry \(1\), got"):
                ledger.toggle(wrong)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="active: expected True, False or None, got 'no'"):
            ledger.toggle(1, active="no")  # type: ignore[arg-type]


def test_what_is_no_edit_or_of_another_model_is_refused(tiny_model: HookedTransformer) -> None:
    before = weights(tiny_model)
    with Ledger(tiny_model) as ledger:
        with pytest.raises(InputError, match="edit: expected an EditSet, got str"):
            ledger.add("edit.safetensors")  # type: ignore[arg-type]
        with pytest.raises(InputError, match="name: expected text or None, got int"):
            ledger.add(edit_of(tiny_model, 0), name=3)  # type: ignore[arg-type]
        foreign = ms.EditSet(edit_of(tiny_model, 0).edits, "0123456789abcdef")
        with pytest.raises(ModelError, match="fingerprint 0123456789ab"):
            ledger.add(foreign)
        assert ledger.entries == ()
        assert same(weights(tiny_model), before)
    with pytest.raises(InputError, match="health: expected a HealthCheck or None, got float"):
        Ledger(tiny_model, health=0.5)  # type: ignore[arg-type]


def test_a_closed_ledger_can_be_read_but_not_changed(tiny_model: HookedTransformer) -> None:
    with Ledger(tiny_model) as ledger:
        ledger.add(edit_of(tiny_model, 0))
    ledger.close()
    assert len(ledger.frame()) == 1
    changes: list[Callable[[], object]] = [
        lambda: ledger.add(edit_of(tiny_model, 1)),
        lambda: ledger.toggle(1),
        lambda: ledger.remove(1),
        ledger.undo,
        lambda: ledger.write(lambda model, batch: edit_of(tiny_model, 1), [REQUEST]),
    ]
    for change in changes:
        with pytest.raises(WorkError, match="ledger: it is closed"):
            change()


def test_a_second_ledger_on_a_model_is_refused_while_the_first_has_edits_in_it(
    tiny_model: HookedTransformer,
) -> None:
    first, empty = Ledger(tiny_model), Ledger(tiny_model)
    first.add(edit_of(tiny_model, 0))
    for refused in (lambda: Ledger(tiny_model), lambda: empty.add(edit_of(tiny_model, 1))):
        with pytest.raises(ModelError, match="another ledger's edits are active"):
            refused()
    first.close()
    assert empty.add(edit_of(tiny_model, 1)).active


@pytest.mark.parametrize("how", ["undone", "moved"])
def test_a_ledger_notices_when_somebody_else_moved_its_edits(tiny_model: HookedTransformer, how: str) -> None:
    before = weights(tiny_model)
    ledger = Ledger(tiny_model)
    ledger.add(edit_of(tiny_model, 0))
    ledger.add(edit_of(tiny_model, 1))
    last = active_edits(tiny_model)[-1]
    if how == "undone":
        last.undo()
    else:
        put_first(tiny_model, [last])
    with pytest.raises(WorkError, match=r"not in the model's weights as it put them there.*Close the ledger"):
        ledger.undo()
    ledger.close()
    assert same(weights(tiny_model), before)


def test_a_copy_of_an_edited_model_is_a_model_of_its_own(tiny_model: HookedTransformer) -> None:
    with Ledger(tiny_model) as ledger:
        ledger.add(edit_of(tiny_model, 0))
        other = copy.deepcopy(tiny_model)
        inside = weights(tiny_model)
    assert same(weights(other), inside)
    for handle in active_edits(other):
        handle.undo()
    assert same(weights(other), weights(tiny_model))


def test_entries_are_frozen(tiny_model: HookedTransformer) -> None:
    with Ledger(tiny_model) as ledger:
        entry: LedgerEntry = ledger.add(edit_of(tiny_model, 0))
        with pytest.raises(AttributeError):
            entry.active = False  # type: ignore[misc]
