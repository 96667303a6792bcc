"""Textbook MEMIT: one prompt at a time, plain hooks, inverses written out, weights added to in place.

Shares nothing with the library but the model, so that the library can be checked against it. What states are
wanted is given.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.oracles.rome_loop import sentence


def state(model: Any, hook: str, context: str, fact: tuple[str, str], bos: bool) -> Tensor:
    """One state at the subject's last token of one prompt, in fp64."""
    template, subject = fact
    one = sentence(model, context, template, subject, " a", bos)
    seen: list[Tensor] = []

    def keep(value: Tensor, hook: Any) -> None:
        seen.append(value[0, one.subject_last].detach().double().clone())

    with torch.no_grad():
        model.run_with_hooks(torch.tensor([one.ids]), fwd_hooks=[(hook, keep)], prepend_bos=False)
    return seen[0]


def mean_key(
    model: Any, layer: int, contexts: list[str], fact: tuple[str, str], mean_of_means: bool, bos: bool
) -> Tensor:
    """Flat mean over contexts, or as published: the bare prompt (``contexts[0]``) is one half of it."""
    keys = [state(model, f"blocks.{layer}.mlp.hook_post", context, fact, bos) for context in contexts]
    if mean_of_means and len(keys) > 1:
        return (keys[0] + sum(keys[1:]) / (len(keys) - 1)) / 2
    return sum(keys) / len(keys)


def memit_loop(
    model: Any,
    *,
    facts: list[tuple[str, str]],
    wanted: Tensor,
    contexts: list[str],
    covariances: dict[int, Tensor],
    layers: list[int],
    ridge: float,
    mean_of_means: bool = False,
    bos: bool = False,
) -> tuple[dict[int, Tensor], list[float]]:
    """Return the change of each layer's W_out and the mean norm of what was missing before each.

    ``facts`` are (template, subject). The model **stays edited**, but for the last layer: pass a copy.
    """
    changes: dict[int, Tensor] = {}
    missing: list[float] = []
    for number, layer in enumerate(layers):
        now = [state(model, f"blocks.{layers[-1]}.hook_resid_post", "{}", fact, bos) for fact in facts]
        gaps = [want.double() - have for want, have in zip(wanted, now, strict=True)]
        missing.append(sum(float((gap**2).sum().sqrt()) for gap in gaps) / len(gaps))
        residuals = torch.stack([gap / (len(layers) - number) for gap in gaps])
        keys = torch.stack([mean_key(model, layer, contexts, fact, mean_of_means, bos) for fact in facts])
        moment = covariances[layer].double()
        if ridge > 0:  # least squares, MEMIT's eq. 14
            change = torch.linalg.inv(ridge * moment + keys.T @ keys) @ keys.T @ residuals
        else:  # equality constraints, EMMET's eq. 12
            inverse = torch.linalg.inv(moment)
            change = inverse @ keys.T @ torch.linalg.inv(keys @ inverse @ keys.T) @ residuals
        changes[layer] = change
        if layer != layers[-1]:
            with torch.no_grad():
                weight = model.blocks[layer].mlp.W_out
                weight.copy_((weight.double() + change).to(weight.dtype))
    return changes, missing
