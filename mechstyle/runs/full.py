"""Whole runs: token ids through the model, with hooks; logits or states come out."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechstyle.blocks import can_resume
from mechstyle.errors import InputError, ModelError, RangeError
from mechstyle.hooks import counted
from mechstyle.models import HookedModel
from mechstyle.sites import Site, check_layer

__all__ = ["Hook", "capture", "checked_inputs", "known_places", "logits"]

Hook = tuple[str, Callable[..., Any]]
"""A hook name and a function `f(state, hook)` that returns the new state, or None to leave it."""


def logits(
    model: HookedModel,
    ids: Int[Tensor, "batch pos"],
    *,
    attention_mask: Int[Tensor, "batch pos"] | None = None,
    hooks: Sequence[Hook] = (),
    grad: bool = False,
    n_last: int | None = None,
) -> Float[Tensor, "batch pos vocab"]:
    """Run whole sequences and return the logits; the model keeps no hook afterwards, whatever happens.

    Args:
        attention_mask: 1 at real tokens, 0 at padding; None means that every token is real.
            (TransformerLens would guess the mask from pad ids, and drop a genuine BOS that has the same id.)
        hooks: (name, function) pairs for this run only.
        grad: keep the graph for a backward pass.
        n_last: give the logits of the last positions only; where the model allows it, only these are
            unembedded, and hooks above the last block see no others.

    Raises:
        InputError: `ids` is not [batch, pos], the mask has another shape, or a hook is unknown or silent.
        RangeError: `n_last` is not 1 to the number of positions.

    Example:
        >>> logits(model, encoded.ids[None]).shape
        torch.Size([1, 7, 5000])
    """
    ids, mask = checked_inputs(model, ids, attention_mask)
    width = ids.shape[1]
    if n_last is not None and not 1 <= n_last <= width:
        raise RangeError(f"n_last: expected 1 to {width} positions, got {n_last}.")
    known_places(model, hooks)
    counting, check = counted(hooks)
    with torch.set_grad_enabled(grad), model.hooks(fwd_hooks=counting):
        if n_last is None or n_last == width or not can_resume(model):
            found = _tensor(model(ids, return_type="logits", attention_mask=mask))[:, -(n_last or width) :]
        else:
            top = int(model.cfg.n_layers)
            final = _tensor(model(ids, return_type=None, attention_mask=mask, stop_at_layer=top))
            found = _tensor(model(final[:, -n_last:], return_type="logits", start_at_layer=top))
    check()
    return found


def capture(
    model: HookedModel,
    ids: Int[Tensor, "batch pos"],
    sites: Sequence[Site],
    *,
    attention_mask: Int[Tensor, "batch pos"] | None = None,
    stop_at_layer: int | None = None,
    hooks: Sequence[Hook] = (),
) -> dict[Site, Float[Tensor, "batch pos d"]]:
    """Run sequences and return copies of the states at the asked sites, without gradients.

    Args:
        attention_mask: as in `logits`.
        stop_at_layer: do not run this layer and those above; None runs just as deep as the sites need.
        hooks: further hooks for this run; states are read after them. Those above the last layer that is
            run are left out.

    Raises:
        InputError: no sites, `ids` is not [batch, pos], `stop_at_layer` is not above every site, or a hook is
            unknown or silent.
        RangeError: a site is in no layer of the model.

    Example:
        >>> site = Site(4, "mlp")
        >>> capture(model, encoded.ids[None], [site])[site].shape
        torch.Size([1, 7, 192])
    """
    if not sites:
        raise InputError("sites: expected at least one site to read, got none.")
    depth = max(check_layer(site.layer, int(model.cfg.n_layers), name="sites") + 1 for site in sites)
    if stop_at_layer is None:
        stop_at_layer = depth
    elif stop_at_layer < depth:
        raise InputError(
            f"stop_at_layer: expected at least {depth} to reach every site, got {stop_at_layer}."
        )
    ids, mask = checked_inputs(model, ids, attention_mask)
    found: dict[Site, Tensor] = {}

    def reader(site: Site) -> Callable[..., None]:
        def read(state: Tensor, hook: Any) -> None:
            found[site] = state.detach().clone()

        return read

    readers: list[Hook] = [(site.hook, reader(site)) for site in sites]
    known_places(model, hooks)
    reached = [hook for hook in hooks if _layer(hook[0]) < stop_at_layer]
    counting, check = counted(reached)
    with torch.no_grad():
        model.run_with_hooks(
            ids,
            return_type=None,
            fwd_hooks=[*counting, *readers],
            attention_mask=mask,
            stop_at_layer=stop_at_layer,
        )
    check()
    missing = [site for site in sites if site not in found]
    if missing:
        raise InputError(f"sites: the model has no state at {', '.join(site.hook for site in missing)}.")
    return found


def _layer(name: str) -> float:
    """The layer that a hook sits in: -1 for the embedding, infinity for what comes after the layers."""
    found = re.match(r"blocks\.(\d+)\.", name)
    if found:
        return int(found.group(1))
    return math.inf if name.startswith(("ln_final", "unembed")) else -1


def known_places(model: HookedModel, hooks: Sequence[Hook]) -> None:
    """Make sure that the model has the hooks' places; a bridge, which has aliases, tells by their silence.

    Raises:
        InputError: the model has no hook of a name.
    """
    places: Any = model
    unknown = [name for name, _ in hooks if can_resume(model) and name not in places.hook_dict]
    if unknown:
        raise InputError(
            f"hooks: the model has no hook {unknown[0]!r}; model.hook_dict lists those that it has."
        )


def checked_inputs(
    model: HookedModel, ids: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"] | None
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Ids and mask on the model's device; without a mask every token is real.

    Raises:
        InputError: `ids` is no [batch, pos] of the model's tokens, is longer than its context, or the mask
            has another shape.
        ModelError: the model would drop states at random.
    """
    _require_no_dropout(model)
    if not isinstance(ids, Tensor) or ids.dtype.is_floating_point or ids.dtype.is_complex:
        found = str(ids.dtype) if isinstance(ids, Tensor) else type(ids).__name__
        raise InputError(f"ids: expected a tensor of token ids (whole numbers), got {found}.")
    if ids.ndim != 2 or ids.shape[0] == 0 or ids.shape[1] == 0:
        raise InputError(f"ids: expected token ids of shape [batch, pos], got shape {list(ids.shape)}.")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= model.cfg.d_vocab or ids.shape[1] > model.cfg.n_ctx:
        raise InputError(
            f"ids: expected token ids from 0 to {model.cfg.d_vocab - 1} in rows of at most "
            f"{model.cfg.n_ctx}, got ids from {low} to {high} in rows of {ids.shape[1]}."
        )
    if mask is None:
        mask = torch.ones_like(ids)
    elif mask.shape != ids.shape:
        raise InputError(
            f"attention_mask: expected the shape of ids, {list(ids.shape)}, got {list(mask.shape)}."
        )
    device = torch.device(model.cfg.device)
    return ids.to(device), mask.to(device=device, dtype=torch.long)


def _require_no_dropout(model: HookedModel) -> None:
    """A ``HookedTransformer`` has no dropout; what a bridge wraps may, and applies it in training mode."""
    if can_resume(model):
        return
    modules: Any = model
    for part in modules.modules():
        if isinstance(part, torch.nn.Dropout) and part.training and part.p > 0:
            raise ModelError(
                "model: it is in training mode and has dropout, so that every run would differ; "
                "call model.eval() first."
            )


def _tensor(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise InputError(f"model: expected logits as a tensor, got {type(value).__name__}.")
    return value
