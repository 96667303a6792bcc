"""Causal tracing: where in a model, and at which token, a fact's recall runs through."""

from __future__ import annotations

from mechstyle.tracing.aggregate import LayerSuggestion, average_by_role, suggest_layers
from mechstyle.tracing.causal_trace import causal_trace
from mechstyle.tracing.corruption import GaussianNoise, UniformNoise
from mechstyle.tracing.grid import default_window, window_layers
from mechstyle.tracing.reference import embedding_sigma, reference_sigma
from mechstyle.tracing.replacement import MeanAblation, TokenReplacement
from mechstyle.tracing.targets import Contrast
from mechstyle.tracing.trace import Trace

__all__ = [
    "Contrast",
    "GaussianNoise",
    "LayerSuggestion",
    "MeanAblation",
    "TokenReplacement",
    "Trace",
    "UniformNoise",
    "average_by_role",
    "causal_trace",
    "default_window",
    "embedding_sigma",
    "reference_sigma",
    "suggest_layers",
    "window_layers",
]
