"""The report as one HTML file: template, figures and scripts inlined, nothing loaded from anywhere."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import jinja2
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from mechstyle import plot
from mechstyle.plot.token_view import viewer_script
from mechstyle.report.findings import fact_finding, number, site_findings
from mechstyle.report.record import FactResult, Report
from mechstyle.report.results import score_rows

__all__ = ["render"]

TEMPLATE = "report.html.j2"
DRAW = {
    "displayModeBar": False,
    "responsive": True,
    "displaylogo": False,
    "showSendToCloud": False,
    "plotlyServerURL": "",
}


def render(report: Report) -> str:
    """The whole page; every text that comes from a user or a model is escaped.

    Example:
        >>> page = render(report)  # doctest: +SKIP
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mechstyle.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, percent=_percent, quote=_quote)
    return environment.get_template(TEMPLATE).render(
        report=report,
        heading=_heading(len(report.facts)),
        layer=report.choice.layer,
        facts=[_fact(report, index, fact) for index, fact in enumerate(report.facts)],
        site_findings=site_findings(report),
        scores=score_rows(report.scores),
        roles_figure=_figure("roles", plot.average(report.roles)),
        sweep_figure=(
            None
            if report.choice.sweep is None
            else _figure("sweep", plot.sweep(report.choice.sweep, chosen=report.choice.layer))
        ),
        provenance=json.dumps(report.provenance, indent=2, ensure_ascii=False),
        style=Markup(_resource("style.css")),
        plotly_script=_script(get_plotlyjs()),
        token_script=_script(viewer_script()),
    )


def _fact(report: Report, index: int, fact: FactResult) -> dict[str, Any]:
    """What the template shows of one fact."""
    rows = fact.frame[fact.frame["kind"] == "neighborhood"]
    before, after = (rows[rows["stage"] == stage].to_dict("records") for stage in ("before", "after"))
    neighbours = [
        {"prompt": now["prompt"], "true": now["target_true"].strip(), "before": old, "after": now}
        for old, now in zip(before, after, strict=True)
    ]
    return {
        "result": fact,
        "request": fact.request,
        "finding": fact_finding(fact, report.choice.layer),
        "figure": _figure(f"trace-{index + 1}", plot.trace(fact.trace)),
        "tokens": Markup(plot.tokens(fact.trace, kind="resid", name=f"tokens-{index + 1}").body),
        "neighbours": neighbours,
        "sparkline": _sparkline(fact.losses),
        "total_effect": float(fact.trace.total_effect()),
        "corrupted": float(fact.trace.corrupted.mean()),
    }


def _heading(n_facts: int) -> str:
    words = ("No facts", "One fact", "Two facts", "Three facts", "Four facts", "Five facts", "Six facts")
    return words[n_facts] if n_facts < len(words) else f"{n_facts} facts"


def _figure(name: str, figure: go.Figure) -> Markup:
    """A figure's element and the call that draws it; its JSON cannot end the script it stands in."""
    height = int(figure.layout.height)
    arguments = f'"{name}", f.data, f.layout, {json.dumps(DRAW)}'
    return Markup(
        f'<div id="{name}" class="figure" style="height:{height}px"></div>\n'
        f"<script>{{const f = {_safe(figure.to_json())}; Plotly.newPlot({arguments});}}</script>"
    )


def _safe(text: str) -> str:
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _script(source: str) -> Markup:
    return Markup(source.replace("</script", "<\\/script"))


def _resource(name: str) -> str:
    return resources.files("mechstyle.report").joinpath("templates", name).read_text(encoding="utf-8")


def _sparkline(losses: tuple[float, ...], width: int = 64, height: int = 18) -> Markup:
    """The losses as a small line, from the first to the last step."""
    top, bottom = max(losses), min(losses)
    span, steps = (top - bottom) or 1.0, max(len(losses) - 1, 1)
    points = " ".join(
        f"{2 + (width - 4) * step / steps:.1f},{2 + (height - 4) * (top - loss) / span:.1f}"
        for step, loss in enumerate(losses)
    )
    return Markup(
        f'<svg class="spark" width="{width}" height="{height}" role="img" aria-label="loss by step">'
        f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.2"/></svg>'
    )


def _percent(value: float) -> str:
    return f"{value:.2%}"


def _quote(text: str) -> str:
    """A continuation as it is read: without its leading space."""
    return text.strip()
