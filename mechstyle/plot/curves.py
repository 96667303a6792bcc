"""Curves over layers: effects by token role, and the sweep of an editor."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechstyle.errors import InputError
from mechstyle.plot.style import INK, KIND_NAMES, MUTED, RULE, band, blank_figure, rgb, style
from mechstyle.tokens import ROLES

__all__ = ["roles", "sweep"]

STRONG = (33, 94, 84)
SECOND = (150, 58, 52)
QUIET = (138, 142, 150)
ROLE_LINES: dict[str, tuple[tuple[int, int, int], str, float]] = {
    "bos": (QUIET, "dot", 1.0),
    "before subject": (QUIET, "longdashdot", 1.2),
    "first subject token": ((120, 108, 158), "dot", 1.4),
    "middle subject tokens": ((120, 108, 158), "dash", 1.4),
    "last subject token": (STRONG, "solid", 2.4),
    "first subsequent token": ((186, 140, 80), "dash", 1.4),
    "further tokens": (QUIET, "dash", 1.4),
    "last prompt token": (SECOND, "solid", 2.4),
}
MEASURES = {
    "efficacy": (SECOND, "solid"),
    "paraphrase": ((72, 61, 122), "solid"),
    "neighborhood": (STRONG, "solid"),
}


def roles(frame: pd.DataFrame) -> go.Figure:
    """Show the average indirect effect by token role over layers, a panel a kind, with intervals as bands.

    Args:
        frame: what ``average_by_role`` returns: kind, role, layer, mean, low, high, n_facts.

    Raises:
        InputError: a column is missing.

    Meng et al. 2022 (ROME), figure 3.

    Example:
        >>> plot.roles(average_by_role(traces)).show()
    """
    _require(frame, ("kind", "role", "layer", "mean", "low", "high", "n_facts"))
    kinds = list(dict.fromkeys(frame["kind"]))
    titles = [KIND_NAMES.get(kind, kind) for kind in kinds]
    figure = make_subplots(cols=len(kinds), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.04)
    shown: set[str] = set()
    for column, kind in enumerate(kinds, start=1):
        for role in (role for role in ROLES if role in set(frame["role"])):
            rows = frame[(frame["kind"] == kind) & (frame["role"] == role)].sort_values("layer")
            if rows.empty:
                continue
            hue, dash, width = ROLE_LINES[role]
            layers = rows["layer"].tolist()
            if rows["n_facts"].max() > 1:
                area = band(layers, rows["low"].tolist(), rows["high"].tolist(), hue=hue, group=role)
                figure.add_trace(area, row=1, col=column)
            figure.add_trace(
                go.Scatter(
                    x=layers,
                    y=rows["mean"],
                    mode="lines",
                    name=role,
                    legendgroup=role,
                    showlegend=role not in shown,
                    line={"color": rgb(hue), "dash": dash, "width": width},
                    customdata=rows[["low", "high", "n_facts"]].to_numpy(),
                    hovertemplate=(
                        "layer %{x}: %{y:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}]"
                        f", %{{customdata[2]}} facts<extra>{role}</extra>"
                    ),
                ),
                row=1,
                col=column,
            )
            shown.add(role)
    style(figure, height=340)
    figure.update_annotations(font={"size": 13, "color": INK})
    figure.update_xaxes(title_text="layer", dtick=_tick(frame))
    figure.update_yaxes(showgrid=True, gridcolor="#eeeff1", zeroline=True, zerolinecolor=RULE)
    figure.update_yaxes(title_text="average indirect effect", col=1)
    figure.update_layout(legend={"y": -0.24}, margin={"b": 104, "t": 34})
    return figure


def sweep(frame: pd.DataFrame, *, chosen: int | None = None) -> go.Figure:
    """Show how well one edit works at every layer: efficacy, paraphrase and neighbourhood with intervals.

    Args:
        frame: a row a layer: layer, and for each measure its value, ``<measure>_low`` and ``<measure>_high``.
        chosen: a layer to mark.

    Raises:
        InputError: there is no layer column, or no measure.

    Example:
        >>> plot.sweep(pd.read_csv("sweep.csv"), chosen=5).show()
    """
    measures = [name for name in MEASURES if name in frame.columns]
    if not measures:
        raise InputError(
            f"frame: expected at least one of the columns {', '.join(MEASURES)}, got {list(frame.columns)}."
        )
    _require(frame, ("layer", *(f"{name}_{end}" for name in measures for end in ("low", "high"))))
    rows = frame.sort_values("layer")
    layers = rows["layer"].tolist()
    figure = blank_figure(height=300)
    for name in measures:
        hue, dash = MEASURES[name]
        figure.add_trace(
            band(layers, rows[f"{name}_low"].tolist(), rows[f"{name}_high"].tolist(), hue=hue, group=name)
        )
        figure.add_trace(
            go.Scatter(
                x=layers,
                y=rows[name],
                mode="lines+markers",
                name="neighbourhood" if name == "neighborhood" else name,
                legendgroup=name,
                line={"color": rgb(hue), "dash": dash, "width": 2},
                marker={"size": 5},
                customdata=rows[[f"{name}_low", f"{name}_high"]].to_numpy(),
                hovertemplate="layer %{x}: %{y:.2f} [%{customdata[0]:.2f}, %{customdata[1]:.2f}]",
            )
        )
    if chosen is not None:
        figure.add_vline(x=chosen, line={"color": MUTED, "width": 1, "dash": "dot"})
        figure.add_annotation(
            x=chosen,
            y=1.04,
            yref="paper",
            text="edited here",
            showarrow=False,
            yanchor="bottom",
            font={"size": 11, "color": MUTED},
        )
    figure.update_xaxes(title_text="layer of the edit", dtick=_tick(frame))
    figure.update_yaxes(
        title_text="share of prompts", range=[-0.02, 1.03], showgrid=True, gridcolor="#eeeff1"
    )
    figure.update_layout(legend={"y": -0.26}, margin={"b": 84})
    return figure


def _require(frame: pd.DataFrame, columns: tuple[str, ...]) -> None:
    missing = [name for name in columns if name not in frame.columns]
    if missing or frame.empty:
        raise InputError(
            f"frame: expected rows with the columns {', '.join(columns)}; "
            f"{'it has no rows' if not missing else 'missing: ' + ', '.join(missing)}."
        )


def _tick(frame: pd.DataFrame) -> int:
    return max(1, round(int(frame["layer"].nunique()) / 10))
