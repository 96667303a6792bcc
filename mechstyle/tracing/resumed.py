"""Causal tracing by resumed runs: only what a restored state can change is computed.

A state put back at token t of layer l leaves all positions before t, and all layers up to l, as they were. So
each cell joins a growing batch at the layer above its first restored one, with positions t to the end, and
takes everything else from the corrupted run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from mechstyle.models import HookedModel
from mechstyle.runs import Recording, record, record_again, rerun_blocks, resume
from mechstyle.sites import Kind, Site
from mechstyle.tracing.answer import Question
from mechstyle.tracing.grid import Cell
from mechstyle.tracing.restoration import Scores, corrupt, put_back
from mechstyle.tracing.sharing import share_suffixes

__all__ = ["RecordedCleanRun", "ResumedRuns"]


@dataclass(frozen=True, eq=False)
class RecordedCleanRun:
    """The clean run of a question, recorded.

    Attributes:
        logits: those that predict the answer's tokens.
        recording: with the states that may be put back.
    """

    model: HookedModel
    question: Question
    kinds: Sequence[Kind]
    recording: Recording
    logits: Float[Tensor, "1 answer vocab"]

    @classmethod
    def of(cls, model: HookedModel, question: Question, kinds: Sequence[Kind]) -> RecordedCleanRun:
        """Run the prompt."""
        layers = range(int(model.cfg.n_layers))
        sites = [Site(layer, kind) for kind in kinds if kind != "resid" for layer in layers]
        recording = record(model, question.ids, sites=sites)
        return cls(model, question, kinds, recording, _answer_logits(model, recording, question.n_answer))

    def corrupted(self, draws: Tensor, *, max_rows: int) -> ResumedRuns:
        """The same prompt under some noise draws; nothing before the subject is run."""
        subject = self.question.encoded.subject
        assert subject is not None
        ids = self.question.ids.expand(len(draws), -1)
        noise = corrupt(draws, subject)
        noisy = record_again(self.model, self.recording, ids, start=subject.start, hooks=[noise])
        after = {kind: _after(self.model, self.recording, noisy, kind) for kind in self.kinds}
        return ResumedRuns(self.model, self.question, self.recording, noisy, after, max_rows)


@dataclass(frozen=True, eq=False)
class ResumedRuns:
    """Corrupted runs of a question over some noise draws, from which every cell is resumed.

    Attributes:
        clean: the recorded clean run, with the states that may be put back.
        noisy: the recorded corrupted runs, a row a draw, from the subject on.
        after: kind -> layer -> what leaves that layer in the corrupted runs when each position's own output
            of this kind is clean there. One run of the block gives it for all tokens: within a block a
            position reads others' inputs only.
        max_rows: rows (a cell under a draw) in one batch.
    """

    model: HookedModel
    question: Question
    clean: Recording
    noisy: Recording
    after: Mapping[Kind, Sequence[Float[Tensor, "sample pos d_model"]]]
    max_rows: int

    def baseline(self) -> Scores:
        """Score of the answer for each draw, with nothing put back."""
        return self.question.score(_answer_logits(self.model, self.noisy, self.question.n_answer))

    def restored(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Scores]]:
        """Score of the answer for each draw, for every cell that can change it; other cells are left out."""
        top = int(self.model.cfg.n_layers)
        first_answer = self.noisy.n_positions - self.question.n_answer
        changing = [cell for cell in cells if _joins(cell) < top or cell.token >= first_answer]
        samples = self.noisy.n_rows
        per_token = len(changing) * samples / max(1, len({cell.token for cell in changing}))
        groups = share_suffixes(
            self.model.cfg,
            sorted({cell.token for cell in changing}),
            n_positions=self.noisy.n_positions,
            rows_per_token=per_token,
            max_rows=self.max_rows,
        )
        most = max(1, self.max_rows // samples)
        for tokens in groups:
            shared = sorted((cell for cell in changing if cell.token in tokens), key=_joins)
            for first in range(0, len(shared), most):
                some = shared[first : first + most]
                scores = self.question.score(self._run(some, start=min(tokens)))
                yield from zip(some, scores.reshape(len(some), samples), strict=True)

    def _run(self, cells: Sequence[Cell], *, start: int) -> Float[Tensor, "row answer vocab"]:
        """Logits of cells, in the order of their layers of joining; a row is a cell under a draw."""
        joining = {layer: list(some) for layer, some in groupby(cells, key=_joins)}
        residuals: dict[int, Callable[[], Tensor]] = {
            layer: lambda layer=layer, some=some: torch.cat(  # type: ignore[misc]
                [self._entering(cell, layer, start) for cell in some]
            )
            for layer, some in joining.items()
        }
        return resume(
            self.model,
            residuals,
            base=self.noisy,
            start=start,
            n_last=self.question.n_answer,
            hooks=put_back(
                # The window's first layer is already in what a row joins with.
                [(cell, cell.layers[1:]) for cell in cells],
                self.clean.states,
                samples=self.noisy.n_rows,
            ),
        )

    def _entering(self, cell: Cell, layer: int, start: int) -> Float[Tensor, "sample pos d_model"]:
        """What enters the cell's first changed layer: the corrupted states, but for its own token's."""
        residual = self.noisy.entering(layer, start).clone()
        if cell.kind == "resid":
            restored = self.clean.entering(layer, cell.token)[:, 0]
        else:
            restored = self.after[cell.kind][layer - 1][:, cell.token - self.noisy.start]
        residual[:, cell.token - start] = restored
        return residual


def _answer_logits(
    model: HookedModel, recording: Recording, n_answer: int
) -> Float[Tensor, "row answer vocab"]:
    top, start = int(model.cfg.n_layers), recording.n_positions - n_answer
    final = {top: lambda: recording.entering(top, start)}
    return resume(model, final, base=recording, start=start, n_last=n_answer)


def _joins(cell: Cell) -> int:
    """The layer whose input is the first to differ."""
    return cell.layers[0] + 1


def _after(
    model: HookedModel, clean: Recording, noisy: Recording, kind: Kind
) -> list[Float[Tensor, "sample pos d_model"]]:
    if kind == "resid":
        return []
    sites = [Site(layer, kind) for layer in range(int(model.cfg.n_layers))]

    def put_back(state: Tensor) -> Callable[..., Tensor]:
        return lambda output, hook: state.expand_as(output).clone()

    hooks = [(site.hook, put_back(clean.states[site][:, noisy.start :])) for site in sites]
    return rerun_blocks(model, noisy, clean, hooks=hooks)
