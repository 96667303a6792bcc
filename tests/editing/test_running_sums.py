"""Many edits in one model: each costs itself alone, and the bits are those of the slow sum."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformer_lens import HookedTransformer

from mechstyle.editing.application import active_edits, apply_edits, put_first, without_edits
from mechstyle.editing.weight_edit import WeightEdit
from mechstyle.errors import ModelError
from mechstyle.models import active_base, load_model

MATRIX, BIAS, HEADS = "blocks.1.mlp.W_out", "blocks.1.mlp.b_out", "blocks.0.attn.W_V"
NAMES = (MATRIX, BIAS, HEADS)


def weight_edit(model: HookedTransformer, name: str, seed: int) -> WeightEdit:
    generator = torch.Generator().manual_seed(seed)
    shape = dict(model.named_parameters())[name].shape
    rows = shape.numel() // shape[-1]
    left = torch.randn(rows, 1, generator=generator, dtype=torch.float64)
    return WeightEdit(name, left, torch.randn(1, shape[-1], generator=generator, dtype=torch.float64) / 9)


def weights(model: HookedTransformer) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def slow_sums(before: dict[str, Tensor], edits: list[list[WeightEdit]]) -> dict[str, Tensor]:
    """The definition: all changes added to the snapshot one by one in fp64, and rounded once."""
    exact = {name: weight.double().clone() for name, weight in before.items()}
    for edit in (one for some in edits for one in some):
        exact[edit.parameter] += edit.delta().reshape(exact[edit.parameter].shape)
    return {name: exact[name].to(weight.dtype) for name, weight in before.items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often the change of each edit was multiplied out."""
    counts: Counter[int] = Counter()
    delta = WeightEdit.delta

    def counting(self: WeightEdit) -> Tensor:
        counts[id(self)] += 1
        return delta(self)

    monkeypatch.setattr(WeightEdit, "delta", counting)
    return counts


@pytest.mark.parametrize(
    ("dtype", "number"), [(torch.float32, 200), (torch.bfloat16, 20), (torch.float64, 20)], ids=str
)
def test_many_edits_are_each_multiplied_out_once_and_sum_up_to_the_same_bits(
    tiny_folder: Path, counted: Counter[int], dtype: torch.dtype, number: int
) -> None:
    model = load_model(tiny_folder, dtype=dtype, check_parity=False)
    before = weights(model)
    edits = [[weight_edit(model, NAMES[seed % 3], seed)] for seed in range(number)]
    handles = [apply_edits(model, some) for some in edits]
    assert set(counted.values()) == {1}
    assert len(counted) == number
    assert same(weights(model), slow_sums(before, edits))
    put_first(model, [], instead_of=handles)
    assert same(weights(model), before)


def test_an_edit_for_a_moment_on_top_of_many_costs_only_itself(
    tiny_model: HookedTransformer, counted: Counter[int]
) -> None:
    for seed in range(20):
        apply_edits(tiny_model, [weight_edit(tiny_model, MATRIX, seed)])
    inside = weights(tiny_model)
    counted.clear()
    for seed in range(100, 120):
        passing = weight_edit(tiny_model, MATRIX, seed)
        handle = apply_edits(tiny_model, [passing])
        assert not same(weights(tiny_model), inside)
        handle.undo()
        assert same(weights(tiny_model), inside)
    assert sum(counted.values()) == 20


def test_what_is_kept_of_many_edits_does_not_grow_with_their_number(tiny_model: HookedTransformer) -> None:
    def held() -> int:
        sums = vars(tiny_model)["mechstyle_exact_sums"]
        return sum(one.value.numel() for kept in sums.values() for one in kept)

    sizes = []
    for seed in range(30):
        apply_edits(tiny_model, [weight_edit(tiny_model, MATRIX, seed)])
        sizes.append(held())
    assert sizes[1] == sizes[-1] == 2 * dict(tiny_model.named_parameters())[MATRIX].numel()
    for handle in active_edits(tiny_model):
        handle.undo()
    assert held() == 0


