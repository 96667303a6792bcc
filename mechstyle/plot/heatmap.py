"""Causal traces as heat maps: token down, layer across, the mean indirect effect as colour."""

from __future__ import annotations

import html

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechstyle.plot.style import INK, KIND_HUES, KIND_NAMES, OTHER_HUE, style, token_label, zero_white
from mechstyle.tracing.trace import Trace

__all__ = ["trace"]

SUBJECT_ROLES = ("first subject token", "middle subject tokens", "last subject token")
SMALLEST = 1e-4
"""A colour scale never spans less than this, so that noise does not look like an effect."""


def trace(trace: Trace, *, level: float = 0.95, title: str | None = None) -> go.Figure:
    """Show every kind of a causal trace side by side, with the interval of each cell on hover.

    The colour is the mean indirect effect over draws; white is exactly 0. The subject's tokens are bold.

    Args:
        level: of the bootstrap interval over draws.

    Raises:
        RangeError: `level` is outside of (0, 1).

    Meng et al. 2022 (ROME), figure 1.

    Example:
        >>> plot.trace(causal_trace(model, fact)).show()
    """
    kinds = trace.kinds
    settings = trace.settings
    names = [_panel_title(kind, int(settings["window"])) for kind in kinds]
    figure = make_subplots(cols=len(kinds), subplot_titles=names, shared_yaxes=True, horizontal_spacing=0.085)
    labels = _labels(trace)
    effects = {kind: trace.indirect_effect(kind) for kind in kinds}
    for column, kind in enumerate(kinds, start=1):
        mean = effects[kind].values
        low, high = (part.values for part in trace.interval(kind, level=level))
        floor, top = min(0.0, float(mean.min())), max(float(mean.max()), SMALLEST)
        figure.add_trace(
            go.Heatmap(
                x=effects[kind]["layer"].values,
                y=np.arange(len(labels)),
                z=mean,
                zmin=floor,
                zmax=top,
                colorscale=zero_white(floor, top, KIND_HUES.get(kind, OTHER_HUE)),
                customdata=np.stack([low, high], axis=-1),
                text=[[_hover_token(trace, token)] * mean.shape[1] for token in range(mean.shape[0])],
                hovertemplate=(
                    f"%{{text}}<br>layer %{{x}}<br>effect %{{z:.3g}} "
                    f"[%{{customdata[0]:.3g}}, %{{customdata[1]:.3g}}]"
                    f"<extra>{KIND_NAMES.get(kind, kind)}</extra>"
                ),
                xgap=1,
                ygap=1,
                colorbar={
                    "len": 1.0,
                    "thickness": 8,
                    "outlinewidth": 0,
                    "tickfont": {"size": 10},
                    "nticks": 5,
                    "x": figure.layout[f"xaxis{column if column > 1 else ''}"].domain[1] + 0.006,
                },
            ),
            row=1,
            col=column,
        )
    style(figure, height=_height(len(labels), title))
    figure.update_annotations(font={"size": 13, "color": INK})
    figure.update_xaxes(title_text="layer", dtick=_tick(trace.data.sizes["layer"]), showline=False)
    figure.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=labels,
        autorange="reversed",
        showline=False,
        ticks="",
        automargin=True,
    )
    if title is not None:
        figure.update_layout(title={"text": html.escape(title), "x": 0, "font": {"size": 14}})
    figure.update_layout(margin={"t": 66 if title else 34, "r": 52})
    return figure


def _panel_title(kind: str, window: int) -> str:
    name = KIND_NAMES.get(kind, kind)
    if kind == "resid":
        return f"{name}, one state"
    return f"{name}, window of {window} layer{'s' if window > 1 else ''}"


def _labels(trace: Trace) -> list[str]:
    strings, roles = trace.data["token_str"].values, trace.data["role"].values
    return [
        token_label(str(text), bold=str(role) in SUBJECT_ROLES)
        for text, role in zip(strings, roles, strict=True)
    ]


def _hover_token(trace: Trace, token: int) -> str:
    text, role = str(trace.data["token_str"].values[token]), str(trace.data["role"].values[token])
    return f"“{html.escape(text, quote=False)}” ({role})"


def _height(n_tokens: int, title: str | None) -> int:
    return 21 * n_tokens + 96 + (32 if title else 0)


def _tick(n_layers: int) -> int:
    return max(1, round(n_layers / 6))
