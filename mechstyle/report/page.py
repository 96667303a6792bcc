"""What all reports share: one HTML file with its figures and scripts inlined, and nothing loaded."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import jinja2
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from mechstyle.plot.token_view import TokenView, viewer_script
from mechstyle.report.findings import number

__all__ = ["figure_element", "fill", "token_element"]

DRAW = {
    "displayModeBar": False,
    "responsive": True,
    "displaylogo": False,
    "showSendToCloud": False,
    "plotlyServerURL": "",
}


def fill(template: str, **values: Any) -> str:
    """A template with its values; every text that comes from a user or a model is escaped.

    Example:
        >>> page = fill("traces.html.j2", title="Facts", **values)  # doctest: +SKIP
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mechstyle.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, percent=_percent, quote=_quote)
    return environment.get_template(template).render(
        **values,
        style=Markup(_resource("style.css")),
        plotly_script=_script(get_plotlyjs()),
        token_script=_script(viewer_script()),
    )


def figure_element(name: str, figure: go.Figure) -> Markup:
    """A figure's element and the call that draws it; its JSON cannot end the script it stands in.

    Example:
        >>> figure_element("sweep", plot.sweep(frame))  # doctest: +SKIP
    """
    height = int(figure.layout.height)
    arguments = f'"{name}", f.data, f.layout, {json.dumps(DRAW)}'
    return Markup(
        f'<div id="{name}" class="figure" style="height:{height}px"></div>\n'
        f"<script>{{const f = {_safe(figure.to_json())}; Plotly.newPlot({arguments});}}</script>"
    )


def token_element(view: TokenView) -> Markup:
    """A token view, which circuitsvis made safe, as it stands in a page.

    Example:
        >>> token_element(plot.tokens(trace))  # doctest: +SKIP
    """
    return Markup(view.body)


def _safe(text: str) -> str:
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _script(source: str) -> Markup:
    return Markup(source.replace("</script", "<\\/script"))


def _resource(name: str) -> str:
    return resources.files("mechstyle.report").joinpath("templates", name).read_text(encoding="utf-8")


def _percent(value: float) -> str:
    return f"{value:.2%}"


def _quote(text: str) -> str:
    """A continuation as it is read: without its leading space."""
    return text.strip()
