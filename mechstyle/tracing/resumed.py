"""Cells by resumed runs: only what a state that is put in can change is computed.

A state put in at token t of layer l leaves all positions before t, and all layers up to l, as they were. So
each cell joins a growing batch at the layer above its first changed one, with positions t to the end, and
takes everything else from the run that receives. Keys and values change later tokens of their own layer:
their cells join at this layer, with a hook in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechstyle.models import HookedModel
from mechstyle.runs import Hook, Recording, record, record_again, resume
from mechstyle.sites import Site
from mechstyle.tracing.exchange import Exchange, Score, Scored, States, put_in
from mechstyle.tracing.grid import Cell
from mechstyle.tracing.leaving import Leaving
from mechstyle.tracing.sharing import share_suffixes
from mechstyle.tracing.sides import Side

__all__ = ["RecordedCleanRun", "ResumedRuns"]

Replaced = tuple[Int[Tensor, " entry"], Int[Tensor, " entry"], Float[Tensor, "entry sample d_model"]]
"""Cells, tokens, and what leaves the layer below there."""
WHOLE = ("mlp", "attn")
"""States that are put in whole: what leaves their layers then is found once, for all cells."""


@dataclass(frozen=True, eq=False)
class RecordedCleanRun:
    """The clean run, recorded.

    Attributes:
        logits: those that predict the answer's tokens.
        recording: with the states that may be put in, or held.
    """

    model: HookedModel
    exchange: Exchange
    recording: Recording
    logits: Float[Tensor, "1 answer vocab"]

    @classmethod
    def of(cls, model: HookedModel, side: Side, exchange: Exchange) -> RecordedCleanRun:
        """Run the clean side."""
        recording = record(model, side.ids, sites=_inside(exchange.of_clean), hooks=side.hooks)
        return cls(model, exchange, recording, _answer_logits(model, recording, exchange.n_last))

    def against(self, corrupted: Side, *, max_rows: int) -> ResumedRuns:
        """The same with a corrupted side; nothing before the first difference is run."""
        exchange, model = self.exchange, self.model
        again = record_again(
            model,
            self.recording,
            corrupted.ids,
            start=exchange.first,
            sites=_inside(exchange.of_corrupted),
            hooks=corrupted.hooks,
        )
        source, base = (self.recording, again) if exchange.denoising else (again, self.recording)
        leaving = Leaving(model, base, States(source.states, source.start), again.n_rows)
        positions = range(exchange.first, base.n_positions)
        return ResumedRuns(
            source,
            base,
            {site: leaving(site, [None], positions)[0] for site in exchange.put if site.kind in WHOLE},
            leaving,
            _answer_logits(model, again, exchange.n_last),
            exchange,
            max_rows,
        )


@dataclass(frozen=True, eq=False)
class ResumedRuns:
    """Two recorded sides, from one of which every cell is resumed.

    Attributes:
        source: the recorded runs that give states.
        base: the recorded runs that receive them.
        after: by site, what leaves its layer in the base when each position's own state is the source's; from
            the first difference on.
        leaving: finds the same for heads and neurons, of which there are too many to keep.
        logits: those of the corrupted side that predict the answer's tokens, a row a sample.
        max_rows: rows (a cell under a sample) in one batch.
    """

    source: Recording
    base: Recording
    after: Mapping[Site, Float[Tensor, "sample pos d_model"]]
    leaving: Leaving
    logits: Float[Tensor, "sample answer vocab"]
    exchange: Exchange
    max_rows: int

    def changed(self, cells: Sequence[Cell], score: Score) -> Iterator[Scored]:
        """Some cells at a time, with the score of each under each sample; none that changes nothing."""
        top = int(self.leaving.model.cfg.n_layers)
        first_answer = self.base.n_positions - self.exchange.n_last
        changing = [cell for cell in cells if cell.joins < top or cell.tokens[-1] >= first_answer]
        # A hook inside the last block makes it run all positions, also for the other rows of its batch.
        inside = [cell for cell in changing if cell.kind.reach == "later" and cell.joins == top - 1]
        others = [cell for cell in changing if cell.kind.reach != "later" or cell.joins < top - 1]
        for some in (others, inside):
            yield from self._batches(some, score)

    def _batches(self, cells: Sequence[Cell], score: Score) -> Iterator[Scored]:
        samples = self.leaving.samples
        starts = sorted({cell.tokens[0] for cell in cells})
        groups = share_suffixes(
            self.leaving.model.cfg,
            starts,
            n_positions=self.base.n_positions,
            rows_per_token=len(cells) * samples / max(1, len(starts)),
            max_rows=self.max_rows,
        )
        most = max(1, self.max_rows // samples)
        for tokens in groups:
            shared = sorted((cell for cell in cells if cell.tokens[0] in tokens), key=_order)
            for first in range(0, len(shared), most):
                some = shared[first : first + most]
                yield some, score(self._run(some, start=min(tokens))).reshape(len(some), samples)

    def _run(self, cells: Sequence[Cell], *, start: int) -> Float[Tensor, "row answer vocab"]:
        """Logits of cells, in the order of their layers of joining; a row is a cell under a sample."""
        joining = {layer: list(some) for layer, some in groupby(cells, key=lambda cell: cell.joins)}
        return resume(
            self.leaving.model,
            {layer: self._entering(layer, some, start) for layer, some in joining.items()},
            base=self.base,
            start=start,
            n_last=self.exchange.n_last,
            hooks=self._hooks(cells),
        )

    def _hooks(self, cells: Sequence[Cell]) -> list[Hook]:
        n_layers = int(self.leaving.model.cfg.n_layers)
        stop, samples = self.base.n_positions, self.leaving.samples
        source, base = self.leaving.source, States(self.base.states, self.base.start)

        def put(cell: Cell) -> Sequence[Site]:
            """What joins above a layer already has what was put in there."""
            return cell.put[cell.joins - cell.layers[0] :]

        return [
            *put_in(cells, put, source, stop=stop, samples=samples),
            *put_in(cells, lambda cell: cell.held(n_layers), base, stop=stop, samples=samples),
        ]

    def _entering(
        self, layer: int, cells: Sequence[Cell], start: int
    ) -> Callable[[], Float[Tensor, "row pos d_model"]]:
        """What enters the first changed layer of cells: the base's states, but for the cells' own tokens.

        Blocks are run again at once, the rows are only made when they join: hooks of the resumed run are on
        the model by then.
        """
        replaced = list(self._replaced(layer, cells))

        def entering() -> Tensor:
            base = self.base.entering(layer, start)
            copies = len(cells) * self.leaving.samples // len(base)
            residual = base.repeat(copies, 1, 1)
            rows = residual.view(len(cells), -1, *residual.shape[1:])
            for row, token, new in replaced:
                rows[row, :, token - start] = new
            return residual

        return entering

    def _replaced(self, layer: int, cells: Sequence[Cell]) -> Iterator[Replaced]:
        """For each kind of cell: which cells and tokens, and what leaves the layer below there."""
        for kind, some in groupby(enumerate(cells), key=lambda numbered: numbered[1].kind):
            entries = [(row, token, cell.index) for row, cell in some for token in cell.tokens]
            rows, tokens, indices = zip(*entries, strict=True)
            if kind.reach == "later":
                continue
            site, columns = Site(layer - 1, kind.site), self._numbers(tokens)
            if kind.reach == "after":
                states, first = self.source.entering(layer, self.source.start)[None], self.source.start
                which = torch.zeros_like(columns)
            elif site in self.after:
                states, first = self.after[site][None], self.exchange.first
                which = torch.zeros_like(columns)
            else:
                different, first = sorted(set(indices)), min(tokens)
                states = self.leaving(site, different, range(first, max(tokens) + 1))
                place = {index: number for number, index in enumerate(different)}
                which = self._numbers([place[index] for index in indices])
            yield self._numbers(rows), columns, states[which, :, columns - first]

    def _numbers(self, values: Sequence[int]) -> Int[Tensor, " value"]:
        return torch.tensor(values, device=self.base.residuals[0].device)


def _answer_logits(
    model: HookedModel, recording: Recording, n_answer: int
) -> Float[Tensor, "row answer vocab"]:
    top, start = int(model.cfg.n_layers), recording.n_positions - n_answer
    final = {top: lambda: recording.entering(top, start)}
    return resume(model, final, base=recording, start=start, n_last=n_answer)


def _inside(sites: Sequence[Site]) -> list[Site]:
    """What is to be recorded besides what enters and leaves the layers."""
    return [site for site in sites if site.kind != "resid"]


def _order(cell: Cell) -> tuple[int, str, int]:
    """Those that join together stand together, and among them those that share a run of the block below."""
    return cell.joins, cell.kind.name, -1 if cell.index is None else cell.index
