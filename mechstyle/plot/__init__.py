"""Figures for notebooks; the report shows the same ones."""

from __future__ import annotations

from mechstyle.plot.curves import roles, sweep
from mechstyle.plot.dots import scores
from mechstyle.plot.heatmap import trace
from mechstyle.plot.token_view import TokenView, tokens

__all__ = ["TokenView", "roles", "scores", "sweep", "tokens", "trace"]
