"""The logit lens and integrated gradients, a cell or a point at a time, with plain hooks and autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def lens_logits(model: Any, ids: Sequence[int], hook: str) -> list[Tensor]:
    """Logits of one state at each token, alone, through the final norm and the unembedding."""
    found: list[Tensor] = []
    with torch.no_grad():
        model.run_with_hooks(
            torch.tensor([list(ids)]), fwd_hooks=[(hook, lambda state, hook: found.append(state.clone()))]
        )
        states = [found[0][:, token : token + 1] for token in range(len(ids))]
        return [model.unembed(model.ln_final(state))[0, 0] for state in states]


def lens_hooks(n_layers: int, state: str) -> list[str]:
    """Hook names from the lowest to the highest; for the residual stream the embedding first."""
    if state == "resid":
        return ["blocks.0.hook_resid_pre", *(f"blocks.{layer}.hook_resid_post" for layer in range(n_layers))]
    return [f"blocks.{layer}.hook_{state}_out" for layer in range(n_layers)]


def embeddings(model: Any, ids: Sequence[int]) -> Tensor:
    """Token embeddings, as the table has them."""
    rows: Tensor = model.W_E.detach()[torch.tensor(list(ids))]
    return rows


def gradient(
    model: Any, ids: Sequence[int], point: Tensor, metric: Callable[[Tensor], Tensor]
) -> tuple[float, Tensor]:
    """A metric of the logits [pos, vocab] and its gradient at embeddings of the first tokens."""
    leaf = point.detach().clone().requires_grad_()

    def put(state: Tensor, hook: Any) -> Tensor:
        return torch.cat([leaf[None].to(state.dtype), state[:, len(leaf) :]], dim=1)

    logits = model.run_with_hooks(torch.tensor([list(ids)]), fwd_hooks=[("hook_embed", put)])[0]
    value = metric(logits)
    (found,) = torch.autograd.grad(value, leaf)
    return float(value.detach()), found


def integrated_gradients(
    model: Any,
    ids: Sequence[int],
    point: Tensor,
    baseline: Tensor,
    metric: Callable[[Tensor], Tensor],
    steps: int,
) -> Tensor:
    """The mean gradient on the line from the baseline, times the difference, [token, d_model]."""
    places, weights = np.polynomial.legendre.leggauss(steps)
    total = torch.zeros_like(point)
    for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
        between = baseline + float(place) * (point - baseline)
        total += float(weight) * gradient(model, ids, between, metric)[1]
    return total * (point - baseline)
