"""Edits in weights: exact, stacked, scoped, undone bit for bit, and refused where they do not belong."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformer_lens import HookedTransformer

from mechstyle.editing import application
from mechstyle.editing.edit import EditSet, WeightEdit, load_edit
from mechstyle.errors import FileError, InputError, ModelError, WorkError
from mechstyle.facts import EditRequest, Fact
from mechstyle.models import active_base, fingerprint, load_model

FIRST, SECOND = "blocks.0.mlp.W_out", "blocks.2.mlp.W_out"
REQUEST = EditRequest(Fact("{} plays the", "Miles Davis", " trumpet"), " guitar", ("Miles Davis uses a",))


def random_edit(model: HookedTransformer, *names: str, seed: int = 0, rank: int = 1) -> EditSet:
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: weight.shape for name, weight in model.named_parameters()}
    edits = [
        WeightEdit(
            name,
            torch.randn(shapes[name][0], rank, generator=generator, dtype=torch.float64),
            torch.randn(rank, shapes[name][1], generator=generator, dtype=torch.float64),
        )
        for name in names
    ]
    return EditSet(tuple(edits), fingerprint(model), {"settings": {"seed": seed}}, (REQUEST,))


def weights(model: HookedTransformer) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_applied_weights_are_the_fp64_sum_rounded_once_and_nothing_else_differs(
    tiny_folder: Path, dtype: torch.dtype
) -> None:
    model = load_model(tiny_folder, dtype=dtype)
    edit = random_edit(model, FIRST)
    before = weights(model)
    with edit.applied(model):
        inside = weights(model)
    expected = (before[FIRST].double() + edit.delta(FIRST)).to(dtype)
    assert torch.equal(inside[FIRST], expected)
    assert all(torch.equal(inside[name], before[name]) for name in before if name != FIRST)
    assert same(weights(model), before)


def test_undo_is_bit_exact_where_subtracting_would_not_be(tiny_model: HookedTransformer) -> None:
    edit = random_edit(tiny_model, FIRST).scaled(1e4)
    before = weights(tiny_model)
    handle = edit.apply_(tiny_model)
    subtracted = (weights(tiny_model)[FIRST].double() - edit.delta(FIRST)).float()
    handle.undo()
    assert same(weights(tiny_model), before)
    assert not torch.equal(subtracted, before[FIRST])


def test_an_exception_inside_the_block_leaves_the_weights_as_they_were(tiny_model: HookedTransformer) -> None:
    before = weights(tiny_model)
    with pytest.raises(KeyError, match="inside"), random_edit(tiny_model, FIRST).applied(tiny_model):
        raise KeyError("inside")
    assert same(weights(tiny_model), before)
    assert active_base(tiny_model) == {}


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("stacked", [False, True])
def test_a_failure_at_any_step_of_applying_leaves_everything_as_it_was(
    tiny_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch, step: int, stacked: bool
) -> None:
    names = [FIRST, "blocks.1.mlp.W_out", SECOND]
    original = weights(tiny_model)
    lower = random_edit(tiny_model, FIRST, seed=5).apply_(tiny_model) if stacked else None
    before = weights(tiny_model)
    _fail_once(monkeypatch, step)
    with pytest.raises(RuntimeError, match="injected"):
        random_edit(tiny_model, *names).apply_(tiny_model)
    assert same(weights(tiny_model), before)
    assert len(application.active_edits(tiny_model)) == stacked
    if lower is not None:
        lower.undo()
    assert same(weights(tiny_model), original)
    assert active_base(tiny_model) == {}


@pytest.mark.parametrize("step", range(4))
def test_a_failure_at_any_step_of_undoing_keeps_the_edit_whole_and_undo_can_be_repeated(
    tiny_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    original = weights(tiny_model)
    handle = random_edit(tiny_model, FIRST, "blocks.1.mlp.W_out", SECOND).apply_(tiny_model)
    edited = weights(tiny_model)
    _fail_once(monkeypatch, step)
    with pytest.raises(RuntimeError, match="injected"):
        handle.undo()
    assert same(weights(tiny_model), edited)
    assert handle.active
    handle.undo()
    assert same(weights(tiny_model), original)


def _fail_once(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the given one of three writes, or the bookkeeping after them, fail half-way, once."""
    calls = itertools.count()
    write, record = application._write, application._record

    def failing_write(tensor: Tensor, value: Tensor) -> None:
        if next(calls) == step:
            write(tensor[:1], value[:1])
            raise RuntimeError("injected")
        write(tensor, value)

    def failing_record(*args: object) -> None:
        if next(calls) == step:
            raise RuntimeError("injected")
        record(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(application, "_write", failing_write)
    monkeypatch.setattr(application, "_record", failing_record)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_stacked_edits_undone_in_any_order_equal_the_remaining_ones_applied_afresh(
    tiny_model: HookedTransformer, order: tuple[int, ...]
) -> None:
    edits = [random_edit(tiny_model, FIRST, seed=0), random_edit(tiny_model, FIRST, SECOND, seed=1)]
    edits.append(random_edit(tiny_model, SECOND, FIRST, seed=2))
    original = weights(tiny_model)
    handles = [edit.apply_(tiny_model) for edit in edits]
    remaining = set(range(3))
    for index in order:
        handles[index].undo()
        remaining.discard(index)
        fresh = copy.deepcopy(tiny_model)
        for handle in application.active_edits(fresh):
            handle.undo()
        assert same(weights(fresh), original)
        for left in sorted(remaining):
            edits[left].apply_(fresh)
        assert same(weights(tiny_model), weights(fresh))
    assert same(weights(tiny_model), original)


def test_nested_blocks_may_close_in_any_order_and_the_fingerprint_ignores_them(
    tiny_model: HookedTransformer,
) -> None:
    print_before = fingerprint(tiny_model)
    outer, inner = random_edit(tiny_model, FIRST, seed=1), random_edit(tiny_model, FIRST, seed=2)
    with outer.applied(tiny_model) as handle, inner.applied(tiny_model):
        assert fingerprint(tiny_model) == print_before
        handle.undo()
        assert not handle.active
    assert fingerprint(tiny_model) == print_before
    assert active_base(tiny_model) == {}


def test_undoing_twice_does_nothing_the_second_time(tiny_model: HookedTransformer) -> None:
    before = weights(tiny_model)
    handle = random_edit(tiny_model, FIRST).apply_(tiny_model)
    handle.undo()
    handle.undo()
    assert same(weights(tiny_model), before)


def test_negated_edit_on_top_cancels_to_rounding(tiny_model: HookedTransformer) -> None:
    edit = random_edit(tiny_model, FIRST)
    before = weights(tiny_model)
    with edit.applied(tiny_model), edit.negated().applied(tiny_model):
        torch.testing.assert_close(weights(tiny_model)[FIRST], before[FIRST], rtol=0, atol=1e-6)
    assert edit.negated().provenance["scaled"] == -1.0


def test_an_edit_of_another_model_is_refused_and_both_fingerprints_are_shown(
    tiny_model: HookedTransformer,
) -> None:
    edit = dataclasses.replace(random_edit(tiny_model, FIRST), fingerprint="0123456789abcdef")
    before = weights(tiny_model)
    with pytest.raises(ModelError, match=f"fingerprint 0123456789ab.*{fingerprint(tiny_model)[:12]}"):
        edit.apply_(tiny_model)
    assert same(weights(tiny_model), before)


def test_a_processed_model_is_refused(tiny_model: HookedTransformer) -> None:
    edit = random_edit(tiny_model, FIRST)
    tiny_model.cfg.normalization_type = "LNPre"
    with pytest.raises(ModelError, match="processed weights"):
        edit.apply_(tiny_model)


def test_parameters_that_do_not_fit_are_refused_before_anything_is_written(
    tiny_model: HookedTransformer,
) -> None:
    before = weights(tiny_model)
    good = random_edit(tiny_model, FIRST).edits
    absent = WeightEdit("blocks.9.mlp.W_out", torch.ones(128, 1), torch.ones(1, 32))
    narrow = WeightEdit(SECOND, torch.ones(64, 1), torch.ones(1, 32))
    for bad, message in (
        (absent, "no parameter 'blocks.9.mlp.W_out'"),
        (narrow, r"shape \[64, 32\].* \[128, 32\]"),
    ):
        with pytest.raises(ModelError, match=message):
            EditSet((*good, bad), fingerprint(tiny_model)).apply_(tiny_model)
        assert same(weights(tiny_model), before)


def test_an_edit_that_overflows_the_dtype_is_refused(tiny_folder: Path) -> None:
    model = load_model(tiny_folder, dtype=torch.float16)
    before = weights(model)
    with pytest.raises(WorkError, match="overflows float16"):
        random_edit(model, FIRST).scaled(1e6).apply_(model)
    assert same(weights(model), before)


def test_factors_that_do_not_fit_or_hold_nan_are_refused() -> None:
    with pytest.raises(InputError, match=r"\[d_in, rank\] and \[rank, d_out\], got \[4, 1\] and \[2, 3\]"):
        WeightEdit(FIRST, torch.ones(4, 1), torch.ones(2, 3))
    with pytest.raises(InputError, match="left holds NaN"):
        WeightEdit(FIRST, torch.full((4, 1), torch.nan), torch.ones(1, 3))


def test_delta_of_an_unchanged_parameter_is_refused(tiny_model: HookedTransformer) -> None:
    with pytest.raises(InputError, match=f"expected one of {FIRST}, got '{SECOND}'"):
        random_edit(tiny_model, FIRST).delta(SECOND)


@given(
    d_in=st.integers(1, 9),
    d_out=st.integers(1, 9),
    rank=st.integers(1, 4),
    scale=st.floats(1e-30, 1e30),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=30, deadline=None)
def test_saving_and_loading_gives_the_same_bits_back(
    tmp_path_factory: pytest.TempPathFactory, d_in: int, d_out: int, rank: int, scale: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(d_in, rank, generator=generator, dtype=torch.float64) * scale
    right = torch.randn(rank, d_out, generator=generator, dtype=torch.float64)
    edit = EditSet((WeightEdit(FIRST, left, right),), "f" * 64, {"settings": {"seed": seed}}, (REQUEST,))
    loaded = load_edit(edit.save(tmp_path_factory.mktemp("edit") / "edit.safetensors"))
    assert torch.equal(loaded.delta(FIRST), edit.delta(FIRST))
    assert torch.equal(loaded.edits[0].left, left)
    assert (loaded.fingerprint, loaded.provenance, loaded.requests) == ("f" * 64, edit.provenance, (REQUEST,))


@given(rank=st.integers(1, 5), seed=st.integers(0, 1000), bfloat=st.booleans())
@settings(max_examples=10, deadline=None)
def test_a_loaded_edit_writes_the_same_bits_as_the_one_that_was_saved(
    tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, rank: int, seed: int, bfloat: bool
) -> None:
    model = load_model(tiny_folder, dtype=torch.bfloat16 if bfloat else None, check_parity=False)
    before = weights(model)
    edit = random_edit(model, FIRST, SECOND, seed=seed, rank=rank)
    loaded = load_edit(edit.save(tmp_path_factory.mktemp("edit") / "edit.safetensors"))
    with edit.applied(model):
        inside = weights(model)
    with loaded.applied(model):
        assert same(weights(model), inside)
    assert same(weights(model), before)


def test_an_edit_computed_in_fp32_applies_to_the_model_in_bf16(tiny_folder: Path) -> None:
    edit = random_edit(load_model(tiny_folder), FIRST)
    with edit.applied(load_model(tiny_folder, dtype=torch.bfloat16)) as handle:
        assert handle.active


def test_files_that_are_missing_cut_changed_or_foreign_are_refused(
    tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    path = random_edit(tiny_model, FIRST).save(tmp_path / "edit.safetensors")
    good = path.read_bytes()
    with pytest.raises(FileError, match="expected a file there"):
        load_edit(tmp_path / "absent.safetensors")
    for size in (0, 7, 100, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(FileError, match="damaged"):
            load_edit(path)
    flipped = bytearray(good)
    flipped[-3] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(FileError, match="do not match its own hash"):
        load_edit(path)
    path.write_bytes(good.replace(b" guitar", b" violin"))
    with pytest.raises(FileError, match="do not match its own hash"):
        load_edit(path)
    path.write_text("hello")
    with pytest.raises(FileError, match="damaged"):
        load_edit(path)


def test_an_unwritable_path_is_refused_and_an_older_file_stays(
    tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    with pytest.raises(FileError, match="does not exist"):
        random_edit(tiny_model, FIRST).save(tmp_path / "absent" / "edit.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_active_edits_are_named_by_their_contents_in_order(tiny_model: HookedTransformer) -> None:
    first, second = random_edit(tiny_model, FIRST, seed=1), random_edit(tiny_model, SECOND, seed=2)
    assert application.active_ids(tiny_model) == ()
    with first.applied(tiny_model), second.applied(tiny_model):
        by_hand = application.apply_edits(tiny_model, first.edits)
        assert application.active_ids(tiny_model) == (first.id, second.id, first.id)
        assert by_hand.edits == first.edits
        by_hand.undo()
    assert application.active_ids(tiny_model) == ()
    assert len({first.id, second.id, first.scaled(2.0).id}) == 3
    assert dataclasses.replace(first, fingerprint="another").id != first.id
