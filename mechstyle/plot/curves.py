"""The sweep of an editor over layers."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from mechstyle.errors import InputError
from mechstyle.plot.style import MUTED, band, blank_figure, require_columns, rgb, tick_step

__all__ = ["sweep"]

STRONG = (33, 94, 84)
SECOND = (150, 58, 52)
MEASURES = {
    "efficacy": (SECOND, "solid"),
    "paraphrase": ((72, 61, 122), "solid"),
    "neighborhood": (STRONG, "solid"),
}


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
    require_columns(frame, ("layer", *(f"{name}_{end}" for name in measures for end in ("low", "high"))))
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
    figure.update_xaxes(title_text="layer of the edit", dtick=tick_step(frame["layer"].nunique()))
    figure.update_yaxes(
        title_text="share of prompts", range=[-0.02, 1.03], showgrid=True, gridcolor="#eeeff1"
    )
    figure.update_layout(legend={"y": -0.26}, margin={"b": 84})
    return figure
