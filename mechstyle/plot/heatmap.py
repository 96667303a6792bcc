"""Causal traces as heat maps: tokens or heads down, layers across, the mean indirect effect as colour."""

from __future__ import annotations

import html
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechstyle.errors import InputError
from mechstyle.plot.panels import (
    Bounds,
    Cells,
    add_bars,
    cell_map,
    hue_of,
    kind_name,
    panel_title,
    token_labels,
    token_names,
)
from mechstyle.plot.parts import add_parts, chosen_token, rows_of
from mechstyle.plot.style import INK, style, tick_step
from mechstyle.tracing.trace import Trace

__all__ = ["trace"]

GRID = ("token", "layer")
ROW_PIXELS = 21
PART_PIXELS = 17
GAP_PIXELS = 76
LEAST_PIXELS = 72
"""Of a row of panels: room for a colour bar."""


def trace(
    trace: Trace,
    *,
    kinds: Sequence[str] | None = None,
    token: int | str | None = None,
    level: float = 0.95,
    title: str | None = None,
) -> go.Figure:
    """Show every kind of a causal trace, with the interval of each cell on hover.

    The colour is the mean indirect effect over draws; white is exactly 0. The subject's tokens are bold.
    Kinds with heads are shown in a second row, layer by head, and neurons as the strongest ones, at one token
    that a menu chooses.

    Args:
        kinds: None shows all that were traced.
        token: index or role of the token at which heads and neurons are shown first; None is the one with the
            largest effect of theirs.
        level: of the bootstrap interval over draws.

    Raises:
        InputError: an unknown kind or token.
        RangeError: `level` is outside of (0, 1).

    Meng et al. 2022 (ROME), figure 1.

    Example:
        >>> plot.trace(causal_trace(model, fact)).show()
    """
    chosen = list(trace.kinds if kinds is None else kinds)
    unknown = [kind for kind in chosen if kind not in trace.kinds]
    if unknown or not chosen:
        raise InputError(f"kinds: expected some of {', '.join(trace.kinds)}, got {chosen}.")
    effects = {kind: trace.indirect_effect(kind) for kind in chosen}
    grids = [kind for kind in chosen if effects[kind].dims == GRID]
    parts = [kind for kind in chosen if kind not in grids]
    rows = [group for group in (grids, parts) if group]
    heights = [max(LEAST_PIXELS, ROW_PIXELS * trace.data.sizes["token"])] if grids else []
    most = max((rows_of(effects[kind]) for kind in parts), default=0)
    heights += [max(LEAST_PIXELS, PART_PIXELS * most)] if parts else []
    height, width = sum(heights) + GAP_PIXELS * (len(rows) - 1), max(map(len, rows))
    figure = make_subplots(
        rows=len(rows),
        cols=width,
        specs=[[{} if column < len(row) else None for column in range(width)] for row in rows],
        subplot_titles=[panel_title(kind, trace.settings.get("window")) for row in rows for kind in row],
        row_heights=heights,
        horizontal_spacing=(0.36 if parts else 0.255) / max(width, 2),
        vertical_spacing=GAP_PIXELS / height if len(rows) > 1 else 0.0,
    )
    style(figure, height=height + 82 + (44 if parts else 0) + (32 if title else 0))
    for column, kind in enumerate(grids, start=1):
        _add_grid(figure, trace, kind, column, level)
    if parts:
        token = chosen_token(trace, parts, token)
        add_parts(figure, trace, parts, row=len(rows), token=token, level=level)
    add_bars(figure)
    figure.update_annotations(font={"size": 13, "color": INK})
    figure.update_xaxes(showline=False)
    figure.update_yaxes(autorange="reversed", showline=False, ticks="", automargin=True)
    if title is not None:
        figure.update_layout(title={"text": html.escape(title), "x": 0, "font": {"size": 14}})
    figure.update_layout(margin={"t": 66 if title else 34, "r": 52, "b": 92 if parts else 48})
    return figure


def _add_grid(figure: go.Figure, trace: Trace, kind: str, column: int, level: float) -> None:
    """A panel of tokens by layers."""
    effect = trace.indirect_effect(kind)
    low, high = (part.values for part in trace.interval(kind, level=level))
    layers, labels = effect["layer"].values, token_labels(trace.data)
    panel = cell_map(
        Cells(effect.values, low, high),
        x=layers,
        bounds=Bounds.of(effect.values),
        hue=hue_of(kind),
        names=[[f"{name}<br>layer {layer}" for layer in layers] for name in token_names(trace.data)],
        unit="effect",
        what=kind_name(kind),
    )
    figure.add_trace(panel, row=1, col=column)
    figure.update_xaxes(title_text="layer", dtick=tick_step(len(layers), 6), row=1, col=column)
    figure.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=labels,
        showticklabels=column == 1,
        row=1,
        col=column,
    )
