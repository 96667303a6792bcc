"""Hooks that corrupt and restore, and causal tracing by whole runs: the form that needs nothing but hooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from mechstyle.models import HookedModel
from mechstyle.runs import Hook, capture, logits
from mechstyle.sites import Kind, Site
from mechstyle.tracing.answer import Question
from mechstyle.tracing.grid import Cell

__all__ = ["Scores", "WholeCleanRun", "WholeRuns", "corrupt", "put_back"]

Scores = Float[NDArray[np.float64], " sample"]
States = Mapping[Site, Float[Tensor, "1 pos d_model"]]


@dataclass(frozen=True, eq=False)
class WholeCleanRun:
    """The clean run of a question and its states.

    Attributes:
        logits: those that predict the answer's tokens.
        states: what may be put back.
    """

    model: HookedModel
    question: Question
    logits: Float[Tensor, "1 answer vocab"]
    states: States

    @classmethod
    def of(cls, model: HookedModel, question: Question, kinds: Sequence[Kind]) -> WholeCleanRun:
        """Run the prompt."""
        sites = [Site(layer, kind) for kind in kinds for layer in range(int(model.cfg.n_layers))]
        found = logits(model, question.ids, n_last=question.n_answer)
        return cls(model, question, found, capture(model, question.ids, sites))

    def corrupted(self, draws: Tensor, *, max_rows: int) -> WholeRuns:
        """The same prompt under some noise draws."""
        return WholeRuns(self.model, self.question, draws, self.states, max_rows)


@dataclass(frozen=True, eq=False)
class WholeRuns:
    """Corrupted runs of a question over some noise draws, each cell run from the first token to the last.

    Attributes:
        clean: the clean run's states, by site, that may be put back.
        max_rows: rows (a cell under a draw) in one batch.
    """

    model: HookedModel
    question: Question
    draws: Float[Tensor, "sample subject_token d_model"]
    clean: States
    max_rows: int

    def baseline(self) -> Scores:
        """Score of the answer for each draw, with nothing put back."""
        return self._scores(self.draws, [])

    def restored(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Scores]]:
        """Score of the answer for each draw, for every cell."""
        samples = len(self.draws)
        most = max(1, self.max_rows // samples)
        for first in range(0, len(cells), most):
            some = cells[first : first + most]
            hooks = put_back([(cell, cell.layers) for cell in some], self.clean, samples=samples)
            scores = self._scores(self.draws.repeat(len(some), 1, 1), hooks)
            yield from zip(some, scores.reshape(len(some), samples), strict=True)

    def _scores(self, draws: Tensor, restorations: Sequence[Hook]) -> NDArray[np.float64]:
        """The noise comes first, so that a state put back at the embedding stays clean."""
        subject = self.question.encoded.subject
        assert subject is not None
        ids = self.question.ids.expand(len(draws), -1)
        hooks = [corrupt(draws, subject), *restorations]
        return self.question.score(logits(self.model, ids, hooks=hooks, n_last=self.question.n_answer))


def corrupt(draws: Float[Tensor, "sample subject_token d_model"], subject: range) -> Hook:
    """The hook that adds one draw a row to the embeddings of the subject's tokens."""

    def add_noise(state: Tensor, hook: Any) -> Tensor:
        state = state.clone()
        state[:, subject.start : subject.stop] += draws.to(device=state.device, dtype=state.dtype)
        return state

    return Site(0, "embed").hook, add_noise


def put_back(cells: Sequence[tuple[Cell, Sequence[int]]], clean: States, *, samples: int) -> list[Hook]:
    """Hooks that put the clean state of each cell's token back, in the cell's own rows of a batch.

    Args:
        cells: in the order of their rows, each with the layers to restore.
        clean: states of the whole prompt; the batch may hold its last positions only.
        samples: rows of one cell.
    """
    wanted: dict[Site, list[int]] = {}
    for index, (cell, layers) in enumerate(cells):
        for layer in layers:
            wanted.setdefault(Site(layer, cell.kind), []).append(index)
    tokens = [cell.token for cell, _ in cells]
    return [
        _put_back(site, clean[site], rows, [tokens[row] for row in rows], samples)
        for site, rows in wanted.items()
    ]


def _put_back(site: Site, clean: Tensor, rows: Sequence[int], columns: Sequence[int], samples: int) -> Hook:
    index, column = torch.tensor(rows, device=clean.device), torch.tensor(columns, device=clean.device)
    own = clean[0, column][:, None]

    def restore(state: Tensor, hook: Any) -> Tensor:
        # A resumed run holds the last positions only.
        at = column - (clean.shape[1] - state.shape[1])
        here = at >= 0
        state = state.clone().unflatten(0, (-1, samples))
        state[index[here], :, at[here]] = own[here]
        return state.flatten(0, 1)

    return site.hook, restore
