"""Whether a model's states can be put in: on a bridge some hooks only show what is done elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from mechstyle.blocks import can_resume
from mechstyle.errors import ModelError
from mechstyle.models import HookedModel
from mechstyle.runs import Hook, logits
from mechstyle.sites import Kind, Site, by_position
from mechstyle.tracing.kinds import KINDS, count_of
from mechstyle.tracing.sides import Side

__all__ = ["require_parts", "require_writable"]

_PARTS: Final = {kind.site: kind.index for kind in KINDS.values()}


def require_parts(model: HookedModel, states: Mapping[Site, Tensor]) -> None:
    """Make sure that states of heads and neurons have as many of them as the model's config says.

    Raises:
        ModelError: they do not, as where a backend keeps heads in one axis with their entries.

    Example:
        >>> require_parts(model, capture(model, ids, [Site(0, "z")]))  # doctest: +SKIP
    """
    for site, state in states.items():
        index = _PARTS.get(site.kind)
        wanted = None if index is None else count_of(model.cfg, index)
        whole = index is None or index == "neuron"
        shape = list(by_position(site.kind, state).shape)
        if len(shape) != (3 if whole else 4) or (wanted is not None and shape[2] != wanted):
            axes = "[row, position, d]" if whole else f"[row, position, {wanted} heads, ...]"
            raise ModelError(
                f"model: expected {site.hook} to have the axes {axes}, positions second, got shape {shape}. "
                "Leave out kinds that need it, or use mechstyle.load_model."
            )


def require_writable(
    model: HookedModel, side: Side, sites: Sequence[Site], found: Float[Tensor, "row answer vocab"]
) -> None:
    """Make sure that what hooks put into these states counts: on bridges some hooks only show a state.

    Args:
        found: the logits of the side as it is.

    Raises:
        ModelError: other values at all sites of a kind leave the logits as they are.

    Example:
        >>> require_writable(model, side, [Site(0, "pattern")], scores)  # doctest: +SKIP
    """
    if can_resume(model):
        return
    by_kind: dict[Kind, list[Site]] = {}
    for site in sites:
        by_kind.setdefault(site.kind, []).append(site)
    for kind, some in by_kind.items():
        hooks: list[Hook] = [*side.hooks, *((site.hook, _other_values(site)) for site in some)]
        if torch.equal(logits(model, side.ids, hooks=hooks, n_last=found.shape[1]), found):
            raise ModelError(
                f"model: this {type(model).__name__} does not use what is put in at {some[0].hook}: it only "
                f"shows it. Leave out the kinds that put in {kind!r}, or use mechstyle.load_model."
            )


def _other_values(site: Site) -> Callable[..., Tensor]:
    def change(state: Tensor, hook: Any) -> Tensor:
        generator = torch.Generator().manual_seed(site.layer)
        noise = torch.randn(state.shape, generator=generator)
        return state + noise.to(device=state.device, dtype=state.dtype)

    return change
