"""The exact effects of a few random cells, beside their estimates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from mechstyle.models import HookedModel
from mechstyle.tracing.answer import Question
from mechstyle.tracing.engines import clean_run
from mechstyle.tracing.grid import Cell
from mechstyle.tracing.plan import Plan
from mechstyle.tracing.rank_correlation import ranked
from mechstyle.tracing.setup import Setup

__all__ = ["checked", "exact_effects"]


def checked(
    model: HookedModel,
    setup: Setup,
    plan: Plan,
    estimates: Mapping[str, Float[NDArray[np.float64], " token *rest"]],
    *,
    n_cells: int,
    seed: int,
    max_rows: int,
) -> dict[str, Any]:
    """Compare random cells of each kind with exact runs under the first sample.

    Args:
        estimates: by kind, the estimated effects under the first sample, tokens from `setup.first` on.
        n_cells: of each kind, or all there are.

    Returns:
        for provenance: how many cells and samples, and by kind the rank correlation with its interval (None
        where all effects are equal).
    """
    sets = [(token,) for token in range(setup.encoded.n_prompt)]
    every, random = plan.cells(sets, first=setup.first), np.random.default_rng(seed)
    picked = {}
    for kind in plan.kinds:
        own = [cell for cell in every if cell.kind is kind]
        picked[kind.name] = [own[index] for index in random.permutation(len(own))[:n_cells]]
    exact = exact_effects(model, setup, plan, [cell for own in picked.values() for cell in own], max_rows)
    found = {}
    for name, own in picked.items():
        estimated = [estimates[name][(cell.at[0] - setup.first, *cell.at[1:])] for cell in own]
        one = ranked(np.array([exact[cell] for cell in own]), np.array(estimated))
        found[name] = None if one is None else one.to_dict()
    return {"cells": n_cells, "samples": 1, "seed": seed, "rank_correlation": found}


def exact_effects(
    model: HookedModel, setup: Setup, plan: Plan, cells: Sequence[Cell], max_rows: int
) -> dict[Cell, float]:
    """The effects of some cells under the first sample, each run; 0 where nothing can change."""
    found = dict.fromkeys(cells, 0.0)
    for one in setup.questions:
        for cell, effect in _effects(model, setup, plan, cells, one.question, max_rows):
            found[cell] += one.weight * effect
    return found


def _effects(
    model: HookedModel, setup: Setup, plan: Plan, cells: Sequence[Cell], question: Question, max_rows: int
) -> list[tuple[Cell, float]]:
    exchange = plan.exchange(first=setup.first, n_last=question.n_answer)
    clean = clean_run(plan.engine, model, setup.clean(question), exchange)
    question = question.given(clean.logits)
    runs = clean.against(setup.corrupted(question, slice(1)), max_rows=max_rows)
    baseline = float(question.score(runs.logits if exchange.denoising else clean.logits)[0])
    return [
        (cell, float(score[0]) - baseline)
        for some, scores in runs.changed(cells, question.score)
        for cell, score in zip(some, scores.reshape(len(some), 1), strict=True)
    ]
