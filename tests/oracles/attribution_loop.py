"""Patching one cell at a time, exactly and to first order: the oracle of attribution patching.

Every state that a cell sets is set by a hook of its own in a whole run of one sequence; every gradient comes
from a backward run of its own. It shares no code with `mechstyle.tracing`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

RESID, MLP, ATTN = "blocks.{}.hook_resid_post", "blocks.{}.hook_mlp_out", "blocks.{}.hook_attn_out"
ONE = {"resid": RESID, "mlp": MLP, "attn": ATTN}
PARTS = {"heads": "z", "q": "q", "k": "k", "v": "v"}
Setting = tuple[str, tuple[int, ...], str]
"""A hook's name, the index of what is set in the state of one sequence, and the side that it comes from."""


@dataclass(frozen=True)
class Side:
    """One sequence, with values added to the embeddings of some tokens."""

    ids: list[int]
    noise: Tensor | None = None
    tokens: tuple[int, ...] = ()

    def hook(self, state: Tensor, hook: Any) -> Tensor:
        state = state.clone()
        for row, token in enumerate(self.tokens):
            assert self.noise is not None
            state[0, token] += self.noise[row].to(state)
        return state


def settings(kind: str, token: int, layer: int, part: int, *, width: int, n_layers: int) -> list[Setting]:
    """What a cell sets, from the lowest layer up."""
    if kind in ("mlp", "attn"):
        low, high = max(0, layer - width // 2), min(n_layers, layer + math.ceil(width / 2))
        return [(ONE[kind].format(at), (token,), "source") for at in range(low, high)]
    if kind.startswith("severed"):
        held = MLP if kind.endswith("mlp") else ATTN
        later = [(held.format(at), (token,), "base") for at in range(layer + 1, n_layers)]
        return [(RESID.format(layer), (token,), "source"), *later]
    if kind == "resid":
        return [(RESID.format(layer), (token,), "source")]
    if kind == "pattern":
        return [(f"blocks.{layer}.attn.hook_pattern", (part, token), "source")]
    if kind == "neurons":
        return [(f"blocks.{layer}.mlp.hook_post", (token, part), "source")]
    return [(f"blocks.{layer}.attn.hook_{PARTS[kind]}", (token, part), "source")]


@dataclass(frozen=True)
class Patching:
    """Two runs of one sequence and a metric of the logits [1, pos, vocab]."""

    model: Any
    base: Side
    source: Side
    metric: Callable[[Tensor], Tensor]
    kept: dict[tuple[int, str], Tensor] = field(default_factory=dict)

    def score(self, side: Side, cells: Sequence[Setting] = ()) -> float:
        """The metric of a side's run with some states set."""
        return float(self.metric(self._run(side, list(cells))[0]))

    def exact(self, cells: Sequence[Setting]) -> float:
        """What setting these states in the base run changes."""
        return self.score(self.base, cells) - self.score(self.base)

    def first_order(self, cells: Sequence[Setting]) -> float:
        """The sum over settings of gradient x change, each change from the run with those before it set."""
        total = 0.0
        for place, (name, index, _) in enumerate(cells):
            value = self._values(cells[place])
            present = self._run(self.base, list(cells[:place]), read=name)[1][(0, *index)]
            change = (value - present).double()
            total += float((self.gradient(self.base, name)[(0, *index)].double() * change).sum())
        return total

    def along(self, cell: Setting, steps: int) -> float:
        """The same for one setting, with the mean of gradients at the midpoints between the embeddings."""
        name, index, _ = cell
        ends = [self._run(side, [], read="hook_embed")[1] for side in (self.base, self.source)]
        change = self._values(cell) - self._run(self.base, [], read=name)[1][(0, *index)]
        total = 0.0
        for step in range(steps):
            mixed = ends[0] + (ends[1] - ends[0]) * ((step + 0.5) / steps)
            tokens = tuple(range(mixed.shape[1]))
            here = Side(self.base.ids, (mixed - self.model.embed(torch.tensor([self.base.ids])))[0], tokens)
            total += float((self.gradient(here, name)[(0, *index)].double() * change.double()).sum())
        return total / steps

    def gradient(self, side: Side, name: str) -> Tensor:
        """Of the metric at one place."""
        kept: list[Tensor] = []

        def cut(state: Tensor, hook: Any) -> Tensor:
            kept.append(state.detach().clone().requires_grad_())
            return kept[0]

        with torch.enable_grad():
            logits = self.model.run_with_hooks(
                torch.tensor([side.ids]), fwd_hooks=[("hook_embed", side.hook), (name, cut)]
            )
            return torch.autograd.grad(self.metric(logits), kept[0])[0]

    def _values(self, cell: Setting) -> Tensor:
        side = self.source if cell[2] == "source" else self.base
        return self._state(side, cell[0])[(0, *cell[1])]

    def _state(self, side: Side, name: str) -> Tensor:
        if (id(side), name) not in self.kept:
            self.kept[id(side), name] = self._run(side, [], read=name)[1]
        return self.kept[id(side), name]

    def _run(self, side: Side, cells: list[Setting], read: str | None = None) -> tuple[Tensor, Tensor]:
        found: list[Tensor] = []

        def setter(cell: Setting) -> tuple[str, Callable[..., Tensor]]:
            value = self._values(cell)

            def put(state: Tensor, hook: Any) -> Tensor:
                state = state.clone()
                state[(0, *cell[1])] = value
                return state

            return cell[0], put

        def keep(state: Tensor, hook: Any) -> None:
            found.append(state.clone())

        hooks = [("hook_embed", side.hook), *(setter(cell) for cell in cells)]
        reading = [] if read is None else [(read, keep)]
        with torch.no_grad():
            logits = self.model.run_with_hooks(torch.tensor([side.ids]), fwd_hooks=[*hooks, *reading])
        return logits, found[0] if found else logits
