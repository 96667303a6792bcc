"""Runs from given embeddings, with states at some sites and the gradients of a metric there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechstyle.errors import InputError, ModelError
from mechstyle.models import HookedModel
from mechstyle.runs import Hook, capture, logits
from mechstyle.sites import Site, by_position
from mechstyle.tracing.sides import Side

__all__ = ["Embedded", "Run", "States", "embedded", "gradients", "run_embedded", "upcast"]

EMBED = Site(0, "embed")
States = Mapping[Site, Float[Tensor, "row token *rest"]]


@dataclass(frozen=True, eq=False)
class Embedded:
    """A side by the embeddings that its hooks leave: what rows of two sides can be mixed from.

    Attributes:
        ids: one row, for the length of the run; its tokens' embeddings are replaced.
        values: token embeddings after the side's hooks.
    """

    ids: Int[Tensor, "1 pos"]
    values: Float[Tensor, "row pos d_model"]

    @property
    def n_rows(self) -> int:
        """Rows of the side."""
        return len(self.values)

    @property
    def row_ids(self) -> Int[Tensor, "row pos"]:
        """Ids for a run of the side."""
        return self.ids.expand(self.n_rows, -1)

    @property
    def hook(self) -> Hook:
        """The hook that puts the embeddings in, in any number of copies of the side."""

        def begin(state: Tensor, hook: Any) -> Tensor:
            return self.values.to(state).repeat(len(state) // self.n_rows, 1, 1)

        return EMBED.hook, begin

    def rows(self, here: slice) -> Embedded:
        """Some of the rows; a side of one row serves all."""
        return self if self.n_rows == 1 else Embedded(self.ids, self.values[here])

    def towards(self, other: Embedded, shares: Sequence[float]) -> Embedded:
        """Rows on the straight line to the other side: those of the first share, of the second, and so on."""
        step = other.values - self.values
        return Embedded(self.ids, torch.cat([self.values + share * step for share in shares]))


@dataclass(frozen=True, eq=False)
class Run:
    """One run of some rows.

    Attributes:
        logits: those that predict the answer's tokens, with their graph if the run kept it.
        states: at the asked tokens, without a graph; positions are the second axis, for patterns too.
        nodes: whole states where the graph goes through them; empty without one.
        tokens: the asked ones.
    """

    logits: Float[Tensor, "row answer vocab"]
    states: States
    nodes: Mapping[Site, Tensor]
    tokens: range


def embedded(model: HookedModel, side: Side) -> Embedded:
    """Read the embeddings that a side's hooks leave."""
    return Embedded(side.ids[:1], capture(model, side.ids, [EMBED], hooks=side.hooks)[EMBED])


def run_embedded(
    model: HookedModel,
    side: Embedded,
    sites: Sequence[Site],
    *,
    tokens: range,
    n_answer: int,
    grad: bool = False,
) -> Run:
    """Run whole sequences from the side's embeddings and keep the states of some tokens.

    Args:
        grad: keep the graph from the embeddings on; the model's parameters get no gradients from it.

    Raises:
        InputError: the model has no state at a site.
    """
    start = Embedded(side.ids, side.values.detach().clone().requires_grad_(grad))
    states: dict[Site, Tensor] = {}
    nodes: dict[Site, Tensor] = {}

    def keep(site: Site) -> Callable[..., Tensor | None]:
        def read(state: Tensor, hook: Any) -> Tensor | None:
            states[site] = _part(site, state.detach(), tokens).clone()
            if not grad:
                return None
            nodes[site] = state
            return state  # a bridge may show a copy, and goes on with it only if it gets it back

        return read

    hooks = [start.hook, *((site.hook, keep(site)) for site in sites)]
    found = logits(model, side.row_ids, hooks=hooks, n_last=n_answer, grad=grad)
    return Run(found, states, nodes, tokens)


def gradients(run: Run, metric: Callable[[Tensor], Tensor]) -> dict[Site, Tensor]:
    """Gradient of each row's metric at the run's states; nothing is written into ``grad`` of any tensor.

    Raises:
        InputError: the metric has no gradient.
        ModelError: the answer does not depend on a state: the model shows a copy of it.
    """
    with torch.enable_grad():
        total = metric(run.logits).sum()
    if not total.requires_grad:
        raise InputError(
            "metric: expected one with a gradient; use torch operations on the logits, attached."
        )
    found = torch.autograd.grad(total, list(run.nodes.values()), allow_unused=True)
    slopes = dict(zip(run.nodes, found, strict=True))
    lost = [site.hook for site, slope in slopes.items() if slope is None]
    if lost:
        raise ModelError(f"model: no gradient reaches its states at {', '.join(lost)}; leave out their kind.")
    return {site: _part(site, slope, run.tokens) for site, slope in slopes.items()}


def _part(site: Site, state: Tensor, tokens: range) -> Tensor:
    return by_position(site.kind, state)[:, tokens.start : tokens.stop]


def upcast(values: Tensor) -> Tensor:
    """In fp32 at least."""
    return values if values.dtype == torch.float64 else values.float()
