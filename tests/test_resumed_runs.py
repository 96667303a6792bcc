"""A resumed run is the whole run: logits, gradients and hooks, on every architecture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from mechstyle.runs import Hook, Recording, record, record_again, resume
from mechstyle.sites import Site
from tests.checkpoints import KINDS

IDS = torch.tensor([[7, 301, 42, 42, 9, 350, 77], [0, 12, 200, 5, 5, 81, 3]])
ROWS, WIDTH = IDS.shape
TOP = 3
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Of the largest logit."""
LEFT = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]])
MASKS = {"unpadded": None, "left": LEFT, "right": LEFT.flip(1)}
JOINING = ({2: 3}, {3: 2}, {0: 1, 1: 2, 3: 1})
"""Layer -> copies of the recorded rows that join there."""
Models = Callable[[str, torch.dtype], HookedTransformer]


def entering(layer: int) -> str:
    """The hook on what enters a layer, or leaves the last one."""
    return "blocks.2.hook_resid_post" if layer == TOP else f"blocks.{layer}.hook_resid_pre"


def noise(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def whole_run(
    model: HookedTransformer, ids: Tensor, mask: Tensor | None, hooks: Sequence[Hook], grad: bool = False
) -> Tensor:
    """A plain call of the model."""
    mask = torch.ones_like(ids) if mask is None else mask
    with torch.set_grad_enabled(grad):
        found = model.run_with_hooks(ids, attention_mask=mask, fwd_hooks=list(hooks))
    assert isinstance(found, Tensor)
    return found


def added(layer: int, change: Tensor) -> Hook:
    """Add [row, last positions, d_model] to what enters a layer."""

    def add(state: Tensor, hook: Any) -> Tensor:
        return torch.cat([state[:, : -change.shape[1]], state[:, -change.shape[1] :] + change], dim=1)

    return entering(layer), add


def changed(base: Recording, layer: int, change: Tensor) -> Callable[[], Tensor]:
    """As many copies of the recorded rows as there are changes, changed at their last positions."""
    start = base.n_positions - change.shape[1]
    return lambda: base.entering(layer, start).repeat(len(change) // base.n_rows, 1, 1) + change


def close(found: Tensor, wanted: Tensor, tolerance: float | None = None) -> None:
    assert found.shape == wanted.shape
    allowed = TOLERANCE[wanted.dtype] if tolerance is None else tolerance
    assert float((found - wanted).abs().max()) <= allowed * float(wanted.abs().max())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "fp64"])
@pytest.mark.parametrize("padding", MASKS)
@pytest.mark.parametrize("kind", [*KINDS, "mistral-local"])
def test_rows_that_join_at_several_layers_get_the_logits_of_whole_runs(
    architectures: Models, kind: str, padding: str, dtype: torch.dtype
) -> None:
    model, mask = architectures(kind, dtype), MASKS[padding]
    base = record(model, IDS, attention_mask=mask)
    for start in (0, 1, 3, WIDTH - 1):
        for case in JOINING:
            changes = {
                layer: noise(copies * ROWS, WIDTH - start, 32, dtype=dtype, seed=layer)
                for layer, copies in case.items()
            }
            wanted = torch.cat(
                [
                    whole_run(
                        model,
                        IDS.repeat(case[layer], 1),
                        None if mask is None else mask.repeat(case[layer], 1),
                        [added(layer, change)],
                    )
                    for layer, change in changes.items()
                ]
            )
            joining = {layer: changed(base, layer, change) for layer, change in changes.items()}
            for n_last in {1, min(2, WIDTH - start), WIDTH - start}:
                found = resume(model, joining, base=base, start=start, n_last=n_last)
                close(found, wanted[:, -n_last:])


@pytest.mark.parametrize("kind", KINDS)
def test_a_recording_holds_the_states_of_the_whole_run(architectures: Models, kind: str) -> None:
    model = architectures(kind, torch.float64)
    sites = [Site(1, "mlp"), Site(2, "attn"), Site(0, "key"), Site(2, "resid")]
    base = record(model, IDS, attention_mask=LEFT, sites=sites)
    _, cache = model.run_with_cache(IDS, attention_mask=LEFT)
    assert (base.n_rows, base.n_positions, base.start) == (ROWS, WIDTH, 0)
    for layer in range(TOP + 1):
        close(base.entering(layer, 0), cache[entering(layer)])
        close(base.entering(layer, 4), cache[entering(layer)][:, 4:])
    for layer in range(TOP):
        keys, values = base.before(layer, 5)
        close(keys, cache[f"blocks.{layer}.attn.hook_k"][:, :5])
        close(values, cache[f"blocks.{layer}.attn.hook_v"][:, :5])
    assert set(base.states) == set(sites)
    for site, state in base.states.items():
        close(state, cache[site.hook])


