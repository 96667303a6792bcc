"""Runs whose attention is held at a recorded run's: positions do not meet, any few may be run alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechstyle.blocks import can_resume
from mechstyle.errors import InputError
from mechstyle.models import HookedModel
from mechstyle.runs.full import Hook
from mechstyle.runs.recording import Recording, attached
from mechstyle.sites import Site

__all__ = ["can_hold", "run_held"]

READ = re.compile(r"blocks\.(\d+)\.(attn\.hook_[qkv]|hook_mlp_out|hook_resid_post)")


def can_hold(model: HookedModel) -> bool:
    """Whether this model's blocks can be run with attention held: they resume, and their heads add up.

    Example:
        >>> can_hold(load_model("organism-m"))  # doctest: +SKIP
        True
    """
    return can_resume(model) and not model.cfg.use_normalization_before_and_after


def run_held(
    model: HookedModel,
    added: Mapping[Site, Float[Tensor, "joining pos d_model"]],
    *,
    base: Recording,
    positions: Int[Tensor, " pos"],
    run_mlps: bool,
    hooks: Sequence[Hook],
) -> None:
    """Add to outputs of attention or MLPs in one batch that grows layer by layer, without any attention.

    What attention adds to the residual stream stays what it was in the recorded run. What comes out is what
    the hooks read.

    Args:
        added: a site of the kind "attn" or "mlp" -> for each row that joins there, what is added to the
            recorded run's output. Rows join in the order of layers, "attn" before "mlp".
        base: one sequence, recorded with the sites "attn" and "mlp" of every layer.
        positions: those that the rows hold.
        run_mlps: run the MLPs of later layers on the changed residual stream; else their outputs too stay.
        hooks: readers at ``attn.hook_q``, ``hook_k``, ``hook_v``, ``hook_mlp_out`` (what the MLP makes of
            its input, also where it is held) and ``hook_resid_post``. A function sees the rows so far: at
            attention those that joined in lower layers, at the MLP also those that its attention's output
            feeds. Layers above the last hook are not run.

    Raises:
        InputError: nothing is added, or a hook sits elsewhere.

    Example:
        >>> run_held(  # doctest: +SKIP
        ...     model, {Site(0, "mlp"): change}, base=base, positions=last, run_mlps=True, hooks=[reader]
        ... )
    """
    places = {name: READ.fullmatch(name) for name, _ in hooks}
    odd = [name for name, found in places.items() if found is None]
    if odd or not places or not added:
        told = f"a hook at {odd[0]!r}" if odd else f"{len(added)} sites and {len(places)} hooks"
        raise InputError(
            "run_held: expected sites to add to, and hooks at queries, keys, values, MLP outputs or "
            f"residual streams, got {told}."
        )
    top = max(int(found.group(1)) for found in places.values() if found is not None)
    rows: Tensor | None = None
    with torch.no_grad(), attached(model, hooks):
        for layer in range(min(site.layer for site in added), top + 1):
            if rows is not None:
                _attend(model, layer, rows, {name for name in places if name.startswith(f"blocks.{layer}.")})
            rows = _pass(model, layer, rows, added, base, positions, run_mlps, places.keys())


def _attend(model: HookedModel, layer: int, rows: Tensor, names: set[str]) -> None:
    """Make the queries, keys and values that somebody reads."""
    read = [f"blocks.{layer}.attn.hook_{part}" in names for part in "qkv"]
    if any(read):
        block = _block(model, layer)
        normed = block.ln1(rows)
        block.attn.calculate_qkv_matrices(*(normed if wanted else normed[:, :0] for wanted in read))


def _pass(
    model: HookedModel,
    layer: int,
    rows: Tensor | None,
    added: Mapping[Site, Tensor],
    base: Recording,
    positions: Tensor,
    run_mlps: bool,
    names: Any,
) -> Tensor | None:
    """The residual streams that leave a layer: of the rows so far, and of those that join in it."""
    block, parallel = _block(model, layer), bool(model.cfg.parallel_attn_mlp)
    entering, leaving = (base.residuals[at][:, positions] for at in (layer, layer + 1))
    attn, mlp = (base.states[Site(layer, kind)][:, positions] for kind in ("attn", "mlp"))
    heads, mlps = (added.get(Site(layer, kind)) for kind in ("attn", "mlp"))
    middle = [] if rows is None else [rows + attn]
    if heads is not None and not parallel:
        middle.append(entering + attn + heads)
    found = []
    if middle:
        between = torch.cat(middle)
        if run_mlps or f"blocks.{layer}.hook_mlp_out" in names:
            made = block.apply_mlp(block.ln2(rows if parallel else between))
            mlp = made if run_mlps else mlp
        found.append(between + mlp)
    # Beside the attention, an MLP does not see it: nothing but the addition itself has changed.
    late = [heads, mlps] if parallel else [mlps]
    found += [leaving + change for change in late if change is not None]
    after: Tensor | None = block.hook_resid_post(torch.cat(found)) if found else None
    return after


def _block(model: HookedModel, layer: int) -> Any:
    found: Any = model
    return found.blocks[layer]
