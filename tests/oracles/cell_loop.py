"""One cell of any kind, by one run of whole sequences with plain hooks: the oracle of both engines.

It shares no code with `mechstyle.tracing`: what each kind means is written out here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.oracles.trace_loop import score, window

Write = Callable[[Tensor, Tensor, int, int | None], None]
Edit = tuple[str, Callable[[Tensor], None]]


def _all(state: Tensor, other: Tensor, token: int, index: int | None) -> None:
    state[0, token] = other[0, token]


def _part(state: Tensor, other: Tensor, token: int, index: int | None) -> None:
    state[0, token, index] = other[0, token, index]


def _row(state: Tensor, other: Tensor, token: int, index: int | None) -> None:
    state[0, index, token] = other[0, index, token]


PUT: Mapping[str, tuple[str, Write]] = {
    "resid": ("blocks.{}.hook_resid_post", _all),
    "severed_mlp": ("blocks.{}.hook_resid_post", _all),
    "severed_attn": ("blocks.{}.hook_resid_post", _all),
    "mlp": ("blocks.{}.hook_mlp_out", _all),
    "attn": ("blocks.{}.hook_attn_out", _all),
    "heads": ("blocks.{}.attn.hook_z", _part),
    "q": ("blocks.{}.attn.hook_q", _part),
    "k": ("blocks.{}.attn.hook_k", _part),
    "v": ("blocks.{}.attn.hook_v", _part),
    "pattern": ("blocks.{}.attn.hook_pattern", _row),
    "neurons": ("blocks.{}.mlp.hook_post", _part),
}
HELD = {"severed_mlp": "blocks.{}.hook_mlp_out", "severed_attn": "blocks.{}.hook_attn_out"}


@dataclass(frozen=True, eq=False)
class Prompt:
    """One row of a side: token ids with the answer, and the noise on its embeddings, if any."""

    ids: list[int]
    noise: Tensor | None = None
    noisy: Sequence[int] = ()


def hooks_of(prompt: Prompt, edits: Sequence[Edit]) -> list[tuple[str, Callable[..., Tensor]]]:
    """The noise on the embeddings, then the edits, each in place on a copy of its state."""

    def corrupt(state: Tensor) -> None:
        for row, token in enumerate(prompt.noisy):
            state[0, token] += prompt.noise[row].to(state)  # type: ignore[index]

    def hook_of(edit: Callable[[Tensor], None]) -> Callable[..., Tensor]:
        def apply(state: Tensor, hook: object) -> Tensor:
            state = state.clone()
            edit(state)
            return state

        return apply

    return [(name, hook_of(edit)) for name, edit in [("hook_embed", corrupt), *edits]]


def states(model: Any, prompt: Prompt) -> Mapping[str, Tensor]:
    """All states of a run, by the names of their hooks."""
    ids = torch.tensor([prompt.ids], device=model.cfg.device)
    with torch.no_grad(), model.hooks(fwd_hooks=hooks_of(prompt, [])):
        found: Mapping[str, Tensor] = model.run_with_cache(ids, return_type=None)[1]
    return found


def logits(model: Any, prompt: Prompt, edits: Sequence[Edit] = ()) -> Tensor:
    """Logits [pos, vocab] of one run."""
    ids = torch.tensor([prompt.ids], device=model.cfg.device)
    with torch.no_grad():
        found: Tensor = model.run_with_hooks(ids, fwd_hooks=hooks_of(prompt, edits))
    return found[0]


def cell(
    model: Any,
    source: Mapping[str, Tensor],
    base: Prompt,
    own: Mapping[str, Tensor],
    *,
    kind: str,
    tokens: Sequence[int],
    layer: int,
    index: int | None,
    n_prompt: int,
    width: int = 1,
    metric: str = "logprob",
) -> float:
    """The metric of the base with one cell's states of the source.

    Args:
        source: the states of the run that gives.
        own: the states of the base's own run.
        width: layers of a window of the kinds "mlp" and "attn".
    """
    n_layers = model.cfg.n_layers
    name, write = PUT[kind]
    layers = window(layer, width, n_layers) if kind in ("mlp", "attn") else [layer]
    changes = [(name.format(at), source, write) for at in layers]
    if kind in HELD:
        changes += [(HELD[kind].format(at), own, _all) for at in range(layer + 1, n_layers)]

    def edit_of(at: str, states: Mapping[str, Tensor], write: Write) -> Edit:
        def edit(state: Tensor) -> None:
            for token in tokens:
                write(state, states[at], token, index)

        return at, edit

    found = logits(model, base, [edit_of(*one) for one in changes])
    return score(found, base.ids, n_prompt, metric)