@pytest.mark.parametrize("padding", MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_some_rows_of_a_recording_continue_as_they_would_alone(
    architectures: Models, kind: str, padding: str
) -> None:
    model, mask = architectures(kind, torch.float64), MASKS[padding]
    kept = torch.tensor([1])
    some = record(model, IDS, attention_mask=mask, sites=[Site(1, "mlp")]).rows(kept)
    alone = record(model, IDS[kept], attention_mask=None if mask is None else mask[kept])
    assert some.n_rows == 1
    assert some.states[Site(1, "mlp")].shape == (1, WIDTH, 32)
    change = noise(3, WIDTH - 2, 32, dtype=torch.float64)
    found, wanted = (
        resume(model, {1: changed(base, 1, change)}, base=base, start=2, n_last=2) for base in (some, alone)
    )
    close(found, wanted)


@pytest.mark.parametrize("padding", MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_narrow_recording_is_enough_for_runs_from_its_corner(
    architectures: Models, kind: str, padding: str
) -> None:
    model, mask = architectures(kind, torch.float64), MASKS[padding]
    base = record(model, IDS, attention_mask=mask)
    for layer, start in ((1, 3), (2, 6), (2, 0), (0, 4)):
        widths: list[int] = []
        watch = [(f"blocks.{at}.hook_resid_post", _width(widths)) for at in range(TOP)]
        narrow = record(model, IDS, attention_mask=mask, hooks=watch, narrow=(layer, start))
        assert widths == [WIDTH] * layer + [start] * (TOP - layer if start else 0)
        change = noise(2 * ROWS, WIDTH - start, 32, dtype=torch.float64)
        found, wanted = (
            resume(model, {layer: changed(base, layer, change)}, base=one, start=start, n_last=1)
            for one in (narrow, base)
        )
        close(found, wanted)


def _width(widths: list[int]) -> Callable[..., None]:
    def watch(state: Tensor, hook: Any) -> None:
        widths.append(state.shape[1])

    return watch


@pytest.mark.parametrize("kind", KINDS)
def test_runs_recorded_again_are_those_recorded_whole(architectures: Models, kind: str) -> None:
    model = architectures(kind, torch.float64)
    base, sites = record(model, IDS), [Site(1, "mlp"), Site(2, "attn")]
    for start, copies in ((0, 1), (2, 3), (6, 2)):
        ids = IDS.repeat(copies, 1)
        ids[:, start + 1 :] += 1
        change = torch.zeros(len(ids), WIDTH, 32, dtype=torch.float64)
        change[:, start:] = noise(len(ids), WIDTH - start, 32, dtype=torch.float64)
        hooks: list[Hook] = [("hook_embed", lambda state, hook, change=change: state + change)]
        again = record_again(model, base, ids, start=start, sites=sites, hooks=hooks)
        anew = record(model, ids, sites=sites, hooks=hooks)
        assert (again.n_rows, again.n_positions, again.start) == (len(ids), WIDTH, start)
        for layer in range(TOP + 1):
            close(again.entering(layer, start), anew.entering(layer, start))
        for layer in range(TOP):
            for one, other in zip(again.past[layer], anew.past[layer], strict=True):
                close(one, other)
        for site in sites:
            close(again.states[site], anew.states[site][:, start:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layer", "position"), [(0, 0), (1, 2), (2, 3), (2, 6), (3, 6)])
def test_gradients_through_a_resumed_run_are_those_through_the_whole_run(
    architectures: Models, kind: str, layer: int, position: int
) -> None:
    model, mask = architectures(kind, torch.float64), LEFT
    base = record(model, IDS, attention_mask=mask, narrow=(layer, position))
    before = record(model, IDS, attention_mask=mask).entering(layer, position)
    n_last = min(2, WIDTH - position)
    weights = noise(ROWS, n_last, model.cfg.d_vocab, dtype=torch.float64)
    at = torch.zeros(1, WIDTH - position, 1, dtype=torch.float64)
    at[:, 0] = 1

    def resumed(delta: Tensor) -> Tensor:
        joining = {layer: lambda: before + at * delta}
        return resume(model, joining, base=base, start=position, n_last=n_last, grad=True)

    def whole(delta: Tensor) -> Tensor:
        return whole_run(model, IDS, mask, [added(layer, at * delta)], grad=True)[:, -n_last:]

    gradients = []
    for run in (resumed, whole):
        delta = noise(32, dtype=torch.float64, seed=5).requires_grad_()
        loss = (run(delta).log_softmax(-1) * weights).sum()
        gradients += torch.autograd.grad(loss, delta)
    assert float(gradients[1].abs().max()) > 1e-3
    close(*gradients)
