"""Cells by whole runs: the form that needs nothing but hooks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from mechstyle.models import HookedModel
from mechstyle.runs import Hook, capture, logits
from mechstyle.sites import Site
from mechstyle.tracing.exchange import Exchange, Score, Scored, States, put_in
from mechstyle.tracing.grid import Cell
from mechstyle.tracing.sides import Side
from mechstyle.tracing.writable import require_parts, require_writable

__all__ = ["WholeCleanRun", "WholeRuns"]


@dataclass(frozen=True, eq=False)
class WholeCleanRun:
    """The clean run and its states.

    Attributes:
        logits: those that predict the answer's tokens.
        states: what may be put in, or held.
    """

    model: HookedModel
    side: Side
    exchange: Exchange
    logits: Float[Tensor, "1 answer vocab"]
    states: States

    @classmethod
    def of(cls, model: HookedModel, side: Side, exchange: Exchange) -> WholeCleanRun:
        """Run the clean side.

        Raises:
            ModelError: the model's states have other axes, or do not count when they are put in.
        """
        found = logits(model, side.ids, hooks=side.hooks, n_last=exchange.n_last)
        require_writable(model, side, exchange.put, found)
        return cls(model, side, exchange, found, _states(model, side, exchange.of_clean))

    def against(self, corrupted: Side, *, max_rows: int) -> WholeRuns:
        """The same with a corrupted side."""
        exchange = self.exchange
        found = logits(self.model, corrupted.ids, hooks=corrupted.hooks, n_last=exchange.n_last)
        states = _states(self.model, corrupted, exchange.of_corrupted)
        sides = (self.states, states, corrupted) if exchange.denoising else (states, self.states, self.side)
        return WholeRuns(self.model, *sides, found, exchange.n_last, max_rows)


@dataclass(frozen=True, eq=False)
class WholeRuns:
    """Two sides, each cell run from the first token to the last.

    Attributes:
        source: states that may be put in.
        held: states that may be held.
        base: the side that receives them.
        logits: those of the corrupted side that predict the answer's tokens, a row a sample.
        max_rows: rows (a cell under a sample) in one batch.
    """

    model: HookedModel
    source: States
    held: States
    base: Side
    logits: Float[Tensor, "sample answer vocab"]
    n_last: int
    max_rows: int

    def changed(self, cells: Sequence[Cell], score: Score) -> Iterator[Scored]:
        """Some cells at a time, with the score of each under each sample."""
        samples = len(self.logits)
        most = max(1, self.max_rows // samples)
        copies = samples // self.base.n_rows
        for first in range(0, len(cells), most):
            some = cells[first : first + most]
            ids = self.base.ids.repeat(len(some) * copies, 1)
            scores = score(logits(self.model, ids, hooks=self._hooks(some, ids), n_last=self.n_last))
            yield some, scores.reshape(len(some), samples)

    def _hooks(self, cells: Sequence[Cell], ids: Tensor) -> list[Hook]:
        """The corruption comes first, so that a state put in at the embedding stays."""
        n_layers, samples, stop = int(self.model.cfg.n_layers), len(self.logits), ids.shape[1]
        put = put_in(cells, lambda cell: cell.put, self.source, stop=stop, samples=samples)
        held = put_in(cells, lambda cell: cell.held(n_layers), self.held, stop=stop, samples=samples)
        return [*self.base.hooks, *put, *held]


def _states(model: HookedModel, side: Side, sites: Sequence[Site]) -> States:
    found = capture(model, side.ids, sites, hooks=side.hooks) if sites else {}
    require_parts(model, found)
    return States(found)
