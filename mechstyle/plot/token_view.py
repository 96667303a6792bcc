"""Prompts with their tokens coloured by a value: circuitsvis, offline, and safe for any token text."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from circuitsvis.activations import text_neuron_activations
from circuitsvis.tokens import colored_tokens

from mechstyle.errors import InputError
from mechstyle.tracing.saliency import Saliency
from mechstyle.tracing.trace import Trace

__all__ = ["TokenView", "heads", "saliency", "tokens", "viewer_script"]


@dataclass(frozen=True)
class TokenView:
    """A token view as HTML. Notebooks show it as it is; a page with several views includes the script once.

    Attributes:
        body: the element and the short script that draws into it; it needs ``viewer_script()`` on the page.
    """

    body: str

    def _repr_html_(self) -> str:
        """The whole view for a notebook, drawn without the network."""
        return f"<script>{viewer_script()}</script>{self.body}"


def tokens(
    trace: Trace | Sequence[str],
    values: Sequence[float] | None = None,
    *,
    kind: str = "mlp",
    name: str = "tokens",
) -> TokenView:
    """Colour each token by a value: of a trace, its largest mean indirect effect over layers (and heads).

    Args:
        trace: a causal trace, or token strings with ``values``.
        values: one number a token; only with token strings.
        kind: of the trace's states.
        name: id of the HTML element; views on one page need different ones.

    Raises:
        InputError: values are missing, superfluous or of another number than the tokens; an unknown kind.

    Example:
        >>> plot.tokens([" Miles", " Davis"], [0.1, 0.7])
    """
    if isinstance(trace, Trace):
        if values is not None:
            raise InputError(
                "values: a trace brings its own; pass the token strings to colour them by other values."
            )
        strings = [str(text) for text in trace.data["token_str"].values]
        effect = trace.indirect_effect(kind)
        others = [dim for dim in effect.dims if dim != "token"]
        numbers = [float(value) for value in effect.reduce(np.max, dim=others).values]
    else:
        strings, numbers = list(trace), [float(value) for value in values or ()]
    if len(strings) != len(numbers) or not strings:
        raise InputError(
            f"values: expected one number a token, got {len(numbers)} for {len(strings)} tokens."
        )
    _check_name(name)
    return TokenView(_coloured(name, strings, numbers, max(map(abs, numbers)) or 1.0))


def saliency(saliency: Saliency, *, name: str = "saliency") -> TokenView:
    """Colour each token by its attribution, a line a baseline, all on one scale.

    The label of a line says how far its attributions are from adding up to the change of the metric.

    Args:
        name: id of the HTML element; views on one page need different ones.

    Raises:
        InputError: the name is none for an element.

    Example:
        >>> plot.saliency(saliency(model, fact, baseline=("bos", "mean")))
    """
    _check_name(name)
    data = saliency.data
    strings = [str(text) for text in data["token_str"].values]
    scores = data["score"].transpose("baseline", "token").values.astype(float)
    reach = float(np.abs(scores).max()) or 1.0
    lines = []
    for number, baseline in enumerate(map(str, data["baseline"].values)):
        gap, label = float(data["gap"].values[number]), html.escape(baseline)
        lines.append(
            f'<p class="baseline">against {label} (gap {gap:.2g})</p>\n'
            + _coloured(f"{name}-{number + 1}", strings, scores[number].tolist(), reach)
        )
    return TokenView("\n".join(lines))


def heads(trace: Trace, *, kind: str = "heads", name: str = "heads") -> TokenView:
    """Colour each token by the effect of one head there; menus choose the layer and the head.

    Args:
        kind: with an axis of heads.
        name: id of the HTML element; views on one page need different ones.

    Raises:
        InputError: the trace has no such kind, or it has no heads.

    Example:
        >>> plot.heads(causal_trace(model, fact, kinds=("heads",)))
    """
    _check_name(name)
    effect = trace.indirect_effect(kind)
    if effect.ndim != 3:
        raise InputError(
            f"kind: expected one with heads, got {kind!r} over {', '.join(map(str, effect.dims))}."
        )
    strings = [str(text) for text in trace.data["token_str"].values]
    part = "KV head" if str(effect.dims[-1]).startswith("kv") else "Head"
    drawn = text_neuron_activations(strings, effect.values, "Layer", part).local_src
    return TokenView(_element(name, "TextNeuronActivations", drawn))


@cache
def viewer_script() -> str:
    """The script of circuitsvis that all views of a page share."""
    source = resources.files("circuitsvis").joinpath("dist/cdn/iife.js").read_text(encoding="utf-8")
    source = source.replace("</script", "<\\/script")
    return source.rpartition("//# sourceMappingURL=")[0]


def _coloured(name: str, strings: list[str], numbers: list[float], reach: float) -> str:
    """One line of tokens, each with a colour between those of -reach and reach."""
    drawn = colored_tokens(
        strings, numbers, min_value=-reach, max_value=reach, negative_color="rgb(158,118,72)",
        positive_color="rgb(33,94,84)",
    ).local_src  # fmt: skip
    return _element(name, "ColoredTokens", drawn)


def _element(name: str, component: str, drawn: str) -> str:
    """An element and the call that draws a component of circuitsvis into it.

    Its properties are those that circuitsvis would draw with, as JSON that cannot end the script it stands
    in.
    """
    call = drawn.partition(f"CircuitsVis.{component},")[2]
    found, _ = json.JSONDecoder().raw_decode(call.strip())
    props = json.dumps(found).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return (
        f'<div id="{name}" class="tokens"></div>\n'
        f'<script>CircuitsVis.render("{name}", CircuitsVis.{component}, {props})</script>'
    )


def _check_name(name: str) -> None:
    if not name.replace("-", "").replace("_", "").isalnum():
        raise InputError(
            f"name: expected letters, digits, - and _ only, since it is an element's id; got {name!r}."
        )
