"""Metrics of several edits side by side, as dots with intervals."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Final

import pandas as pd
import plotly.graph_objects as go

from mechstyle.errors import InputError
from mechstyle.plot.style import MUTED, RULE, Hue, blank_figure, require_columns, rgb

__all__ = ["edits"]

FIRST: Final[Hue] = (150, 154, 162)
HUES: Final[tuple[Hue, ...]] = (
    (33, 94, 84),
    (150, 58, 52),
    (72, 61, 122),
    (146, 110, 40),
    (60, 74, 92),
    (110, 120, 60),
)
WIDEST: Final = 0.62
"""Of a row's height, that its dots take together."""


def edits(summary: pd.DataFrame, *, metrics: Sequence[str] | None = None) -> go.Figure:
    """Show metrics edit beside edit: a row a metric, a dot an edit, with its interval.

    Args:
        summary: as of ``SuiteResult.summary``; the first edit in it, the unedited model, is drawn hollow.
        metrics: these alone, in this order; None shows all.

    Raises:
        InputError: a column is missing, or a metric is not in the summary.

    Example:
        >>> plot.edits(found.summary(), metrics=["efficacy", "neighborhood"]).show()  # doctest: +SKIP
    """
    require_columns(summary, ("metric", "edit", "value", "low", "high", "n", "unit"))
    names = list(dict.fromkeys(summary["metric"])) if metrics is None else list(metrics)
    if absent := [name for name in names if name not in set(summary["metric"])]:
        raise InputError(f"metrics: the summary has no {absent[0]!r}.")
    shown = list(dict.fromkeys(summary["edit"]))
    figure = blank_figure(height=110 + max(26, 11 * len(shown)) * len(names))
    for place, edit in enumerate(shown):
        rows = summary[summary["edit"] == edit].drop_duplicates("metric").set_index("metric")
        rows = rows.reindex(names)
        lift = WIDEST * (place - (len(shown) - 1) / 2) / max(1, len(shown) - 1) if len(shown) > 1 else 0.0
        hue = FIRST if place == 0 else HUES[(place - 1) % len(HUES)]
        figure.add_trace(
            go.Scatter(
                x=rows["value"],
                y=[row + lift for row in range(len(names))],
                mode="markers",
                name=edit,
                marker={"color": rgb(hue), "size": 8, "symbol": "circle-open" if place == 0 else "circle"},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": (rows["high"] - rows["value"]).fillna(0),
                    "arrayminus": (rows["value"] - rows["low"]).fillna(0),
                    "color": rgb(hue),
                    "thickness": 1.2,
                    "width": 3,
                },
                customdata=rows[["low", "high", "n", "unit"]].to_numpy(),
                hovertemplate=(
                    "%{x:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}], n = %{customdata[2]} "
                    f"(%{{customdata[3]}})<extra>{html.escape(edit)}</extra>"
                ),
            )
        )
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(names))),
        ticktext=names,
        range=[len(names) - 0.5, -0.5],
        showline=False,
        ticks="",
        automargin=True,
    )
    for row in range(1, len(names)):
        figure.add_hline(y=row - 0.5, line={"color": RULE, "width": 0.75})
    figure.update_xaxes(showgrid=True, gridcolor=RULE, tickfont={"color": MUTED})
    figure.update_layout(legend={"y": 1.0, "yanchor": "bottom", "traceorder": "normal"})
    return figure
