"""Evaluation: how well an edit works, what else it moved, and how sure that is."""

from __future__ import annotations

from mechstyle.evaluation.collateral import perplexity
from mechstyle.evaluation.edits import BosMismatchWarning
from mechstyle.evaluation.essence import Essence
from mechstyle.evaluation.fluency import fluency
from mechstyle.evaluation.generation import complete
from mechstyle.evaluation.generations import Generations
from mechstyle.evaluation.sampling import sample
from mechstyle.evaluation.scores import Scores, evaluate
from mechstyle.evaluation.similarity import TfidfSpace, consistency

__all__ = [
    "BosMismatchWarning",
    "Essence",
    "Generations",
    "Scores",
    "TfidfSpace",
    "complete",
    "consistency",
    "evaluate",
    "fluency",
    "perplexity",
    "sample",
]
