"""How figures look: ink, hues and the layout that all of them share."""

from __future__ import annotations

import html
from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from mechstyle.errors import InputError

__all__ = [
    "INK",
    "KIND_HUES",
    "KIND_NAMES",
    "MUTED",
    "RULE",
    "Hue",
    "band",
    "blank_figure",
    "require_columns",
    "rgb",
    "style",
    "tick_step",
    "token_label",
    "zero_white",
]

FONTS = "Charter, 'Iowan Old Style', Palatino, 'Palatino Linotype', 'URW Palladio L', P052, Georgia, serif"
INK = "#22252b"
MUTED = "#80848c"
RULE = "#d9dbdf"
PAPER = "rgba(0,0,0,0)"
NEGATIVE = (158, 118, 72)
KIND_HUES = {
    "resid": (72, 61, 122),
    "mlp": (33, 94, 84),
    "attn": (150, 58, 52),
    "heads": (150, 58, 52),
    "severed_mlp": (146, 110, 40),
    "severed_attn": (92, 84, 94),
    "neurons": (33, 94, 84),
}
KIND_NAMES = {
    "resid": "residual stream",
    "mlp": "MLP",
    "attn": "attention",
    "heads": "heads",
    "severed_mlp": "residual stream, MLPs severed",
    "severed_attn": "residual stream, attention severed",
    "neurons": "MLP neurons",
    "q": "queries",
    "k": "keys",
    "v": "values",
    "pattern": "attention patterns",
}
OTHER_HUE = (60, 74, 92)

Hue = tuple[int, int, int]
Scale = list[tuple[float, str]]


def blank_figure(*, width: int | None = None, height: int = 320) -> go.Figure:
    """An empty figure in the house style."""
    figure = go.Figure()
    style(figure, width=width, height=height)
    return figure


def style(figure: go.Figure, *, width: int | None = None, height: int = 320) -> None:
    """Give a figure the house style: no background, thin rules, quiet text."""
    figure.update_layout(
        template="none",
        width=width,
        height=height,
        paper_bgcolor=PAPER,
        plot_bgcolor=PAPER,
        font={"family": FONTS, "size": 13, "color": INK},
        margin={"l": 64, "r": 16, "t": 36, "b": 48},
        hoverlabel={"bgcolor": "white", "bordercolor": RULE, "font": {"color": INK, "size": 12}},
        legend={
            "orientation": "h",
            "yanchor": "top",
            "y": -0.2,
            "xanchor": "left",
            "x": 0,
            "font": {"size": 12},
        },
    )
    axis = {
        "showgrid": False,
        "zeroline": False,
        "showline": True,
        "linecolor": RULE,
        "ticks": "outside",
        "ticklen": 3,
        "tickcolor": RULE,
        "title": {"standoff": 8, "font": {"size": 13}},
        "tickfont": {"size": 12},
    }
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)


def rgb(hue: Hue, share: float = 1.0, alpha: float | None = None) -> str:
    """A hue mixed with white: a share of 0 is white, of 1 the hue itself."""
    red, green, blue = (round(255 + (part - 255) * share) for part in hue)
    return f"rgb({red},{green},{blue})" if alpha is None else f"rgba({red},{green},{blue},{alpha})"


def zero_white(low: float, high: float, hue: Hue) -> Scale:
    """A colour scale from ``low`` to ``high`` that is white exactly at 0 and equally strong on both sides.

    Example:
        >>> zero_white(0.0, 1.0, (0, 0, 0))[0]
        (0.0, 'rgb(255,255,255)')
    """
    largest = max(-low, high)
    up = [rgb(hue, step / 4 * high / largest) for step in range(5)]
    zero = -low / (high - low)
    if zero == 0:
        return [(step / 4, colour) for step, colour in enumerate(up)]
    down = [rgb(NEGATIVE, step / 4 * -low / largest) for step in (4, 3, 2, 1)]
    stops = [(zero * step / 4, colour) for step, colour in enumerate(down)]
    return [*stops, *((zero + (1 - zero) * step / 4, colour) for step, colour in enumerate(up))]


def band(
    x: Sequence[float], low: Sequence[float], high: Sequence[float], *, hue: Hue, group: str
) -> go.Scatter:
    """The area between two lines, which belongs to the legend group of its curve."""
    return go.Scatter(
        x=[*x, *reversed(x)],
        y=[*high, *reversed(low)],
        fill="toself",
        fillcolor=rgb(hue, alpha=0.13),
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        legendgroup=group,
    )


def require_columns(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse a table without rows or without one of these columns.

    Raises:
        InputError: there are none.

    Example:
        >>> require_columns(pd.DataFrame({"layer": [0]}), ["layer"])
    """
    missing = [name for name in columns if name not in frame.columns]
    if missing or frame.empty:
        raise InputError(
            f"frame: expected rows with the columns {', '.join(columns)}; "
            f"{'it has no rows' if not missing else 'missing: ' + ', '.join(missing)}."
        )


def tick_step(count: int, most: int = 10) -> int:
    """Distance of the ticks of an axis with so many places, so that about `most` are named.

    Example:
        >>> tick_step(48, 6)
        8
    """
    return max(1, round(count / most))


def token_label(token: str, *, bold: bool = False) -> str:
    """A token as axis text: shown whole, without its leading space, and escaped.

    Example:
        >>> token_label(" <b>", bold=True)
        '<b>&lt;b&gt;</b>'
    """
    shown = token.replace("\n", "↵").replace("\t", "⇥")
    text = html.escape(shown.strip() or "␣" * max(len(shown), 1), quote=False)
    return f"<b>{text}</b>" if bold else text
