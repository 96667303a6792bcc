"""Heads and neurons of a trace: one token at a time, chosen by a menu."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechstyle.errors import InputError
from mechstyle.plot.panels import Bounds, Cells, cell_map, hue_of, kind_name, token_names
from mechstyle.plot.style import INK, MUTED, RULE, rgb, tick_step
from mechstyle.tracing.trace import Trace

__all__ = ["MOST_NEURONS", "add_parts", "chosen_token", "has_layers", "part_name", "rows_of"]

MOST_NEURONS = 16
"""Of a kind without layers, as many parts are shown."""


def has_layers(effect: xr.DataArray) -> bool:
    """Whether a kind has a map of layers by parts, or parts of one layer only."""
    return "layer" in effect.dims


def part_name(effect: xr.DataArray) -> str:
    """What the parts of a kind are called: those of its last axis.

    Example:
        >>> part_name(trace.indirect_effect("heads"))
        'head'
    """
    return str(effect.dims[-1]).replace("_", "-")


def rows_of(effect: xr.DataArray) -> int:
    """How many rows the panel of a kind has."""
    return effect.shape[-1] if has_layers(effect) else min(MOST_NEURONS, effect.shape[-1])


def chosen_token(trace: Trace, kinds: Sequence[str], token: int | str | None) -> int:
    """Index of a token given by index or role; None is the one with the largest effect of any part.

    Raises:
        InputError: the trace has no such token.

    Example:
        >>> chosen_token(trace, ["heads"], "last subject token")
        2
    """
    if isinstance(token, str):
        return trace.token(token)
    n_tokens = trace.data.sizes["token"]
    if token is None:
        peaks = [np.abs(trace.indirect_effect(kind).values).reshape(n_tokens, -1).max(1) for kind in kinds]
        return int(np.max(peaks, axis=0).argmax())
    if isinstance(token, bool) or not 0 <= token < n_tokens:
        raise InputError(f"token: expected an index from 0 to {n_tokens - 1} or a role, got {token!r}.")
    return int(token)


def add_parts(
    figure: go.Figure, trace: Trace, kinds: Sequence[str], *, row: int, token: int, level: float
) -> None:
    """Draw these kinds side by side in a row of a figure at one token, and a menu with the other tokens."""
    first, names = len(figure.data), token_names(trace.data)
    owners: list[int] = []
    for column, kind in enumerate(kinds, start=1):
        effect = trace.indirect_effect(kind)
        low, high = (part.values for part in trace.interval(kind, level=level))
        for place, name in enumerate(names):
            cells = (effect.values[place], low[place], high[place])
            make = _map if has_layers(effect) else _bars
            figure.add_trace(make(kind, effect, cells, name), row=row, col=column)
            figure.data[-1].visible = place == token
            owners.append(place)
        _axes(figure, effect, row, column)
    if len(names) > 1:
        before = [True] * first
        _menu(
            figure,
            [[*before, *(owner == place for owner in owners)] for place in range(len(names))],
            names,
            token,
        )


def _map(kind: str, effect: xr.DataArray, cells: Sequence[np.ndarray], name: str) -> go.Heatmap:
    """Layers across, parts down; all tokens share the scale."""
    mean, low, high = (values.T for values in cells)
    layers, part = effect["layer"].values, part_name(effect)
    return cell_map(
        Cells(mean, low, high),
        x=layers,
        bounds=Bounds.of(effect.values),
        hue=hue_of(kind),
        names=[[f"{name}<br>layer {layer}, {part} {row}" for layer in layers] for row in range(len(mean))],
        unit="effect",
        what=kind_name(kind),
    )


def _bars(kind: str, effect: xr.DataArray, cells: Sequence[np.ndarray], name: str) -> go.Bar:
    """The strongest parts of one layer, whatever their sign, with their intervals."""
    mean, low, high = cells
    order = np.argsort(-np.abs(mean), kind="stable")[:MOST_NEURONS]
    part = part_name(effect)
    return go.Bar(
        x=mean[order],
        y=[str(index) for index in order],
        orientation="h",
        marker={"color": rgb(hue_of(kind), 0.75)},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": high[order] - mean[order],
            "arrayminus": mean[order] - low[order],
            "color": INK,
            "thickness": 1,
            "width": 2,
        },
        customdata=np.stack([low[order], high[order]], axis=-1),
        hovertemplate=(
            f"{name}<br>{part} %{{y}}<br>effect %{{x:.3g}} [%{{customdata[0]:.3g}}, %{{customdata[1]:.3g}}]"
            f"<extra>{kind_name(kind)}</extra>"
        ),
        showlegend=False,
    )


def _axes(figure: go.Figure, effect: xr.DataArray, row: int, column: int) -> None:
    if has_layers(effect):
        figure.update_xaxes(
            title_text="layer", dtick=tick_step(effect.sizes["layer"], 6), row=row, col=column
        )
        step = tick_step(effect.shape[-1], 12)
        figure.update_yaxes(title_text=part_name(effect), dtick=step, row=row, col=column)
    else:
        layer = effect.attrs.get("layer")
        where = "" if layer is None else f" at layer {html.escape(str(layer))}"
        figure.update_xaxes(
            title_text=f"effect{where}", zeroline=True, zerolinecolor=RULE, row=row, col=column
        )
        figure.update_yaxes(title_text=part_name(effect), type="category", row=row, col=column)


def _menu(figure: go.Figure, visible: Sequence[Sequence[bool]], names: Sequence[str], active: int) -> None:
    buttons = [
        {"label": f"at {name}", "method": "restyle", "args": [{"visible": list(shown)}]}
        for name, shown in zip(names, visible, strict=True)
    ]
    figure.update_layout(
        updatemenus=[
            {
                "buttons": buttons,
                "active": active,
                "direction": "up",
                "x": 0,
                "xanchor": "left",
                "y": 0,
                "yanchor": "top",
                "pad": {"t": 44},
                "bgcolor": "white",
                "bordercolor": RULE,
                "font": {"size": 12, "color": MUTED},
            }
        ]
    )
