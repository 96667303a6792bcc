"""The figures: curves of several models by relative depth, and shares with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from line_figure import Line, dots, lines
from subjects import LAST

__all__ = ["draw_curves", "draw_shares"]

ENDS = ("mean", "low", "high")
SHOWN = ("all", "tokens after", "kind of name")
"""Splits in the figure of shares."""


def draw_curves(path: Path, curves: pd.DataFrame, *, places: Sequence[str], kinds: Sequence[str]) -> None:
    """A row of panels a place, a column a kind, a line a model."""
    panels = {}
    for place in places:
        for kind in kinds:
            here = curves[(curves["kind"] == kind) & (curves["role"] == place)]
            panels[f"{kind}, {place}"] = {
                str(model): Line(part["depth"].tolist(), tuple(part[end].tolist() for end in ENDS))
                for model, part in here.groupby("model", sort=False)
            }
    lines(path, panels, columns=len(kinds), x="relative depth", y="indirect effect")


def draw_shares(path: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """The residual stream's share of the total effect at the last subject token, by part of the facts."""
    rows = {}
    for name, table in tables.items():
        here = table[(table["kind"] == "resid") & (table["place"] == LAST) & table["split"].isin(SHOWN)]
        for row in here.itertuples():
            label = name if row.split == "all" else f"· {row.split}: {row.part}"
            while label in rows:
                label += " "  # parts of several tables may have one name
            rows[label] = (row.share, row.share_low, row.share_high, f"{row.n} facts, layer {row.layer}")
    dots(path, rows, x="share of the total effect")
