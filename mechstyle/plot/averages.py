"""Average effects over many facts: lines with bands by token role or by kind, and maps of roles by layers."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from mechstyle.errors import InputError
from mechstyle.plot.panels import Bounds, Cells, add_bars, cell_map, hue_of, kind_name
from mechstyle.plot.style import INK, RULE, Hue, band, require_columns, rgb, style, tick_step
from mechstyle.tokens import ROLES
from mechstyle.tracing.aggregate import average_by_role
from mechstyle.tracing.kinds import PARTS
from mechstyle.tracing.trace import Trace

__all__ = ["average", "average_map"]

Lines = Literal["role", "kind"]
COLUMNS = ("kind", "role", "layer", "mean", "low", "high", "n_facts")
STRONG, SECOND, THIRD, QUIET = (33, 94, 84), (150, 58, 52), (120, 108, 158), (138, 142, 150)
ROLE_LINES: dict[str, tuple[Hue, str, float]] = {
    "bos": (QUIET, "dot", 1.0),
    "before subject": (QUIET, "longdashdot", 1.2),
    "first subject token": (THIRD, "dot", 1.4),
    "middle subject tokens": (THIRD, "dash", 1.4),
    "last subject token": (STRONG, "solid", 2.4),
    "first subsequent token": ((186, 140, 80), "dash", 1.4),
    "further tokens": (QUIET, "dash", 1.4),
    "last prompt token": (SECOND, "solid", 2.4),
}
"""How each role is drawn in every figure; the two sites of Meng et al. 2022 are the strong ones."""
KIND_DASHES = {"severed_mlp": "dash", "severed_attn": "dot", "attn": "solid"}
PER_ROW = 4


@dataclass(frozen=True)
class _Split:
    """Which column of the table makes panels, and which one makes lines."""

    panels: str
    lines: str


SPLITS = {"role": _Split("kind", "role"), "kind": _Split("role", "kind")}


def average(
    source: pd.DataFrame | Iterable[Trace], *, lines: Lines = "role", roles: Sequence[str] | None = None
) -> go.Figure:
    """Show average indirect effects over layers as lines, with their intervals as bands.

    Args:
        source: what ``average_by_role`` returns, or traces to be averaged by it. Kinds with heads or neurons
            are left out: see ``average_map``.
        lines: "role" draws a panel a kind with a line a token role; "kind" a panel a role with a line a kind.
        roles: to show; None shows all.

    Raises:
        InputError: a column is missing, nothing is left to draw, or an unknown `lines`.

    Meng et al. 2022 (ROME), figure 3.

    Example:
        >>> plot.average(average_by_role(traces)).show()
    """
    if lines not in get_args(Lines):
        raise InputError(f"lines: expected 'role' or 'kind', got {lines!r}.")
    frame = _without_parts(_table(source))
    frame = frame if roles is None else frame[frame["role"].isin(roles)]
    if frame.empty:
        raise InputError(
            "source: nothing to draw as lines. Kinds with heads or neurons are drawn by average_map; roles "
            f"must be some of those in the table, got {roles}."
        )
    split = SPLITS[lines]
    panels = _in_order(frame, split.panels)
    columns = min(PER_ROW, len(panels))
    rows = -(-len(panels) // columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[_name(split.panels, panel) for panel in panels],
        shared_yaxes="all",
        horizontal_spacing=0.04,
        vertical_spacing=0.36 / rows,
    )
    shown: set[str] = set()
    for number, panel in enumerate(panels):
        place = {"row": number // columns + 1, "col": number % columns + 1}
        here = frame[frame[split.panels] == panel]
        for line in _in_order(here, split.lines):
            _add_line(figure, here[here[split.lines] == line], split.lines, line, place, line not in shown)
            shown.add(line)
    style(figure, height=340 if rows == 1 else 110 + 230 * rows)
    figure.update_annotations(font={"size": 13, "color": INK})
    figure.update_xaxes(title_text="layer", dtick=tick_step(frame["layer"].nunique()))
    figure.update_yaxes(showgrid=True, gridcolor="#eeeff1", zeroline=True, zerolinecolor=RULE)
    figure.update_yaxes(title_text="average indirect effect", col=1)
    figure.update_layout(legend={"y": -0.24 if rows == 1 else -0.12}, margin={"b": 104, "t": 34})
    return figure


def average_map(
    source: pd.DataFrame | Iterable[Trace], *, kind: str | None = None, roles: Sequence[str] | None = None
) -> go.Figure:
    """Show average indirect effects as maps.

    Args:
        source: what ``average_by_role`` returns, or traces to be averaged by it.
        kind: None draws roles by layers, a panel for each kind that has one value a layer; a kind with heads
            is drawn heads by layers, a panel for each role.
        roles: to show; None shows all.

    Raises:
        InputError: a column is missing, there is no such kind, or nothing is left to draw.

    Example:
        >>> plot.average_map(traces).show()
        >>> plot.average_map(traces, kind="heads", roles=["last subject token", "last prompt token"]).show()
    """
    frame = _table(source)
    if kind is not None and kind not in set(frame["kind"]):
        raise InputError(f"kind: expected one of {', '.join(_in_order(frame, 'kind'))}, got {kind!r}.")
    frame = _without_parts(frame) if kind is None else frame[frame["kind"] == kind]
    frame = frame if roles is None else frame[frame["role"].isin(roles)]
    part = None if frame.empty else _part(frame)
    if frame.empty or frame.duplicated(["kind", "role", "layer", *([part] if part else [])]).any():
        raise InputError(
            f"source: nothing to draw as a map, with kind={kind!r} and roles={roles}. Kinds with heads are "
            "drawn one at a time."
        )
    split, rows = ("kind", "role") if part is None else ("role", part)
    panels = _in_order(frame, split)
    names: list[Any] = _in_order(frame, "role") if part is None else sorted(frame[part].unique())
    figure = make_subplots(
        cols=len(panels),
        subplot_titles=[_name(split, panel) for panel in panels],
        horizontal_spacing=0.255 / max(len(panels), 2),
    )
    bounds = None if part is None else Bounds.of(frame["mean"].to_numpy(float))
    labels = [str(name) if part is None else f"{_part_name(part)} {name}" for name in names]
    for column, panel in enumerate(panels, start=1):
        here = frame[frame[split] == panel]
        layers, cells, facts = _cells(here, rows, names)
        drawn = str(here["kind"].iloc[0])
        figure.add_trace(
            cell_map(
                cells,
                x=layers,
                bounds=bounds or Bounds.of(cells.mean),
                hue=hue_of(drawn),
                names=[
                    [
                        f"{html.escape(label, quote=False)}<br>layer {layer}, {count:.0f} facts"
                        for layer, count in zip(layers, counts, strict=True)
                    ]
                    for label, counts in zip(labels, facts, strict=True)
                ],
                unit="average effect",
                what=_name(split, panel),
            ),
            row=1,
            col=column,
        )
        figure.update_yaxes(
            tickvals=list(range(len(labels))),
            ticktext=[html.escape(label, quote=False) for label in labels],
            showticklabels=column == 1,
            row=1,
            col=column,
        )
    style(figure, height=22 * len(labels) + 90)
    add_bars(figure)
    figure.update_annotations(font={"size": 13, "color": INK})
    figure.update_xaxes(title_text="layer", dtick=tick_step(frame["layer"].nunique(), 6), showline=False)
    figure.update_yaxes(autorange="reversed", showline=False, ticks="", automargin=True)
    figure.update_layout(margin={"t": 34, "r": 52})
    return figure


def _cells(
    frame: pd.DataFrame, rows: str, names: Sequence[Any]
) -> tuple[NDArray[Any], Cells, NDArray[np.float64]]:
    """Layers, values and numbers of facts of one panel; a row that is not in the table is empty."""
    mean, low, high, facts = (
        frame.pivot(index=rows, columns="layer", values=value).reindex(names).astype(float)
        for value in ("mean", "low", "high", "n_facts")
    )
    cells = Cells(mean.to_numpy(), low.to_numpy(), high.to_numpy())
    return mean.columns.to_numpy(), cells, facts.fillna(0).to_numpy()


def _add_line(
    figure: go.Figure, rows: pd.DataFrame, column: str, name: str, place: dict[str, int], legend: bool
) -> None:
    """A curve over layers with its band."""
    rows = rows.sort_values("layer")
    hue, dash, width = _look(column, name)
    layers = rows["layer"].tolist()
    area = band(layers, rows["low"].tolist(), rows["high"].tolist(), hue=hue, group=name)
    figure.add_trace(area, **place)
    shown = _name(column, name)
    figure.add_trace(
        go.Scatter(
            x=layers,
            y=rows["mean"],
            mode="lines",
            name=shown,
            legendgroup=name,
            showlegend=legend,
            line={"color": rgb(hue), "dash": dash, "width": width},
            customdata=rows[["low", "high", "n_facts"]].to_numpy(),
            hovertemplate=(
                "layer %{x}: %{y:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}]"
                f", %{{customdata[2]}} facts<extra>{shown}</extra>"
            ),
        ),
        **place,
    )


def _look(column: str, name: str) -> tuple[Hue, str, float]:
    if column == "role":
        return ROLE_LINES.get(name, (QUIET, "solid", 1.4))
    return hue_of(name), KIND_DASHES.get(name, "solid"), 2.0


def _name(column: str, value: str) -> str:
    return kind_name(value) if column == "kind" else html.escape(value, quote=False)


def _table(source: pd.DataFrame | Iterable[Trace]) -> pd.DataFrame:
    frame = source if isinstance(source, pd.DataFrame) else average_by_role(source)
    require_columns(frame, COLUMNS)
    return frame


def _part(frame: pd.DataFrame) -> str | None:
    """The column of a further axis (head, neuron) that the rows of one kind use."""
    used = [name for name in PARTS if name in frame.columns and frame[name].notna().any()]
    return used[0] if used else None


def _without_parts(frame: pd.DataFrame) -> pd.DataFrame:
    kept = [kind for kind in frame["kind"].unique() if _part(frame[frame["kind"] == kind]) is None]
    return frame[frame["kind"].isin(kept)]


def _in_order(frame: pd.DataFrame, column: str) -> list[str]:
    """The names in a column: roles in reading order, then others as they come."""
    found = list(dict.fromkeys(frame[column]))
    known = [role for role in ROLES if role in found] if column == "role" else []
    return [*known, *(name for name in found if name not in known)]


def _part_name(column: str) -> str:
    return column.replace("_", "-")
