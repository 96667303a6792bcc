"""Resumed runs: rows enter at a layer and a position; everything before comes from a recorded run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mechstyle.blocks import has_hooks, require_resumable, run_block, run_last_block
from mechstyle.errors import InputError, RangeError
from mechstyle.models import HookedModel
from mechstyle.runs.full import Hook
from mechstyle.runs.recording import Recording, attached

__all__ = ["resume"]

OUTPUTS = ("hook_attn_out", "hook_mlp_out", "hook_resid_post")
"""Hooks of the last block that may sit on some of its positions only."""


def resume(
    model: HookedModel,
    joining: Mapping[int, Callable[[], Float[Tensor, "joining pos d_model"]]],
    *,
    base: Recording,
    start: int,
    n_last: int,
    hooks: Sequence[Hook] = (),
    grad: bool = False,
) -> Float[Tensor, "row last vocab"]:
    """Run positions from ``start`` on in one batch that grows as rows join it, layer by layer; return logits.

    Earlier positions give only their keys and values, from the recorded run. In the last block all but the
    last ``n_last`` positions give only theirs, and the last ``n_last`` alone are unembedded.

    Args:
        joining: layer -> a function that gives the residual stream of the rows that join there, positions
            ``start`` to the end; the number of layers for rows that only need the unembedding. Row ``i`` of
            those continues row ``i % base.n_rows`` of the recorded run.
        hooks: (name, function) pairs for this run only. A function sees the rows so far and the positions
            from ``start`` on; at the outputs of the last block, of its attention and MLP, and above, only the
            last ``n_last``. Hooks at other places of the last block make it run all positions.
        grad: keep the graph for a backward pass.

    Returns:
        logits of all rows, in the order in which they joined.

    Raises:
        InputError: no rows, or their number or width does not belong to the recorded run.
        RangeError: ``start``, ``n_last`` or a layer is out of range.
        ModelError: runs of this model cannot be resumed.

    Example:
        >>> changed = base.entering(4, 7).clone()  # doctest: +SKIP
        >>> resume(model, {4: lambda: changed}, base=base, start=7, n_last=1).shape  # doctest: +SKIP
        torch.Size([1, 1, 5000])
    """
    require_resumable(model)
    top, width = int(model.cfg.n_layers), base.n_positions - start
    _check(joining, base, start, n_last, top)
    pruned = not has_hooks(model) and not any(_inside(name, top - 1) for name, _ in hooks)
    rows: Tensor | None = None
    with torch.set_grad_enabled(grad), attached(model, hooks):
        for layer in range(min(joining), top):
            rows = _joined(rows, joining.get(layer), base, width)
            past, mask = base.before(layer, start), base.attention_mask
            if layer == top - 1 and pruned:
                rows = run_last_block(model, layer, rows, past, n_last=n_last, attention_mask=mask)
            else:
                rows, _ = run_block(model, layer, rows, past, attention_mask=mask)
        final = None if rows is None else rows[:, -n_last:]
        if top in joining:
            arriving = _joined(None, joining[top], base, width)[:, -n_last:]
            final = arriving if final is None else torch.cat([final, arriving])
        found = model(final, return_type="logits", start_at_layer=top)
    assert isinstance(found, Tensor)
    return found


def _joined(rows: Tensor | None, joining: Callable[[], Tensor] | None, base: Recording, width: int) -> Tensor:
    if joining is None:
        assert rows is not None
        return rows
    new = joining()
    if new.ndim != 3 or len(new) % base.n_rows or new.shape[1] != width:
        raise InputError(
            f"joining: expected [a multiple of {base.n_rows} rows, {width} positions, d_model], "
            f"got {list(new.shape)}."
        )
    return new if rows is None else torch.cat([rows, new])


def _inside(name: str, layer: int) -> bool:
    """Whether a hook sits inside this block, where all positions must pass."""
    return name.startswith(f"blocks.{layer}.") and name.rpartition(".")[2] not in OUTPUTS


def _check(joining: Mapping[int, object], base: Recording, start: int, n_last: int, top: int) -> None:
    if not joining:
        raise InputError("joining: expected rows that join at some layer, got none.")
    if not 0 <= min(joining) <= max(joining) <= top:
        raise RangeError(f"joining: expected layers from 0 to {top}, got {sorted(joining)}.")
    if not 0 <= start < base.n_positions:
        raise RangeError(f"start: expected a position from 0 to {base.n_positions - 1}, got {start}.")
    if not 1 <= n_last <= base.n_positions - start:
        raise RangeError(f"n_last: expected 1 to {base.n_positions - start} positions, got {n_last}.")
