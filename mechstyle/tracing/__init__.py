"""Causal tracing: where in a model, and at which token, a fact's recall runs through."""

from __future__ import annotations

from mechstyle.tracing.aggregate import LayerSuggestion, average_by_role, suggest_layers
from mechstyle.tracing.causal_trace import causal_trace
from mechstyle.tracing.corruption import GaussianNoise
from mechstyle.tracing.grid import default_window, window_layers
from mechstyle.tracing.reference import embedding_sigma, reference_sigma
from mechstyle.tracing.trace import Trace

__all__ = [
    "GaussianNoise",
    "LayerSuggestion",
    "Trace",
    "average_by_role",
    "causal_trace",
    "default_window",
    "embedding_sigma",
    "reference_sigma",
    "suggest_layers",
    "window_layers",
]
