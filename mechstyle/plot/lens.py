"""The logit lens as a table: layers across, tokens down, the most probable token in each cell."""

from __future__ import annotations

import html
from typing import Literal, get_args

import numpy as np
import plotly.graph_objects as go

from mechstyle.errors import InputError
from mechstyle.plot.panels import token_labels, token_names
from mechstyle.plot.style import KIND_HUES, OTHER_HUE, rgb, style, token_label
from mechstyle.tracing.logit_lens import LogitLens

__all__ = ["lens"]

Colour = Literal["answer_prob", "entropy", "kl"]
COLOURS: dict[str, tuple[str, tuple[int, int, int]]] = {
    "answer_prob": ("P(answer)", KIND_HUES["resid"]),
    "entropy": ("entropy (nats)", OTHER_HUE),
    "kl": ("KL to the output (nats)", OTHER_HUE),
}
LONGEST = 9
SHOWN = 5


def lens(lens: LogitLens, *, colour: Colour = "answer_prob", state: str | None = None) -> go.Figure:
    """Show what each layer's state at each token would predict; the top tokens and their P on hover.

    Args:
        colour: the probability of the answer's first token, the entropy, or the KL divergence to what the
            model says in the end.
        state: which one of several; None is the only one, or the first.

    Raises:
        InputError: an unknown colour or state.

    nostalgebraist 2020.

    Example:
        >>> plot.lens(logit_lens(model, fact)).show()
    """
    if colour not in get_args(Colour):
        raise InputError(f"colour: expected one of {', '.join(COLOURS)}, got {colour!r}.")
    data = lens.data
    held = data["state"].values if "state" in data.coords else lens.settings["states"]
    states = [str(found) for found in np.atleast_1d(held)]
    chosen = states[0] if state is None else state
    if chosen not in states:
        raise InputError(f"state: expected one of {', '.join(states)}, got {state!r}.")
    if "state" in data.dims:
        data = data.isel(state=states.index(chosen))
    data = data.transpose("token", "layer", ...)
    values = data[colour].values.astype(float)
    tops, probs = data["top_token"].values, data["top_prob"].values
    layers, labels = [str(name) for name in data["layer_str"].values], token_labels(data)
    title, hue = COLOURS[colour]
    largest = 1.0 if colour == "answer_prob" else max(float(np.nanmax(values)), 1e-9)
    there = np.isfinite(values)
    figure = go.Figure(
        go.Heatmap(
            x=layers,
            y=np.arange(len(labels)),
            z=values,
            zmin=0.0,
            zmax=largest,
            colorscale=[(step / 4, rgb(hue, 0.85 * step / 4)) for step in range(5)],
            text=[
                [
                    _short(str(tops[token, layer, 0])) if there[token, layer] else ""
                    for layer in range(len(layers))
                ]
                for token in range(len(labels))
            ],
            texttemplate="%{text}",
            textfont={"size": 10.5},
            customdata=[
                [
                    f"{name}<br>layer {layers[layer]}<br>"
                    + "<br>".join(
                        f"{token_label(str(word))} {p:.3f}"
                        for word, p in zip(
                            tops[token, layer, :SHOWN], probs[token, layer, :SHOWN], strict=True
                        )
                    )
                    for layer in range(len(layers))
                ]
                for token, name in enumerate(token_names(data))
            ],
            hovertemplate=f"%{{customdata}}<br>{title} %{{z:.3g}}<extra></extra>",
            hoverongaps=False,
            xgap=1,
            ygap=1,
            colorbar={
                "thickness": 8,
                "outlinewidth": 0,
                "tickfont": {"size": 10},
                "nticks": 5,
                "title": {"text": title, "side": "right", "font": {"size": 11}},
            },
        )
    )
    style(figure, height=23 * len(labels) + 74)
    figure.update_xaxes(title_text="layer", type="category", showline=False, ticks="")
    figure.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=labels,
        autorange="reversed",
        showline=False,
        ticks="",
        automargin=True,
    )
    figure.update_layout(margin={"t": 12, "r": 16})
    return figure


def _short(token: str) -> str:
    """A token as it fits into a cell, escaped."""
    shown = token.strip()
    return (
        token_label(token) if len(shown) <= LONGEST else f"{html.escape(shown[: LONGEST - 1], quote=False)}…"
    )
