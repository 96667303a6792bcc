"""Runs that wait between blocks: who changes a block's weights on the way need not begin again below it."""

from __future__ import annotations

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
    read: Site | None = None,
) -> tuple[Float[Tensor, "row pos d_model"], Float[Tensor, "row pos d"] | None]:
    """Run one block from position 0 on, without gradients, and return what leaves it.

    Args:
        read: a state inside the block that is returned too.

    Raises:
        ModelError: blocks of this model cannot be run one by one.

    Example:
        >>> after, keys = through(model, residual, 3, read=Site(3, "key"))  # doctest: +SKIP
    """
    require_resumable(model)
    found: list[Tensor] = []

    def reader(state: Tensor, hook: Any) -> None:
        found.append(state)

    counting, check = counted([] if read is None else [(read.hook, reader)])
    with torch.no_grad(), model.hooks(fwd_hooks=counting):
        after, _ = run_block(model, layer, residual)
    check()
    return after, found[0] if found else None
