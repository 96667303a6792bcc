"""Run the cells of a plan between the two sides of a setup: what causal tracing and patching share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from mechstyle.errors import NonFiniteError
from mechstyle.models import HookedModel
from mechstyle.tracing.answer import Question
from mechstyle.tracing.assembly import Variable, assemble
from mechstyle.tracing.engines import clean_run
from mechstyle.tracing.grid import Cell, token_sets
from mechstyle.tracing.kinds import TracedKind
from mechstyle.tracing.plan import Plan
from mechstyle.tracing.setup import Setup
from mechstyle.tracing.trace import Trace

__all__ = ["run_cells"]

Advance = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class _Values:
    """The metric of every run: clean, corrupted, and a grid a kind."""

    clean: float
    corrupted: Float[NDArray[np.float64], " sample"]
    grids: Mapping[str, Float[NDArray[np.float64], "sample token *rest"]]
    knows: bool

    def times(self, weight: float) -> _Values:
        grids = {name: weight * grid for name, grid in self.grids.items()}
        return _Values(weight * self.clean, weight * self.corrupted, grids, self.knows)

    def plus(self, other: _Values) -> _Values:
        """The sum; whether the model knows the answer is asked of the first."""
        grids = {name: grid + other.grids[name] for name, grid in self.grids.items()}
        return _Values(self.clean + other.clean, self.corrupted + other.corrupted, grids, self.knows)


def run_cells(model: HookedModel, setup: Setup, plan: Plan, *, progress: bool = False) -> Trace:
    """Put states of one side into the other, one cell at a time, and measure the answer.

    Args:
        progress: show a progress bar on stderr.

    Raises:
        InputError: a set of tokens is not one of this prompt.
        RangeError: a token index is none of the prompt's.
        NonFiniteError: the model's logits are not finite.
        WorkError: a run gives a metric that is not finite.

    Example:
        >>> plan = plan_cells(model, ("heads",), direction="noising")  # doctest: +SKIP
        >>> run_cells(model, prepare_prompts(model, clean, corrupted), plan)  # doctest: +SKIP
    """
    named = token_sets(plan.tokens, setup.encoded)
    sets = [(token,) for token in range(setup.encoded.n_prompt)] if named is None else list(named.values())
    cells = plan.cells(sets, first=setup.first)
    rows = plan.max_rows or min(asked.question.rows_within(model) for asked in setup.questions)
    with Progress(console=Console(stderr=True), transient=True, disable=not progress) as bar:
        size = len(cells) * setup.samples * len(setup.questions)
        task = bar.add_task(f"tracing ({plan.engine}, {rows} rows at most)", total=size)

        def values(question: Question) -> _Values:
            empty = {
                kind.name: np.empty((setup.samples, *plan.shape(kind, len(sets)))) for kind in plan.kinds
            }
            return _filled(model, setup, plan, question, cells, empty, rows, lambda n: bar.advance(task, n))

        total = reduce(_Values.plus, (values(one.question).times(one.weight) for one in setup.questions))
    settings = {**plan.record(), "knows": total.knows, "max_batch": rows}
    settings["tokens"] = None if named is None else {name: list(found) for name, found in named.items()}
    return assemble(
        model,
        setup,
        {kind.name: _variable(kind, total.grids[kind.name], setup, plan) for kind in plan.kinds},
        clean=total.clean,
        corrupted=total.corrupted,
        sets=named,
        settings=settings,
    )


def _filled(
    model: HookedModel,
    setup: Setup,
    plan: Plan,
    question: Question,
    cells: Sequence[Cell],
    grids: dict[str, NDArray[np.float64]],
    rows: int,
    advance: Advance,
) -> _Values:
    """Run the cells for one question; the empty grids are filled, the baseline where nothing is run."""
    exchange = plan.exchange(first=setup.first, n_last=question.n_answer)
    clean = clean_run(plan.engine, model, setup.clean(question), exchange)
    if not bool(torch.isfinite(clean.logits).all()):
        raise NonFiniteError(
            "model: its logits on the clean prompt are NaN or infinite. Load a model with finite weights."
        )
    question = question.given(clean.logits)
    score = float(question.score(clean.logits, run="clean")[0])
    corrupted = np.empty(setup.samples)
    for first in range(0, setup.samples, rows):
        here = slice(first, first + rows)
        runs = clean.against(setup.corrupted(question, here), max_rows=rows)
        corrupted[here] = question.score(runs.logits)
        baseline = corrupted[here] if exchange.denoising else np.full_like(corrupted[here], score)
        for grid in grids.values():
            grid[here] = baseline.reshape(-1, *(1,) * (grid.ndim - 1))
        for some, scores in runs.changed(cells, question.score):
            for cell, found in zip(some, scores, strict=True):
                place: tuple[slice | int, ...] = (here, *cell.at)
                grids[cell.kind.name][place] = found
            advance(scores.size)
    return _Values(score, corrupted, grids, question.greedy(clean.logits))


def _variable(kind: TracedKind, grid: NDArray[np.float64], setup: Setup, plan: Plan) -> Variable:
    done = "restored" if plan.direction == "denoising" else "corrupted"
    about: dict[str, str | int | None] = {"long_name": f"{setup.record['metric']} with {kind.name} {done}"}
    return Variable(kind.dims, grid, about | ({"layer": plan.neuron_layer} if kind.one_layer else {}))
