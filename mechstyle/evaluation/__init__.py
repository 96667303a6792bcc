"""Evaluation: how well an edit works, what else it moved, and how sure that is."""

from __future__ import annotations

from mechstyle.evaluation.collateral import perplexity
from mechstyle.evaluation.edits import BosMismatchWarning
from mechstyle.evaluation.generation import complete
from mechstyle.evaluation.scores import Scores, evaluate

__all__ = ["BosMismatchWarning", "Scores", "complete", "evaluate", "perplexity"]
