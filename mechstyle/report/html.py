"""The report as one HTML file: template, figures and scripts inlined, nothing loaded from anywhere."""

from __future__ import annotations

import json
from typing import Any

from markupsafe import Markup

from mechstyle import plot
from mechstyle.report.findings import fact_finding, site_findings
from mechstyle.report.page import figure_element, fill, token_element
from mechstyle.report.record import FactResult, Report
from mechstyle.report.results import score_rows

__all__ = ["render"]

TEMPLATE = "report.html.j2"


def render(report: Report) -> str:
    """The whole page; every text that comes from a user or a model is escaped.

    Example:
        >>> page = render(report)  # doctest: +SKIP
    """
    return fill(
        TEMPLATE,
        report=report,
        heading=_heading(len(report.facts)),
        layer=report.choice.layer,
        facts=[_fact(report, index, fact) for index, fact in enumerate(report.facts)],
        site_findings=site_findings(report),
        scores=score_rows(report.scores),
        roles_figure=figure_element("roles", plot.average(report.roles)),
        sweep_figure=(
            None
            if report.choice.sweep is None
            else figure_element("sweep", plot.sweep(report.choice.sweep, chosen=report.choice.layer))
        ),
        provenance=json.dumps(report.provenance, indent=2, ensure_ascii=False),
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
        "figure": figure_element(f"trace-{index + 1}", plot.trace(fact.trace)),
        "tokens": token_element(plot.tokens(fact.trace, kind="resid", name=f"tokens-{index + 1}")),
        "lens": figure_element(f"lens-{index + 1}", plot.lens(fact.lens)),
        "saliency": token_element(plot.saliency(fact.saliency, name=f"saliency-{index + 1}")),
        "neighbours": neighbours,
        "sparkline": _sparkline(fact.losses),
        "total_effect": float(fact.trace.total_effect()),
        "corrupted": float(fact.trace.corrupted.mean()),
    }


def _heading(n_facts: int) -> str:
    words = ("No facts", "One fact", "Two facts", "Three facts", "Four facts", "Five facts", "Six facts")
    return words[n_facts] if n_facts < len(words) else f"{n_facts} facts"


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
