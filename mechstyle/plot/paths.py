"""Path patching: what every head, and every MLP, sends to the receivers."""

from __future__ import annotations

import html

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechstyle.errors import InputError
from mechstyle.plot.panels import Bounds, Cells, add_bars, cell_map, token_names
from mechstyle.plot.style import INK, OTHER_HUE, style, tick_step
from mechstyle.tracing.trace import Trace

__all__ = ["paths"]

MLP = "MLP"


def paths(trace: Trace, *, title: str | None = None) -> go.Figure:
    """Show the effect of each sender through the receivers: heads by layers, MLPs in the last row.

    A panel for each set of tokens; all share one colour scale. The title says who receives.

    Raises:
        InputError: the trace holds neither heads nor MLPs, or is not of path patching.

    Wang et al. 2022, figure 3.

    Example:
        >>> plot.paths(path_patching(model, clean, corrupted, receivers=[Receiver(9, "q", head=6)])).show()
    """
    kinds = [kind for kind in ("heads", "mlp") if kind in trace.kinds]
    receivers = trace.settings.get("receivers")
    if not kinds or not receivers:
        raise InputError(
            f"trace: expected one that path_patching made, with heads or MLPs, got {', '.join(trace.kinds)}."
        )
    grids, labels = [], []
    for kind in kinds:
        effect = trace.indirect_effect(kind)
        values = effect.values if kind == "heads" else effect.values[..., None]
        grids.append(values.swapaxes(1, 2))  # token set, sender, layer
        labels += [f"head {head}" for head in range(values.shape[2])] if kind == "heads" else [MLP]
    layers = trace.indirect_effect(kinds[0])["layer"].values
    whole = np.concatenate(grids, axis=1)
    bounds, sets = Bounds.of(whole), token_names(trace.data)
    figure = make_subplots(
        cols=len(whole), subplot_titles=_titles(trace), shared_yaxes=True, horizontal_spacing=0.06
    )
    for column, (values, name) in enumerate(zip(whole, sets, strict=True), start=1):
        figure.add_trace(
            cell_map(
                Cells(values),
                x=layers,
                bounds=bounds,
                hue=OTHER_HUE,
                names=[[f"{sender} of layer {layer}<br>{name}" for layer in layers] for sender in labels],
                unit="effect",
                what="",
            ),
            row=1,
            col=column,
        )
    style(figure, height=20 * len(labels) + 104)
    add_bars(figure)
    for panel in figure.data[:-1]:
        panel.showscale = False
    shown = f"senders to {', '.join(map(str, receivers))}" if title is None else title
    figure.update_annotations(font={"size": 13, "color": INK})
    figure.update_xaxes(title_text="layer of the sender", dtick=tick_step(len(layers), 6), showline=False)
    figure.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=labels,
        autorange="reversed",
        showline=False,
        ticks="",
        automargin=True,
    )
    figure.update_layout(
        title={"text": html.escape(shown, quote=False), "x": 0, "font": {"size": 14}},
        margin={"t": 62, "r": 52},
    )
    return figure


def _titles(trace: Trace) -> list[str]:
    return [html.escape(str(text), quote=False) for text in trace.data["token_str"].values]
