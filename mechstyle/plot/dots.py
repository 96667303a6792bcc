"""Scores before and after an edit, as dots with intervals."""

from __future__ import annotations

import plotly.graph_objects as go

from mechstyle.evaluation.scores import Scores
from mechstyle.plot.style import MUTED, blank_figure, rgb

__all__ = ["scores"]

MEASURES = {
    "efficacy": "efficacy",
    "paraphrase": "paraphrase",
    "neighborhood": "neighbourhood",
    "score": "score",
}
HUES = {"before": (150, 154, 162), "after": (33, 94, 84)}


def scores(scores: Scores, *, ci: float = 0.95) -> go.Figure:
    """Show efficacy, paraphrase, neighbourhood and their harmonic mean, a dot a stage, with intervals.

    Args:
        ci: share of the bootstrap resamples inside an interval.

    Raises:
        RangeError: `ci` is not between 0 and 1.

    Example:
        >>> plot.scores(evaluate(model, requests, edits=edits)).show()
    """
    figure = blank_figure(height=230)
    names = list(MEASURES.values())
    for stage in scores.stages:
        table = scores.summary(ci, stage=stage).loc[list(MEASURES)]
        lift = 0.0 if len(scores.stages) == 1 else (-0.12 if stage == "before" else 0.12)
        figure.add_trace(
            go.Scatter(
                x=table["value"],
                y=[row + lift for row in range(len(names))],
                mode="markers",
                name=stage,
                marker={
                    "color": rgb(HUES[stage]),
                    "size": 9,
                    "symbol": "circle" if stage == "after" else "circle-open",
                },
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": (table["high"] - table["value"]).fillna(0),
                    "arrayminus": (table["value"] - table["low"]).fillna(0),
                    "color": rgb(HUES[stage]),
                    "thickness": 1.2,
                    "width": 3,
                },
                customdata=table[["low", "high", "n_requests"]].to_numpy(),
                hovertemplate=(
                    "%{x:.2f} [%{customdata[0]:.2f}, %{customdata[1]:.2f}], %{customdata[2]} requests"
                ),
            )
        )
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=names, autorange="reversed", automargin=True
    )
    figure.update_xaxes(
        range=[-0.03, 1.03], title_text="share of prompts", showgrid=True, gridcolor="#eeeff1"
    )
    figure.update_layout(margin={"t": 12, "b": 74}, legend={"y": -0.34}, legend_font_color=MUTED)
    return figure
