"""Runs of single positions: what later layers make there of a change at that position and at no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from mechstyle.blocks import KeysValues, require_resumable, run_block
from mechstyle.errors import InputError, RangeError
from mechstyle.models import HookedModel
from mechstyle.runs.full import Hook
from mechstyle.runs.recording import Recording, attached

__all__ = ["run_columns"]


def run_columns(
    model: HookedModel,
    entering: Mapping[int, Float[Tensor, "row position d_model"]],
    *,
    base: Recording,
    positions: Sequence[int],
    depth: int,
    hooks: Sequence[Hook],
) -> None:
    """Run some positions, each on its own, for what hooks see there; rows join at a layer and leave it again.

    No later position reaches back to one, and earlier ones come from the recorded run, so nothing else has to
    be run. That is far less than a resumed run, but gives no logits.

    Args:
        entering: layer -> what enters it, changed. Row ``i`` continues row ``i % base.n_rows`` of the
            recorded run, which is as it was at all other positions.
        base: recorded without padding, from the first position on.
        positions: all are run in one batch.
        depth: layers that rows go through, or as many as there are above.
        hooks: (name, function) pairs; a function sees [row x position, 1, ...], the rows that joined first
            first.

    Raises:
        InputError: nothing enters, or the rows do not belong to the recorded run, or it has padding.
        RangeError: a position was not recorded, or `depth` is less than 1.
        ModelError: runs of this model cannot be resumed.

    Example:
        >>> run_columns(  # doctest: +SKIP
        ...     model, {3: changed}, base=base, positions=[5], depth=2, hooks=[read]
        ... )
    """
    require_resumable(model)
    _check(entering, base, positions, depth)
    running: list[tuple[int, Tensor]] = []
    with torch.no_grad(), attached(model, hooks):
        for layer in range(min(entering), int(model.cfg.n_layers)):
            if layer in entering:
                running.append((layer, entering[layer].flatten(0, 1)[:, None]))
            if not running:
                continue
            past, mask = _past(base, layer, positions)
            rows = torch.cat([rows for _, rows in running])
            after, _ = run_block(model, layer, rows, past, attention_mask=mask)
            pairs = zip(running, after.split([len(rows) for _, rows in running]), strict=True)
            running = [(joined, rows) for (joined, _), rows in pairs if layer + 1 < joined + depth]


def _past(
    base: Recording, layer: int, positions: Sequence[int]
) -> tuple[KeysValues, Int[Tensor, "row all_pos"]]:
    """Keys and values before each position, padded on the left so that the positions come next."""
    width = max(positions)

    def padded(of: int) -> Tensor:
        each = [
            pad(base.before(layer, position)[of], (0, 0, 0, 0, width - position, 0)) for position in positions
        ]
        return torch.stack(each, dim=1).flatten(0, 1)

    keys, values = padded(0), padded(1)
    real = torch.arange(width + 1, device=keys.device) >= width - torch.tensor(
        list(positions), device=keys.device
    ).unsqueeze(1)
    return (keys, values), real.long().repeat(base.n_rows, 1)


def _check(entering: Mapping[int, Tensor], base: Recording, positions: Sequence[int], depth: int) -> None:
    if depth < 1:
        raise RangeError(f"depth: expected at least 1 layer, got {depth}.")
    if not positions or not all(0 <= position < base.n_positions for position in positions):
        raise RangeError(f"positions: expected some of 0 to {base.n_positions - 1}, got {list(positions)}.")
    if base.attention_mask is not None or base.start:
        raise InputError("base: expected a recording from position 0 on, without padding.")
    if not entering or any(
        len(rows) % base.n_rows or rows.shape[1] != len(positions) for rows in entering.values()
    ):
        raise InputError(
            f"entering: expected, by layer, [a multiple of {base.n_rows} rows, {len(positions)} positions, "
            f"d_model], got {[list(rows.shape) for rows in entering.values()]}."
        )
