"""Prompts with their tokens coloured by a value: circuitsvis, offline, and safe for any token text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from circuitsvis.tokens import colored_tokens

from mechstyle.errors import InputError
from mechstyle.tracing.trace import Trace

__all__ = ["TokenView", "tokens", "viewer_script"]


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
    """Colour each token by a value: of a trace, its largest mean indirect effect over layers.

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
        numbers = [float(value) for value in trace.indirect_effect(kind).max("layer").values]
    else:
        strings, numbers = list(trace), [float(value) for value in values or ()]
    if len(strings) != len(numbers) or not strings:
        raise InputError(
            f"values: expected one number a token, got {len(numbers)} for {len(strings)} tokens."
        )
    if not name.replace("-", "").replace("_", "").isalnum():
        raise InputError(
            f"name: expected letters, digits, - and _ only, since it is an element's id; got {name!r}."
        )
    reach = max(map(abs, numbers)) or 1.0
    props = _props(strings, numbers, reach)
    return TokenView(
        f'<div id="{name}" class="tokens"></div>\n'
        f'<script>CircuitsVis.render("{name}", CircuitsVis.ColoredTokens, {props})</script>'
    )


@cache
def viewer_script() -> str:
    """The script of circuitsvis that all views of a page share."""
    source = resources.files("circuitsvis").joinpath("dist/cdn/iife.js").read_text(encoding="utf-8")
    source = source.replace("</script", "<\\/script")
    return source.rpartition("//# sourceMappingURL=")[0]


def _props(strings: list[str], numbers: list[float], reach: float) -> str:
    """The properties that circuitsvis would draw with, as JSON that cannot end the script it stands in."""
    drawn = colored_tokens(
        strings, numbers, min_value=-reach, max_value=reach, negative_color="rgb(158,118,72)",
        positive_color="rgb(33,94,84)",
    ).local_src  # fmt: skip
    call = drawn.partition("CircuitsVis.ColoredTokens,")[2]
    found, _ = json.JSONDecoder().raw_decode(call.strip())
    return json.dumps(found).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
