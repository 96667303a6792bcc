"""Many traces at a glance: a small map a fact, all on one colour scale."""

from __future__ import annotations

import html
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechstyle.errors import InputError
from mechstyle.plot.panels import Bounds, Cells, cell_map, hue_of, kind_name, token_labels, token_names
from mechstyle.plot.style import INK, style, tick_step
from mechstyle.tracing.trace import Trace

__all__ = ["facts"]

GRID = ("token", "layer")
LONGEST = 34
"""Letters of a title that stand beside each other."""


def facts(traces: Sequence[Trace], *, kind: str | None = None, columns: int = 3, most: int = 12) -> go.Figure:
    """Show one kind of many traces as small maps that share a colour scale; the title says prompt and answer.

    Args:
        kind: with one value for every token and layer; None is "mlp", or else the first such one.
        columns: maps beside each other.
        most: maps at most; the title of the figure says when others are left out.

    Raises:
        InputError: no traces, one without the kind, or a number below 1.

    Example:
        >>> plot.facts(traces, kind="resid").show()
    """
    some = list(traces[:most]) if most >= 1 and columns >= 1 else []
    if not some:
        raise InputError(
            f"traces: expected one or more, with columns and most of at least 1; got {len(traces)} traces, "
            f"columns={columns}, most={most}."
        )
    chosen = _kind(some, kind)
    across = min(columns, len(some))
    rows = [some[start : start + across] for start in range(0, len(some), across)]
    heights = [max(trace.data.sizes["token"] for trace in row) for row in rows]
    pixels = [15 * tallest for tallest in heights]
    gap = 62
    height = sum(pixels) + gap * (len(rows) - 1)
    figure = make_subplots(
        rows=len(rows),
        cols=across,
        specs=[[{} if column < len(row) else None for column in range(across)] for row in rows],
        subplot_titles=[_title(trace) for trace in some],
        row_heights=pixels,
        vertical_spacing=gap / height if len(rows) > 1 else 0,
        horizontal_spacing=0.33 / max(across, 2),
    )
    effects = [trace.indirect_effect(chosen) for trace in some]
    bounds = Bounds.of(*(effect.values for effect in effects))
    for number, (trace, effect) in enumerate(zip(some, effects, strict=True)):
        place = {"row": number // across + 1, "col": number % across + 1}
        layers, labels = effect["layer"].values, token_labels(trace.data)
        figure.add_trace(
            cell_map(
                Cells(effect.values),
                x=layers,
                bounds=bounds,
                hue=hue_of(chosen),
                names=[[f"{name}<br>layer {layer}" for layer in layers] for name in token_names(trace.data)],
                unit="effect",
                what=_title(trace),
            ),
            **place,
        )
        figure.update_yaxes(tickvals=list(range(len(labels))), ticktext=labels, **place)
        figure.update_xaxes(dtick=tick_step(len(layers), 5), **place)
    style(figure, height=height + 108)
    figure.data[0].update(
        showscale=True,
        colorbar={
            "orientation": "h",
            "thickness": 8,
            "len": 0.3,
            "x": 0,
            "xanchor": "left",
            "y": 0,
            "yanchor": "top",
            "ypad": 34,
            "outlinewidth": 0,
            "tickfont": {"size": 10},
            "title": {"text": f"indirect effect, {kind_name(chosen)}", "side": "top", "font": {"size": 11}},
        },
    )
    figure.update_annotations(font={"size": 11.5, "color": INK})
    figure.update_xaxes(showline=False, tickfont={"size": 10})
    figure.update_yaxes(
        autorange="reversed", showline=False, ticks="", automargin=True, tickfont={"size": 10}
    )
    figure.update_layout(margin={"t": 34, "r": 16, "b": 76})
    if len(some) < len(traces):
        figure.add_annotation(
            text=f"{len(some)} of {len(traces)} facts",
            x=1,
            y=0,
            xref="paper",
            yref="paper",
            xanchor="right",
            yanchor="top",
            yshift=-34,
            showarrow=False,
            font={"size": 12},
        )
    return figure


def _kind(traces: Sequence[Trace], kind: str | None) -> str:
    """A kind over tokens and layers that all traces have."""
    shared = [
        name
        for name in traces[0].kinds
        if all(name in trace.kinds and trace.indirect_effect(name).dims == GRID for trace in traces)
    ]
    chosen = ("mlp" if "mlp" in shared else next(iter(shared), None)) if kind is None else kind
    if chosen is None or chosen not in shared:
        raise InputError(
            "kind: expected one that every trace has over tokens and layers "
            f"({', '.join(shared) or 'there is none'}), got {kind!r}."
        )
    return chosen


def _title(trace: Trace) -> str:
    """The subject and the answer, short enough for one map."""
    settings = trace.settings
    fact = settings.get("fact") or {}
    whole = f"{fact.get('subject', '')} →{_spaced(str(settings.get('answer', '')))}".strip()
    shown = whole if len(whole) <= LONGEST else f"{whole[: LONGEST - 1].rstrip()}…"
    known = "" if settings.get("knows", True) else " (not known)"
    return html.escape(shown, quote=False) + known


def _spaced(answer: str) -> str:
    return answer if answer[:1].isspace() else f" {answer}"
