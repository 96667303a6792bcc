"""Panels of cells: one heat map with its intervals, its scale and its axes, as all figures of traces have."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray

from mechstyle.plot.style import KIND_HUES, KIND_NAMES, OTHER_HUE, Hue, token_label, zero_white

__all__ = [
    "SMALLEST",
    "Bounds",
    "Cells",
    "add_bars",
    "cell_map",
    "hue_of",
    "kind_name",
    "panel_title",
    "token_labels",
    "token_names",
]

SUBJECT_ROLES = ("first subject token", "middle subject tokens", "last subject token")
SMALLEST = 1e-4
"""A colour scale never spans less than this, so that noise does not look like an effect."""
WINDOWED = ("mlp", "attn")

Grid = Float[NDArray[np.float64], "row column"]


@dataclass(frozen=True, eq=False)
class Cells:
    """Values of a panel, a row of cells under the other, with intervals when they have some."""

    mean: Grid
    low: Grid | None = None
    high: Grid | None = None

    @property
    def bounds(self) -> NDArray[np.float64] | None:
        """[row, column, (low, high)] for hovering; None where there is no interval."""
        if self.low is None or self.high is None or np.isnan(self.low).all():
            return None
        return np.stack([self.low, self.high], axis=-1)


@dataclass(frozen=True)
class Bounds:
    """Both ends of a colour scale that has its white at 0."""

    floor: float
    top: float

    @classmethod
    def of(cls, *grids: NDArray[np.float64]) -> Bounds:
        """A scale that all of these fit into; what is not a number is left out."""
        values = np.concatenate([grid.ravel() for grid in grids])
        values = values[np.isfinite(values)]
        least, most = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
        return cls(min(0.0, least), max(most, SMALLEST))


def cell_map(
    cells: Cells,
    *,
    x: Sequence[Any] | NDArray[Any],
    bounds: Bounds,
    hue: Hue,
    names: Sequence[Sequence[str]],
    unit: str,
    what: str,
) -> go.Heatmap:
    """A heat map whose cells say on hover what they are, what their value is, and its interval.

    Args:
        x: of the columns; rows are counted from 0.
        names: of every cell, escaped, as hovering shows it.
        unit: what the value is called on hover.
        what: the small title of the hover label.
    """
    shown = cells.bounds
    interval = "" if shown is None else " [%{customdata[0]:.3g}, %{customdata[1]:.3g}]"
    return go.Heatmap(
        x=x,
        y=np.arange(len(cells.mean)),
        z=cells.mean,
        zmin=bounds.floor,
        zmax=bounds.top,
        colorscale=zero_white(bounds.floor, bounds.top, hue),
        customdata=shown,
        text=names,
        hovertemplate=f"%{{text}}<br>{unit} %{{z:.3g}}{interval}<extra>{what}</extra>",
        hoverongaps=False,
        xgap=1,
        ygap=1,
        showscale=False,
    )


def add_bars(figure: go.Figure) -> None:
    """Give every heat map a colour bar on its right, as high as its panel."""
    for panel in figure.select_traces(selector={"type": "heatmap"}):
        across, down = (
            figure.layout[f"{axis[0]}axis{axis[1:]}"].domain for axis in (panel.xaxis, panel.yaxis)
        )
        panel.showscale = True
        panel.colorbar = {
            "len": down[1] - down[0],
            "y": (down[0] + down[1]) / 2,
            "x": across[1] + 0.006,
            "thickness": 8,
            "outlinewidth": 0,
            "tickfont": {"size": 10},
            "nticks": 5,
        }


def hue_of(kind: str) -> Hue:
    """The colour of a kind of state."""
    return KIND_HUES.get(kind, OTHER_HUE)


def kind_name(kind: str) -> str:
    """What a kind of state is called in figures; a kind of the reader's own is escaped."""
    return KIND_NAMES.get(kind) or html.escape(kind, quote=False)


def panel_title(kind: str, window: int | None) -> str:
    """The title of a panel: the kind, and how many layers a cell restores.

    Example:
        >>> panel_title("mlp", 2)
        'MLP, window of 2 layers'
    """
    if kind in WINDOWED and window is not None:
        return f"{kind_name(kind)}, window of {window} layer{'s' if window > 1 else ''}"
    return f"{kind_name(kind)}, one state" if kind == "resid" else kind_name(kind)


def token_labels(data: xr.Dataset) -> list[str]:
    """The prompt's tokens as ticks of an axis; those of the subject are bold."""
    return [
        token_label(str(text), bold=str(role) in SUBJECT_ROLES)
        for text, role in zip(data["token_str"].values, data["role"].values, strict=True)
    ]


def token_names(data: xr.Dataset) -> list[str]:
    """The prompt's tokens as hovering shows them, with their roles; a set of tokens has only its name."""
    pairs = zip(data["token_str"].values, data["role"].values, strict=True)
    return [
        f"“{html.escape(str(text), quote=False)}”"
        + ("" if str(text) == str(role) else f" ({html.escape(str(role), quote=False)})")
        for text, role in pairs
    ]
