"""Figures for notebooks; the reports show the same ones."""

from __future__ import annotations

from mechstyle.plot.averages import average, average_map
from mechstyle.plot.comparisons import compare_models, compare_prompts
from mechstyle.plot.curves import sweep
from mechstyle.plot.dots import scores
from mechstyle.plot.edits import edits
from mechstyle.plot.facts import facts
from mechstyle.plot.heatmap import trace
from mechstyle.plot.lens import lens
from mechstyle.plot.localisation import localisation
from mechstyle.plot.paths import paths
from mechstyle.plot.token_view import TokenView, heads, saliency, tokens

__all__ = [
    "TokenView",
    "average",
    "average_map",
    "compare_models",
    "compare_prompts",
    "edits",
    "facts",
    "heads",
    "lens",
    "localisation",
    "paths",
    "saliency",
    "scores",
    "sweep",
    "tokens",
    "trace",
]
