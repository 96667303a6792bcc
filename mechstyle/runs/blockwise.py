"""Runs that wait between blocks: who changes a block's weights on the way need not begin again below it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechstyle.blocks import require_resumable, run_block
from mechstyle.hooks import counted
from mechstyle.models import HookedModel
from mechstyle.runs.full import checked_inputs
from mechstyle.sites import Site, check_layer

__all__ = ["entering", "through"]


def entering(model: HookedModel, ids: Int[Tensor, "row pos"], layer: int) -> Float[Tensor, "row pos d_model"]:
    """The residual stream that enters a layer, at all positions, without gradients.

    Args:
        ids: padded on the right, if at all, so that padding changes nothing before it.

    Raises:
        InputError: as ``capture``.
        RangeError: the layer is out of range.
        ModelError: blocks of this model cannot be run one by one.

    Example:
        >>> residual = entering(model, ids, 3)  # doctest: +SKIP
    """
    require_resumable(model)
    check_layer(layer, int(model.cfg.n_layers))
    ids, mask = checked_inputs(model, ids, None)
    with torch.no_grad():
        found: Tensor = model(ids, return_type=None, attention_mask=mask, stop_at_layer=layer)
    return found


def through(
    model: HookedModel,
    residual: Float[Tensor, "row pos d_model"],
    layer: int,
    *,
    read: Sequence[Site] = (),
) -> tuple[Float[Tensor, "row pos d_model"], dict[Site, Float[Tensor, "row pos d"]]]:
    """Run one block from position 0 on, without gradients; return what leaves it, and states inside of it.

    Args:
        read: the states to return, as by ``capture``.

    Raises:
        ModelError: blocks of this model cannot be run one by one.

    Example:
        >>> after, states = through(model, residual, 3, read=[Site(3, "key")])  # doctest: +SKIP
    """
    require_resumable(model)
    found: dict[Site, Tensor] = {}

    def reader(site: Site) -> Callable[..., None]:
        def note(state: Tensor, hook: Any) -> None:
            found[site] = state

        return note

    counting, check = counted([(site.hook, reader(site)) for site in read])
    with torch.no_grad(), model.hooks(fwd_hooks=counting):
        after, _ = run_block(model, layer, residual)
    check()
    return after, found
