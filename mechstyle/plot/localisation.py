"""Edit success by layer, over it the trace: does one tell the other?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechstyle.errors import InputError
from mechstyle.plot.panels import hue_of, kind_name
from mechstyle.plot.style import INK, MUTED, Hue, band, rgb, style, tick_step

if TYPE_CHECKING:  # the study imports the figures
    from mechstyle.study.localisation import LocalisationCheck

__all__ = ["localisation"]

SUCCESS: Hue = (60, 74, 92)


def localisation(check: LocalisationCheck, *, kind: str = "mlp", level: float = 0.95) -> go.Figure:
    """Show how well an edit works at each layer, and the trace's effect there on an axis of its own.

    Beside it, every fact at every layer: success against effect. The title says how much of success the layer
    explains, and what the trace adds.

    Args:
        kind: of the traced states.
        level: of the bootstrap intervals over facts.

    Raises:
        InputError: an unknown kind.
        RangeError: `level` is outside of (0, 1).

    Hase et al. 2023, figures 1 and 4.

    Example:
        >>> plot.localisation(localisation_vs_editability(model, requests, covariance=moments)).show()
    """
    if kind not in check.kinds:
        raise InputError(f"kind: expected one of {', '.join(check.kinds)}, got {kind!r}.")
    means = check.by_layer(level=level)
    explained = check.variance_explained(kind, level=level)
    figure = make_subplots(
        cols=2, column_widths=[0.6, 0.4], horizontal_spacing=0.15, specs=[[{"secondary_y": True}, {}]]
    )
    for measure, hue, name, second in (
        ("success", SUCCESS, "edit success", False),
        (kind, hue_of(kind), f"effect of restoring: {kind_name(kind)}", True),
    ):
        rows = means[means["measure"] == measure]
        layers = rows["layer"].tolist()
        area = band(layers, rows["low"].tolist(), rows["high"].tolist(), hue=hue, group=measure)
        figure.add_trace(area, row=1, col=1, secondary_y=second)
        figure.add_trace(
            go.Scatter(
                x=layers,
                y=rows["mean"],
                mode="lines+markers",
                name=name,
                legendgroup=measure,
                line={"color": rgb(hue), "width": 2, "dash": "dash" if second else "solid"},
                marker={"size": 5},
                customdata=rows[["low", "high"]].to_numpy(),
                hovertemplate="layer %{x}: %{y:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}]",
            ),
            row=1,
            col=1,
            secondary_y=second,
        )
    frame = check.frame
    figure.add_trace(
        go.Scatter(
            x=frame[f"effect_{kind}"],
            y=frame["success"],
            mode="markers",
            showlegend=False,
            marker={
                "size": 5,
                "opacity": 0.7,
                "color": frame["layer"],
                "colorscale": [(0.0, rgb(SUCCESS, 0.2)), (1.0, rgb(SUCCESS))],
                "colorbar": {
                    "thickness": 8,
                    "outlinewidth": 0,
                    "tickfont": {"size": 10},
                    "title": {"text": "layer", "side": "right", "font": {"size": 11}},
                },
            },
            customdata=frame[["layer", "fact"]].to_numpy(),
            hovertemplate=(
                "effect %{x:.3g}, success %{y:.3g}<br>layer %{customdata[0]}, fact %{customdata[1]}"
                "<extra></extra>"
            ),
        ),
        row=1,
        col=2,
    )
    style(figure, height=340)
    layer, alone, added = (explained.loc[name] for name in ("layer", "effect", "added"))
    figure.update_layout(
        title={
            "text": (
                f"variance of edit success explained by the layer {layer['r2']:.1%}, by the trace alone "
                f"{alone['r2']:.1%}; the trace adds {added['r2']:.2%} to the layer (p = {added['p']:.2g})"
            ),
            "x": 0,
            "font": {"size": 13, "color": INK},
        },
        legend={"y": -0.22},
        margin={"t": 48, "b": 84, "r": 30},
    )
    figure.update_xaxes(title_text="layer", dtick=tick_step(len(check.layers)), row=1, col=1)
    figure.update_yaxes(title_text="edit success", row=1, col=1, secondary_y=False)
    figure.update_yaxes(
        title_text="indirect effect", color=MUTED, tickmode="auto", row=1, col=1, secondary_y=True
    )
    figure.update_xaxes(title_text="indirect effect at this layer", row=1, col=2)
    figure.update_yaxes(title_text="edit success", row=1, col=2)
    return figure
