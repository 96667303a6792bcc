"""``results.json``: everything in the report's tables and figures, as JSON values."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mechstyle.evaluation.scores import Scores, Stage
from mechstyle.plain_json import plain_json
from mechstyle.report.findings import fact_finding, number, site_findings
from mechstyle.report.record import FactResult, LayerChoice, Report
from mechstyle.tracing.trace import Trace

__all__ = ["ScoreCell", "ScoreRow", "results", "score_rows"]

GROUPS = (
    {
        "efficacy": "Efficacy",
        "paraphrase": "Paraphrase",
        "neighborhood": "Neighbourhood",
        "score": "Score",
    },
    {
        "efficacy_magnitude": "P(new) − P(true), edited prompt",
        "paraphrase_magnitude": "P(new) − P(true), paraphrases",
        "neighborhood_magnitude": "P(true) − P(new), neighbours",
    },
    {
        "efficacy_exact": "New answer comes first, edited prompt",
        "paraphrase_exact": "New answer comes first, paraphrases",
        "neighborhood_exact": "True answer comes first, neighbours",
    },
)
PERPLEXITY = "Perplexity of held-out text"


class ScoreCell(NamedTuple):
    """A value and its interval, as text."""

    text: str
    interval: str


class ScoreRow(NamedTuple):
    """One measure before and after the edit."""

    name: str
    before: ScoreCell
    after: ScoreCell


def score_rows(scores: Scores, ci: float = 0.95) -> list[list[ScoreRow]]:
    """The scores as groups of table rows; a measure without prompts is a dash."""
    before, after = (scores.summary(ci, stage=stage) for stage in ("before", "after"))
    groups = [
        [
            ScoreRow(label, *(_cell(*table.loc[name, ["value", "low", "high"]]) for table in (before, after)))
            for name, label in group.items()
        ]
        for group in GROUPS
    ]
    if scores.perplexity is not None:
        stages: tuple[Stage, Stage] = ("before", "after")
        cells = (ScoreCell(f"{scores.perplexity[stage]:.2f}", "") for stage in stages)
        groups.append([ScoreRow(PERPLEXITY, *cells)])
    return groups


def results(report: Report) -> dict[str, Any]:
    """Every number of the report.

    Example:
        >>> results(report)["layer"]["layer"]  # doctest: +SKIP
        5
    """
    whole = {
        "model": {"name": report.model, **report.shape},
        "command": report.command,
        "seconds": report.seconds,
        "findings": {
            "facts": [fact_finding(fact, report.choice.layer) for fact in report.facts],
            "sites": site_findings(report),
        },
        "layer": _choice(report.choice),
        "facts": [_fact(fact) for fact in report.facts],
        "roles": report.roles.to_dict("records"),
        "scores": report.scores.to_dict(),
        "covariance": report.covariance,
        "provenance": report.provenance,
    }
    plain: dict[str, Any] = plain_json(whole)
    return plain


def _choice(choice: LayerChoice) -> dict[str, Any]:
    suggestion = choice.suggestion
    return {
        "layer": choice.layer,
        "by": choice.by,
        "reason": choice.reason,
        "suggested_by_trace": {
            "layer": suggestion.layer,
            "effect": suggestion.effect,
            "interval": suggestion.interval,
            "share": suggestion.share,
            "reason": suggestion.reason,
        },
        "caveat": suggestion.caveat,
        "sweep": None if choice.sweep is None else choice.sweep.to_dict("records"),
    }


def _fact(fact: FactResult) -> dict[str, Any]:
    return {
        "request": fact.request.to_dict(),
        "knows": fact.trace.knows,
        "trace": _trace(fact.trace),
        "logit_lens": {
            name: fact.lens.data[name].values for name in ("answer_prob", "answer_rank", "top_token")
        },
        "saliency": {
            "baselines": fact.saliency.data["baseline"].values,
            "score": fact.saliency.data["score"].values,
            "settings": fact.saliency.settings,
        },
        "completions": [vars(completion) for completion in fact.completions],
        "edit": {
            "parameters": fact.edit.parameters,
            "norm": fact.norms[0],
            "weight_norm": fact.norms[1],
            "relative_norm": fact.relative_norm,
            "bytes": fact.edit_bytes,
            "losses": fact.losses,
            "settings": fact.edit.provenance["settings"],
        },
        "files": {"trace": fact.trace_file, "edit": fact.edit_file},
    }


def _trace(trace: Trace) -> dict[str, Any]:
    kinds = {}
    for kind in trace.kinds:
        low, high = trace.interval(kind)
        kinds[kind] = {
            "effect": trace.indirect_effect(kind).values,
            "low": low.values,
            "high": high.values,
        }
    return {
        "tokens": trace.data["token_str"].values,
        "roles": trace.data["role"].values,
        "clean": trace.clean,
        "corrupted": trace.corrupted.values,
        "total_effect": float(trace.total_effect()),
        "kinds": kinds,
        "settings": trace.settings,
    }


def _cell(value: float, low: float, high: float) -> ScoreCell:
    return ScoreCell(number(value), f"[{number(low)}, {number(high)}]" if math.isfinite(low) else "")
