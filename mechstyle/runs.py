"""The only forward loops of the library: run token ids, with hooks, and read states out of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechstyle.errors import InputError
from mechstyle.models import HookedModel
from mechstyle.sites import Site

__all__ = ["Hook", "capture", "logits", "residual_before", "resume"]

Hook = tuple[str, Callable[..., Any]]
"""A hook name and a function `f(state, hook)` that returns the new state, or None to leave it."""


def logits(
    model: HookedModel,
    ids: Int[Tensor, "batch pos"],
    *,
    attention_mask: Int[Tensor, "batch pos"] | None = None,
    hooks: Sequence[Hook] = (),
    grad: bool = False,
) -> Float[Tensor, "batch pos vocab"]:
    """Run whole sequences and return the logits; the model keeps no hook afterwards, whatever happens.

    Args:
        attention_mask: 1 at real tokens, 0 at padding; None means that every token is real.
            (TransformerLens would guess the mask from pad ids, and drop a genuine BOS that has the same id.)
        hooks: (name, function) pairs for this run only.
        grad: keep the graph for a backward pass.

    Raises:
        InputError: `ids` is not [batch, pos], or the mask has another shape.

    Example:
        >>> logits(model, encoded.ids[None]).shape
        torch.Size([1, 7, 5000])
    """
    ids, mask = _inputs(model, ids, attention_mask)
    with torch.set_grad_enabled(grad):
        result = model.run_with_hooks(ids, return_type="logits", fwd_hooks=list(hooks), attention_mask=mask)
    return _tensor(result)


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
        hooks: further hooks for this run; states are read after them.

    Raises:
        InputError: no sites, `ids` is not [batch, pos], or `stop_at_layer` is not above every site.

    Example:
        >>> site = Site(4, "mlp")
        >>> capture(model, encoded.ids[None], [site])[site].shape
        torch.Size([1, 7, 192])
    """
    if not sites:
        raise InputError("sites: expected at least one site to read, got none.")
    depth = max(site.layer + 1 for site in sites)
    if stop_at_layer is None:
        stop_at_layer = depth
    elif stop_at_layer < depth:
        raise InputError(
            f"stop_at_layer: expected at least {depth} to reach every site, got {stop_at_layer}."
        )
    ids, mask = _inputs(model, ids, attention_mask)
    found: dict[Site, Tensor] = {}

    def reader(site: Site) -> Callable[..., None]:
        def read(state: Tensor, hook: Any) -> None:
            found[site] = state.detach().clone()

        return read

    readers: list[Hook] = [(site.hook, reader(site)) for site in sites]
    with torch.no_grad():
        model.run_with_hooks(
            ids,
            return_type=None,
            fwd_hooks=[*hooks, *readers],
            attention_mask=mask,
            stop_at_layer=stop_at_layer,
        )
    missing = [site for site in sites if site not in found]
    if missing:
        raise InputError(f"sites: the model has no state at {', '.join(site.hook for site in missing)}.")
    return found


def residual_before(
    model: HookedModel,
    ids: Int[Tensor, "batch pos"],
    layer: int,
    *,
    attention_mask: Int[Tensor, "batch pos"] | None = None,
) -> Float[Tensor, "batch pos d_model"]:
    """Run sequences up to a layer and return the residual stream that enters it, without gradients.

    Args:
        layer: first layer that is not run; 0 gives the embeddings.
        attention_mask: as in `logits`.

    Raises:
        InputError: as `logits`.

    Example:
        >>> resume(model, residual_before(model, ids, 4), 4)     # the same as logits(model, ids)
    """
    ids, mask = _inputs(model, ids, attention_mask)
    with torch.no_grad():
        return _tensor(model(ids, return_type=None, attention_mask=mask, stop_at_layer=layer))


def resume(
    model: HookedModel,
    residual: Float[Tensor, "batch pos d_model"],
    layer: int,
    *,
    at: tuple[Int[Tensor, " state"], Int[Tensor, " state"]] | None = None,
    attention_mask: Int[Tensor, "batch pos"] | None = None,
    hooks: Sequence[Hook] = (),
    grad: bool = False,
) -> Float[Tensor, "..."]:
    """Run the layers from `layer` on, starting from the residual stream that enters it, and return logits.

    Args:
        at: (rows, positions) whose logits are wanted, which gives [state, vocab]; None gives
            [batch, pos, vocab].
        attention_mask: None is right for unpadded and right-padded rows, whose padding no real token sees.
        hooks: (name, function) pairs inside the blocks, for this run only.
        grad: keep the graph for a backward pass.

    Example:
        >>> resume(model, residual, 4, at=(torch.tensor([0]), torch.tensor([6]))).shape
        torch.Size([1, 5000])
    """
    top = model.cfg.n_layers
    with torch.set_grad_enabled(grad):
        final = _tensor(
            model.run_with_hooks(
                residual,
                return_type=None,
                fwd_hooks=list(hooks),
                attention_mask=attention_mask,
                start_at_layer=layer,
                stop_at_layer=top,
            )
        )
        if at is None:
            return _tensor(model(final, return_type="logits", start_at_layer=top))
        return _tensor(model(final[at[0], at[1]][:, None], return_type="logits", start_at_layer=top))[:, 0]


def _inputs(model: HookedModel, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    if ids.ndim != 2 or ids.shape[0] == 0 or ids.shape[1] == 0:
        raise InputError(f"ids: expected token ids of shape [batch, pos], got shape {list(ids.shape)}.")
    if mask is None:
        mask = torch.ones_like(ids)
    elif mask.shape != ids.shape:
        raise InputError(
            f"attention_mask: expected the shape of ids, {list(ids.shape)}, got {list(mask.shape)}."
        )
    device = torch.device(model.cfg.device)
    return ids.to(device), mask.to(device=device, dtype=torch.long)


def _tensor(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise InputError(f"model: expected logits as a tensor, got {type(value).__name__}.")
    return value
