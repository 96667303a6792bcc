"""Causal tracing as slowly and plainly as can be: the oracle of every faster form.

One forward pass for every draw and every cell, no batch, no skipping, hooks written out here, and the score
computed from the definition. It shares no code with `mechstyle.tracing`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

HOOKS = {
    "resid": "blocks.{}.hook_resid_post",
    "mlp": "blocks.{}.hook_mlp_out",
    "attn": "blocks.{}.hook_attn_out",
    "embed": "hook_embed",
}
Edit = Callable[[Tensor], None]


def run(
    model: HookedTransformer, ids: list[int], edits: Sequence[tuple[str, Edit]]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits [pos, vocab] and all states of one sequence, each edit made in its turn on its own state."""
    states: dict[str, Tensor] = {}
    names = [name.format(layer) for name in HOOKS.values() for layer in range(model.cfg.n_layers)]

    def hook_of(name: str) -> Callable[..., Tensor]:
        def apply(state: Tensor, hook: object) -> Tensor:
            state = state.clone()
            for at, edit in edits:
                if at == name:
                    edit(state)
            states[name] = state.clone()
            return state

        return apply

    hooks = [(name, hook_of(name)) for name in dict.fromkeys(names)]
    with torch.no_grad():
        logits = model.run_with_hooks(torch.tensor([ids]), fwd_hooks=hooks, return_type="logits")
    return logits[0], states


def score(logits: Tensor, ids: list[int], n_prompt: int, metric: str) -> float:
    """Sum of the answer tokens' log-probabilities, or its exponential."""
    total = 0.0
    for position in range(n_prompt, len(ids)):
        probabilities = torch.softmax(logits[position - 1].double(), dim=-1)
        total += math.log(float(probabilities[ids[position]]))
    return math.exp(total) if metric == "prob" else total


def noise_edit(draw: Tensor, subject: Sequence[int]) -> tuple[str, Edit]:
    """Add one draw [subject_token, d_model] to the embeddings of the subject's tokens."""

    def edit(state: Tensor) -> None:
        for row, token in enumerate(subject):
            state[0, token] += draw[row].to(state.dtype)

    return HOOKS["embed"], edit


def restore_edit(clean: dict[str, Tensor], name: str, token: int) -> tuple[str, Edit]:
    """Put the clean state of one token back."""

    def edit(state: Tensor) -> None:
        state[0, token] = clean[name][0, token]

    return name, edit


def window(layer: int, width: int, n_layers: int) -> list[int]:
    """The layers l with max(0, layer - width // 2) <= l <= min(n_layers, layer + ceil(width / 2)) - 1."""
    first, last = max(0, layer - width // 2), min(n_layers, layer + math.ceil(width / 2)) - 1
    return [at for at in range(n_layers) if first <= at <= last]


def trace(
    model: HookedTransformer,
    ids: list[int],
    *,
    n_prompt: int,
    subject: Sequence[int],
    draws: Tensor,
    kind: str,
    width: int = 1,
    metric: str = "prob",
) -> tuple[float, list[float], list[list[list[float]]]]:
    """Clean score, corrupted score of each draw, and restored score [sample][token][layer] of every cell."""
    n_layers = model.cfg.n_layers
    clean_logits, clean = run(model, ids, [])
    corrupted, restored = [], []
    for draw in draws:
        noise = noise_edit(draw, subject)
        corrupted.append(score(run(model, ids, [noise])[0], ids, n_prompt, metric))
        grid = []
        for token in range(n_prompt):
            row = []
            for layer in range(n_layers):
                layers = [layer] if kind == "resid" else window(layer, width, n_layers)
                edits = [restore_edit(clean, HOOKS[kind].format(at), token) for at in layers]
                row.append(score(run(model, ids, [noise, *edits])[0], ids, n_prompt, metric))
            grid.append(row)
        restored.append(grid)
    return score(clean_logits, ids, n_prompt, metric), corrupted, restored
