"""Values of a setup's two sides by whole runs, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mechstyle.runs import logits
from mechstyle.tracing.setup import Setup

__all__ = ["clean_value", "corrupted_values"]


def _known(model: Any, setup: Setup) -> list[tuple[float, Any, Any]]:
    found = []
    for asked in setup.questions:
        side = setup.clean(asked.question)
        clean = logits(model, side.ids, hooks=list(side.hooks), n_last=asked.question.n_answer)
        found.append((asked.weight, asked.question.given(clean), clean))
    return found


def clean_value(model: Any, setup: Setup) -> float:
    """The value of the clean run."""
    return float(sum(weight * question.score(run)[0] for weight, question, run in _known(model, setup)))


def corrupted_values(model: Any, setup: Setup, rows: slice = slice(None)) -> NDArray[np.float64]:
    """The value of each corrupted run."""
    total = np.zeros(len(setup.prompts[rows]))
    for weight, question, _ in _known(model, setup):
        side = setup.corrupted(question, rows)
        run = logits(model, side.ids, hooks=list(side.hooks), n_last=question.n_answer)
        total += weight * question.score(run)
    return total
