"""Whole edits in the textbook form: ROME and MEMIT, one request at a time, whole sequences, inverses.

As good as plain hooks allow: all contexts of a request are one run wherever the method has several. They
share nothing with the library but the model. `benchmarks/` proves the library equal to them and measures it
against them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.oracles import textbook
from tests.oracles.textbook import Row

KEY = "blocks.{}.mlp.hook_post"
OUT = textbook.STATE["resid"]


@dataclass(frozen=True)
class Request:
    """A request in all its contexts, the bare prompt first, and the prompt of the KL divergence."""

    contexts: tuple[Row, ...]
    own: Row

    @property
    def lengths(self) -> list[int]:
        """Tokens of each context, the answer's among them."""
        return [len(row.ids) for row in self.contexts]


def states(model: Any, rows: Sequence[Row], hooks: Sequence[str]) -> list[Tensor]:
    """States [row, d] at the subject's last token, one tensor a hook, from one whole run in one batch."""
    longest = max(len(row.ids) for row in rows)
    tokens = torch.tensor([row.ids + [0] * (longest - len(row.ids)) for row in rows], device=model.cfg.device)
    at = torch.tensor([row.subject_last for row in rows])
    found: dict[str, Tensor] = {}

    def keep(state: Tensor, hook: Any) -> None:
        found[hook.name] = state[torch.arange(len(rows)), at]

    with torch.no_grad():
        model.run_with_hooks(tokens, return_type=None, fwd_hooks=[(name, keep) for name in hooks])
    return [found[name] for name in hooks]


def rome(
    model: Any, request: Request, *, layer: int, covariance: Tensor, steps: int
) -> tuple[Tensor, textbook.Target]:
    """The change of one layer's W_out, keys read one context at a time, and the target."""
    target = textbook.target(model, request.contexts, request.own, layer=layer, steps=steps)
    keys = [states(model, [row], [KEY.format(layer)])[0] for row in request.contexts]
    key = torch.cat(keys).double().mean(0)
    direction = torch.linalg.inv(covariance.to(key)) @ key
    return torch.outer(direction / (key @ direction), target.delta.double()), target


def memit(
    model: Any,
    requests: Sequence[Request],
    *,
    layers: Sequence[int],
    covariance: Mapping[int, Tensor],
    ridge: float,
    steps: int,
    clamp_norm: float,
) -> dict[int, Tensor]:
    """The change of each layer's W_out, layers in rising order; the model is as before.

    Meng et al. 2023, section 4: a target for each request; then layer by layer every request is run again,
    with what is below it already written, for its keys and for what is still missing at the last layer.
    """
    last, n_rows = layers[-1], len(requests)
    wanted = []
    for request in requests:
        target = textbook.target(
            model,
            request.contexts,
            request.own,
            layer=last,
            kind="resid",
            steps=steps,
            clamp_norm=clamp_norm,
        )
        wanted.append(target.output.double() + target.delta.double())
    weights = {layer: model.blocks[layer].mlp.W_out for layer in layers}
    before = {layer: weight.detach().clone() for layer, weight in weights.items()}
    changes: dict[int, Tensor] = {}
    for left, layer in zip(range(len(layers), 0, -1), layers, strict=True):
        keys, missing = [], []
        for number in range(n_rows):
            own_keys, now = states(model, requests[number].contexts, [KEY.format(layer), OUT.format(last)])
            keys.append(own_keys.double().mean(0))
            missing.append(wanted[number] - now[0].double())
        key, residual = torch.stack(keys), torch.stack(missing) / left
        inverse = torch.linalg.inv(ridge * covariance[layer].to(key) + key.T @ key)
        changes[layer] = inverse @ (key.T @ residual)
        with torch.no_grad():
            weights[layer].copy_(before[layer].double() + changes[layer])
    with torch.no_grad():
        for layer, weight in weights.items():
            weight.copy_(before[layer])
    return changes
