"""Hooks in resumed runs: they fire, on documented shapes, and they go away. And what is refused."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformers import PreTrainedTokenizerFast

from mechstyle.blocks import has_hooks
from mechstyle.errors import InputError, ModelError, RangeError
from mechstyle.models import load_model
from mechstyle.runs import Hook, logits, record, record_again, resume
from mechstyle.sites import Site
from tests.checkpoints import KINDS, random_hf

IDS = torch.tensor([[7, 301, 42, 42, 9, 350], [0, 12, 200, 5, 5, 81]])
ROWS, WIDTH = IDS.shape
START, N_LAST = 2, 2
JOINING = {1: 2, 2: 1}
"""Layer -> copies of the recorded rows that join there."""
FEW, ALL = 2 * ROWS, 3 * ROWS
OUTPUTS = ("hook_attn_out", "hook_mlp_out", "hook_resid_post")


def shapes_of(model: HookedTransformer, names: list[str], run: Callable[[list[Hook]], Any]) -> dict[str, Any]:
    """The shape that a hook at each name sees."""
    found: dict[str, Any] = {}

    def see(state: Tensor, hook: Any) -> None:
        assert hook.name not in found, "a hook fired twice"
        found[hook.name] = tuple(state.shape)

    run([(name, see) for name in names])
    return found


def resumed(model: HookedTransformer, hooks: list[Hook], *, n_last: int = N_LAST) -> Tensor:
    base = record(model, IDS)
    joining = {
        layer: lambda layer=layer, copies=copies: base.entering(layer, START).repeat(copies, 1, 1)
        for layer, copies in JOINING.items()
    }
    return resume(model, joining, base=base, start=START, n_last=n_last, hooks=hooks)


def test_hooks_see_the_rows_so_far_and_the_positions_from_the_start_on(tiny_model: HookedTransformer) -> None:
    new = WIDTH - START
    expected = {
        "blocks.1.hook_resid_pre": (FEW, new, 32),
        "blocks.1.attn.hook_q": (FEW, new, 4, 8),
        "blocks.1.attn.hook_k": (FEW, new, 4, 8),
        "blocks.1.attn.hook_pattern": (FEW, 4, new, WIDTH),
        "blocks.1.mlp.hook_post": (FEW, new, 128),
        "blocks.1.hook_resid_post": (FEW, new, 32),
        "blocks.2.hook_attn_out": (ALL, N_LAST, 32),
        "blocks.2.hook_mlp_out": (ALL, N_LAST, 32),
        "blocks.2.hook_resid_post": (ALL, N_LAST, 32),
        "ln_final.hook_normalized": (ALL, N_LAST, 32),
        "unembed.hook_out": (ALL, N_LAST, 400),
    }
    assert shapes_of(tiny_model, list(expected), lambda hooks: resumed(tiny_model, hooks)) == expected


@pytest.mark.parametrize("name", ["attn.hook_pattern", "attn.hook_z", "mlp.hook_post", "hook_resid_pre"])
def test_a_hook_inside_the_last_block_makes_it_run_all_positions(
    tiny_model: HookedTransformer, name: str
) -> None:
    new, inside = WIDTH - START, f"blocks.2.{name}"
    names = [inside, *(f"blocks.2.{output}" for output in OUTPUTS), "ln_final.hook_normalized"]
    found = shapes_of(tiny_model, names, lambda hooks: resumed(tiny_model, hooks))
    assert found.pop(inside)[2 if "pattern" in name else 1] == new
    assert found.pop("ln_final.hook_normalized") == (ALL, N_LAST, 32)
    assert set(found.values()) == {(ALL, new, 32)}


def test_a_hook_that_the_user_left_on_the_model_sees_all_positions_of_the_last_block(
    tiny_model: HookedTransformer,
) -> None:
    base = record(tiny_model, IDS)
    seen: list[tuple[str, tuple[int, ...]]] = []

    def see(state: Tensor, hook: Any) -> None:
        seen.append((hook.name, tuple(state.shape)))

    for layer in range(3):
        tiny_model.add_hook(f"blocks.{layer}.hook_mlp_out", see)
    resume(tiny_model, {1: lambda: base.entering(1, START)}, base=base, start=START, n_last=1)
    new = WIDTH - START
    assert seen == [("blocks.1.hook_mlp_out", (ROWS, new, 32)), ("blocks.2.hook_mlp_out", (ROWS, new, 32))]


def test_plain_torch_hooks_fire_too(tiny_model: HookedTransformer) -> None:
    base, seen = record(tiny_model, IDS), []
    handle = tiny_model.blocks[2].mlp.register_forward_hook(
        lambda module, inputs, output: seen.append(output.shape[1])
    )
    resume(tiny_model, {1: lambda: base.entering(1, START)}, base=base, start=START, n_last=1)
    handle.remove()
    resume(tiny_model, {1: lambda: base.entering(1, START)}, base=base, start=START, n_last=1)
    assert seen == [WIDTH - START]


def ablate(head: int) -> Callable[..., Tensor]:
    def without(state: Tensor, hook: Any) -> Tensor:
        state = state.clone()
        state[:, :, head] = 0
        return state

    return without


def left_on(model: HookedTransformer, hook: Hook) -> AbstractContextManager[Any]:
    return model.hooks(fwd_hooks=[hook])


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_an_ablated_head_is_ablated_in_resumed_runs_too(
    tiny_tokenizer: PreTrainedTokenizerFast, kind: str, layer: int
) -> None:
    hf = random_hf(kind, len(tiny_tokenizer))
    model = load_model(hf, tokenizer=tiny_tokenizer, dtype=torch.float64)
    hook = (f"blocks.{layer}.attn.hook_z", ablate(2))
    change = torch.randn(2 * ROWS, WIDTH - START, 32, generator=torch.Generator().manual_seed(0)).double()

    def add(state: Tensor, hook: Any) -> Tensor:
        return torch.cat([state[:, :START], state[:, START:] + change], dim=1)

    changed: Hook = ("blocks.1.hook_resid_pre", add)
    wanted = logits(model, IDS.repeat(2, 1), hooks=[hook, changed])[:, -N_LAST:]
    assert not torch.allclose(wanted, logits(model, IDS.repeat(2, 1), hooks=[changed])[:, -N_LAST:])
    given = record(model, IDS, hooks=[hook])
    with left_on(model, hook):
        left = record(model, IDS)
    for base, own, lasting in ((given, [hook], []), (left, [], [hook])):
        with model.hooks(fwd_hooks=lasting):
            found = resume(
                model,
                {1: lambda base=base: base.entering(1, START).repeat(2, 1, 1) + change},
                base=base,
                start=START,
                n_last=N_LAST,
                hooks=own,
            )
        torch.testing.assert_close(found, wanted, atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", ["blocks.2.hook_mlp_out", "blocks.2.hook_attn_out", "ln_final.hook_scale"])
def test_hooks_given_for_the_outputs_of_the_last_block_change_the_logits(
    tiny_model: HookedTransformer, name: str
) -> None:
    hooks: list[Hook] = [(name, lambda state, hook: state.flip(-1) * 2)]
    wanted = logits(tiny_model, IDS, hooks=hooks)[:, -N_LAST:]
    base = record(tiny_model, IDS)
    found = resume(
        tiny_model, {1: lambda: base.entering(1, START)}, base=base, start=START, n_last=N_LAST, hooks=hooks
    )
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert not torch.allclose(wanted, logits(tiny_model, IDS, n_last=N_LAST), atol=1e-2)


def test_hooks_and_gradient_mode_are_as_before_after_a_run_and_after_an_exception(
    tiny_model: HookedTransformer,
) -> None:
    base = record(tiny_model, IDS)
    expected = logits(tiny_model, IDS)

    def fail(*state: Any, **hook: Any) -> Tensor:
        raise ZeroDivisionError

    watch: Hook = ("blocks.1.hook_mlp_out", lambda state, hook: None)
    failing: Hook = ("blocks.2.hook_mlp_out", fail)

    def run(joining: Callable[[], Tensor], hooks: list[Hook]) -> Tensor:
        return resume(tiny_model, {1: joining}, base=base, start=1, n_last=1, hooks=hooks, grad=True)

    assert run(lambda: base.entering(1, 1), [watch]).requires_grad
    assert not has_hooks(tiny_model)
    calls: tuple[Callable[[], Any], ...] = (
        lambda: run(fail, [watch]),
        lambda: run(lambda: base.entering(1, 1), [watch, failing]),
        lambda: record(tiny_model, IDS, hooks=[watch, failing], sites=[Site(1, "mlp")]),
        lambda: record_again(tiny_model, base, IDS, start=1, hooks=[watch, failing], sites=[Site(1, "mlp")]),
    )
    for call in calls:
        with torch.enable_grad(), pytest.raises(ZeroDivisionError):
            call()
        assert not has_hooks(tiny_model)
        assert torch.is_grad_enabled()
    assert torch.equal(logits(tiny_model, IDS), expected)
    assert all(weight.requires_grad for weight in tiny_model.parameters())


def test_gradients_are_kept_in_resumed_runs_only_when_asked_for(tiny_model: HookedTransformer) -> None:
    base = record(tiny_model, IDS)
    joining = {1: lambda: base.entering(1, 1)}
    assert not base.entering(1, 1).requires_grad
    assert not resume(tiny_model, joining, base=base, start=1, n_last=1).requires_grad
    assert resume(tiny_model, joining, base=base, start=1, n_last=1, grad=True).requires_grad


@pytest.mark.parametrize(
    ("shape", "layer", "options", "error", "message"),
    [
        ((2, 4, 32), None, {}, InputError, "joining: expected rows that join at some layer, got none"),
        ((2, 4, 32), 4, {}, RangeError, r"joining: expected layers from 0 to 3, got \[4\]"),
        ((2, 4, 32), -1, {}, RangeError, r"joining: expected layers from 0 to 3, got \[-1\]"),
        ((2, 4, 32), 1, {"start": 6}, RangeError, "start: expected a position from 0 to 5, got 6"),
        ((2, 4, 32), 1, {"start": -1}, RangeError, "start: expected a position from 0 to 5, got -1"),
        ((2, 4, 32), 1, {"n_last": 0}, RangeError, "n_last: expected 1 to 4 positions, got 0"),
        ((2, 4, 32), 1, {"n_last": 5}, RangeError, "n_last: expected 1 to 4 positions, got 5"),
        ((3, 4, 32), 1, {}, InputError, r"multiple of 2 rows, 4 positions, d_model\], got \[3, 4, 32\]"),
        ((2, 3, 32), 1, {}, InputError, r"multiple of 2 rows, 4 positions, d_model\], got \[2, 3, 32\]"),
        ((2, 4, 32), 3, {"start": 1}, InputError, r"5 positions, d_model\], got \[2, 4, 32\]"),
        ((8, 32), 1, {}, InputError, r"joining: expected .* got \[8, 32\]"),
    ],
)
def test_rows_that_cannot_continue_the_recorded_ones_are_refused(
    tiny_model: HookedTransformer,
    shape: tuple[int, ...],
    layer: int | None,
    options: dict[str, int],
    error: type[Exception],
    message: str,
) -> None:
    base = record(tiny_model, IDS)
    joining = {} if layer is None else {layer: lambda: torch.zeros(shape)}
    with pytest.raises(error, match=message):
        resume(tiny_model, joining, base=base, **{"start": START, "n_last": 1, **options})


def test_what_cannot_be_recorded_is_refused(tiny_model: HookedTransformer) -> None:
    base = record(tiny_model, IDS)
    with pytest.raises(InputError, match=r"ids: expected token ids of shape \[batch, pos\], got shape \[6\]"):
        record(tiny_model, IDS[0])
    with pytest.raises(
        InputError, match=r"attention_mask: expected the shape of ids, \[2, 6\], got \[1, 6\]"
    ):
        record(tiny_model, IDS, attention_mask=torch.ones(1, 6))
    with pytest.raises(InputError, match="base: expected a recording without padding"):
        masked = record(tiny_model, IDS, attention_mask=torch.ones_like(IDS))
        record_again(tiny_model, masked, IDS, start=1)
    with pytest.raises(
        InputError, match=r"ids: expected \[a multiple of 2 rows, 6 positions\] .* got \[3, 6\]"
    ):
        record_again(tiny_model, base, IDS[[0, 1, 0]], start=1)
    with pytest.raises(
        InputError, match=r"ids: expected \[a multiple of 2 rows, 6 positions\] .* got \[2, 5\]"
    ):
        record_again(tiny_model, base, IDS[:, :5], start=1)
    for start in (-1, 6):
        with pytest.raises(RangeError, match=f"start: expected a position from 0 to 5, got {start}"):
            record_again(tiny_model, base, IDS, start=start)
    for again in (False, True):
        for site, error, message in (
            (Site(7, "mlp"), RangeError, "sites: layer must be an integer from 0 to 2"),
            (Site(0, "embed"), InputError, "sites: expected states inside layers, got the embedding"),
        ):
            with pytest.raises(error, match=message):
                if again:
                    record_again(tiny_model, base, IDS, start=1, sites=[site])
                else:
                    record(tiny_model, IDS, sites=[site])
    with pytest.raises(ModelError, match=r"nothing was run at blocks.1.hook_mlp_out"):
        record(tiny_model, IDS, sites=[Site(1, "mlp")], narrow=(1, 0))
    assert not has_hooks(tiny_model)
