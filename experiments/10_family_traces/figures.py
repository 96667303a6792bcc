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


def draw_curves(
    path: Path, table: pd.DataFrame, *, line: str, places: Sequence[str], kinds: Sequence[str]
) -> None:
    """A row of panels a place, a column a kind, a line for each value of the column `line`."""
    panels = {}
    for place in places:
        for kind in kinds:
            here = table[(table["kind"] == kind) & (table["role"] == place)]
            panels[f"{kind}, {place}"] = {
                str(name): Line(_depths(part), tuple(part[end].tolist() for end in ENDS))
                for name, part in here.groupby(line, sort=False)
            }
    lines(path, panels, columns=len(kinds), x="relative depth", y="indirect effect")


def _depths(part: pd.DataFrame) -> list[float]:
    """0 for a model's first layer, 1 for its last."""
    return (part["layer"] / part["layer"].max()).tolist()


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