@given(moves=st.lists(st.tuples(st.sampled_from("aux"), st.integers(0, 99)), max_size=12))
@settings(max_examples=20, deadline=None)
def test_edits_that_come_and_go_in_any_order_leave_the_bits_of_the_slow_sum(
    tiny_folder: Path, moves: list[tuple[str, int]]
) -> None:
    model = load_model(tiny_folder, check_parity=False)
    before = weights(model)
    for kind, number in moves:
        handles = active_edits(model)
        if kind == "a":
            apply_edits(model, [weight_edit(model, NAMES[number % 3], number)])
        elif handles and kind == "u":
            handles[number % len(handles)].undo()
        elif handles:
            chosen = handles[number % len(handles)]
            put_first(model, [chosen])
            assert active_edits(model) == (chosen, *(handle for handle in handles if handle is not chosen))
        assert same(weights(model), slow_sums(before, [list(h.edits) for h in active_edits(model)]))


def test_put_first_sets_the_order_and_takes_out_what_it_replaces(tiny_model: HookedTransformer) -> None:
    before = weights(tiny_model)
    one, two, three = (apply_edits(tiny_model, [weight_edit(tiny_model, MATRIX, seed)]) for seed in range(3))
    put_first(tiny_model, [three], instead_of=[three, one])
    assert active_edits(tiny_model) == (three, two)
    expected = slow_sums(before, [list(three.edits), list(two.edits)])
    assert same(weights(tiny_model), expected)
    put_first(tiny_model, [], instead_of=[three, two])
    assert same(weights(tiny_model), before)
    assert active_base(tiny_model) == {}


def test_put_first_refuses_what_does_not_fit_and_changes_nothing(tiny_model: HookedTransformer) -> None:
    handle = apply_edits(tiny_model, [weight_edit(tiny_model, MATRIX, 0)])
    inside = weights(tiny_model)
    handle.undo()
    handle._edits = (WeightEdit(MATRIX, torch.ones(3, 1), torch.ones(1, 32)),)
    with pytest.raises(ModelError, match=r"shape \[3, 32\]"):
        put_first(tiny_model, [handle])
    assert active_edits(tiny_model) == ()
    assert not same(weights(tiny_model), inside)


def test_the_original_model_can_be_looked_at_and_the_edits_come_back_bit_for_bit(
    tiny_model: HookedTransformer,
) -> None:
    before = weights(tiny_model)
    handles = tuple(
        apply_edits(tiny_model, [weight_edit(tiny_model, name, n)]) for n, name in enumerate(NAMES)
    )
    inside = weights(tiny_model)
    with pytest.raises(KeyError, match="inside"), without_edits(tiny_model):
        assert same(weights(tiny_model), before)
        assert active_edits(tiny_model) == ()
        apply_edits(tiny_model, [weight_edit(tiny_model, MATRIX, 9)]).undo()
        raise KeyError("inside")
    assert same(weights(tiny_model), inside)
    assert active_edits(tiny_model) == handles
    for handle in handles:
        handle.undo()
    assert same(weights(tiny_model), before)


@pytest.mark.parametrize("name", NAMES)
def test_a_dense_change_of_any_parameter_is_kept_exactly(
    tiny_model: HookedTransformer, name: str, tmp_path: Path
) -> None:
    shape = dict(tiny_model.named_parameters())[name].shape
    change = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    edit = WeightEdit.dense(name, change)
    assert torch.equal(edit.delta(), change.reshape(-1, shape[-1]))
    assert edit.left.shape[1] == min(edit.shape)
    before = weights(tiny_model)[name]
    handle = apply_edits(tiny_model, [edit])
    assert torch.equal(weights(tiny_model)[name], (before.double() + change).float())
    handle.undo()
    assert torch.equal(weights(tiny_model)[name], before)
