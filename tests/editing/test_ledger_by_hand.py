"""Weights that were changed by hand while a ledger is open are not overwritten in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformer_lens import HookedTransformer

import mechstyle as ms
from mechstyle.editing.application import changed_by_hand
from mechstyle.editing.ledger import Ledger
from mechstyle.editing.ledger_batches import LedgerWarning
from mechstyle.errors import WorkError
from tests.editing.test_ledger import DTYPES, edit_of
from tests.editing.test_running_sums import BIAS, HEADS, MATRIX, same, weights


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_change_is_refused_and_closing_brings_the_original_back_with_a_warning(
    tiny_folder: Path, dtype: torch.dtype
) -> None:
    model = ms.load_model(tiny_folder, dtype=dtype, check_parity=False)
    before = weights(model)
    ledger = Ledger(model)
    ledger.add(edit_of(model, 0, names=(MATRIX, BIAS)))
    with torch.no_grad():
        model.get_parameter(MATRIX)[0, 0] += 0.5
    inside = weights(model)
    changes: list[Callable[[], object]] = [
        lambda: ledger.add(edit_of(model, 1)),
        lambda: ledger.toggle(1),
        lambda: ledger.remove(1),
        ledger.undo,
    ]
    for change in changes:
        with pytest.raises(WorkError, match=f"the weights of {MATRIX} were changed by hand"):
            change()
        assert same(weights(model), inside)
    assert [entry.number for entry in ledger.entries] == [1]
    with pytest.warns(LedgerWarning, match=f"the weights of {MATRIX} were changed by hand"):
        ledger.close()
    assert same(weights(model), before)
    ledger.close()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_edits_came_to_is_no_change_by_hand(tiny_folder: Path, dtype: torch.dtype) -> None:
    model = ms.load_model(tiny_folder, dtype=dtype, check_parity=False)
    with Ledger(model) as ledger, edit_of(model, 9, names=(MATRIX, HEADS)).applied(model):
        for seed in range(4):
            ledger.add(edit_of(model, seed, names=(MATRIX, BIAS, HEADS)))
            assert changed_by_hand(model) == ()
        ledger.toggle(2)
        ledger.remove(1)
        assert changed_by_hand(model) == ()
    assert changed_by_hand(model) == ()


def test_weights_that_are_put_back_may_be_changed_again(tiny_model: HookedTransformer) -> None:
    with Ledger(tiny_model) as ledger:
        ledger.add(edit_of(tiny_model, 0))
        weight = tiny_model.get_parameter(MATRIX)
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.zero_()
            assert changed_by_hand(tiny_model) == (MATRIX,)
            weight.copy_(kept)
        assert not ledger.toggle(1).active
