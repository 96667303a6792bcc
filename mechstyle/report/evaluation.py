"""The report of a suite: every measure of every edit side by side, as one HTML file."""

from __future__ import annotations

import json
import math
import os
from pathlib import PurePath
from typing import Any, Final

import pandas as pd

from mechstyle import plot
from mechstyle.evaluation.measure import Metric
from mechstyle.evaluation.suite_result import SCORES, SuiteResult
from mechstyle.evaluation.suite_tables import UNEDITED
from mechstyle.files import atomic_write
from mechstyle.report.evaluation_findings import bounded, differs, evaluation_findings
from mechstyle.report.findings import number
from mechstyle.report.page import figure_element, fill

__all__ = ["write_evaluation_report"]

TEMPLATE: Final = "evaluation.html.j2"
TITLES: Final = {
    "scores": "The requests’ own prompts",
    "questions": "What should follow, and what should stay",
    "generations": "What the model writes",
    "essence": "Texts about the subjects",
    "perplexity": "Texts that no edit is about",
    "divergence": "The next token after unrelated beginnings",
    "tasks": "Other tasks",
    "harness": "Tasks of the lm-evaluation-harness",
    "beliefs": "Do its beliefs agree with each other?",
    "judged": "What a judge says of the texts",
}
MOST_ROWS: Final = 60
SAMPLES: Final = 3
LONGEST: Final = 600


def write_evaluation_report(
    path: str | os.PathLike[str], found: SuiteResult, *, title: str | None = None, seed: int = 0
) -> None:
    """Write one HTML file about a suite that needs nothing else: findings, metrics, differences, samples.

    Args:
        path: of the file; written whole or not at all.
        title: None says how many requests were asked about, and of which model.
        seed: of the intervals.

    Raises:
        FileError: the file cannot be written.

    Example:
        >>> write_evaluation_report("report.html", found)  # doctest: +SKIP
    """
    summary, compared = found.summary(seed=seed), found.compare(seed=seed)
    pairs = found.compare(found.edits[0], seed=seed) if len(found.edits) > 1 else None
    model = PurePath(str(found.provenance["model"])).name
    page = fill(
        TEMPLATE,
        heading=title or f"{_count(len(found.cases), 'request')} on {model}",
        model=model,
        provenance=found.provenance,
        n_cases=len(found.cases),
        edits=[UNEDITED, *found.edits],
        findings=evaluation_findings(found, summary, compared, pairs),
        parts=[_part(found, name, summary) for name in found.tables if (summary["table"] == name).any()],
        drawdown=_drawdown(found, seed),
        differences=_differences(compared, UNEDITED) if found.edits else [],
        pairs=[] if pairs is None else _differences(pairs, found.edits[0]),
        reference=found.edits[0] if found.edits else "",
        relations=_relations(found, seed),
        samples=_samples(found),
        failures=found.failures.head(MOST_ROWS).to_dict("records"),
        n_failures=len(found.failures),
        record=json.dumps(dict(found.provenance), indent=2, ensure_ascii=False),
    )
    with atomic_write(path) as part:
        part.write_text(page, encoding="utf-8")


def _count(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def _part(found: SuiteResult, name: str, summary: pd.DataFrame) -> dict[str, Any]:
    """One measure: its table of metrics, kind of number by kind of number, and dots where all are shares."""
    rows = summary[summary["table"] == name]
    edits = list(dict.fromkeys(rows["edit"]))
    scopes = _scopes(found.tables[name])
    groups = []
    for measure, some in rows.groupby("measure", sort=False):
        lines = []
        for metric, each in some.groupby("metric", sort=False):
            if each["value"].isna().all() and not each["failed"].any():
                continue  # nothing of this kind was asked
            by_edit = each.set_index("edit")
            cells = [_cell(by_edit.loc[edit]) if edit in by_edit.index else "" for edit in edits]
            kind = next((one.kind for one in _base(found, name) if one.name == metric), None)
            counts = dict.fromkeys(
                _count(int(n), unit) for n, unit in zip(each["n"], each["unit"], strict=True)
            )
            lines.append(
                {"metric": metric, "scope": scopes.get(kind, ""), "cells": cells, "n": ", ".join(counts)}
            )
        groups += [{"measure": measure, "lines": lines}] if lines else []
    shares = rows[rows["measure"].str.contains("comparison|harmonic mean of efficacy|choice|consisten")]
    shares = shares[shares["value"].between(0, 1)]
    drawn = list(dict.fromkeys(shares["metric"]))
    figure = figure_element(name, plot.edits(shares, metrics=drawn)) if len(drawn) > 1 else None
    return {
        "name": name,
        "title": TITLES.get(name, name),
        "edits": edits,
        "groups": groups,
        "figure": figure,
        "scoped": bool(scopes),
    }


def _base(found: SuiteResult, name: str) -> list[Metric]:
    """The metrics of a measure that are read from columns."""
    measure = next(one for one in found.measures if one.name == name)
    return [metric for metric in measure.metrics if isinstance(metric, Metric)]


def _scopes(table: pd.DataFrame) -> dict[str | None, str]:
    """The scope of each kind of question, where rows have scopes."""
    if "scope" not in table or "kind" not in table:
        return {}
    return {str(kind): ", ".join(dict.fromkeys(rows["scope"])) for kind, rows in table.groupby("kind")}


def _cell(row: pd.Series[Any]) -> str:
    return bounded(row["value"], row["low"], row["high"]) if math.isfinite(row["value"]) else "–"


def _drawdown(found: SuiteResult, seed: int) -> list[dict[str, Any]]:
    if not found.has_drawdown:
        return []
    return [
        {**row, "cell": bounded(row["value"], row["low"], row["high"])}
        for row in found.drawdown(seed=seed).to_dict("records")
    ]


def _differences(compared: pd.DataFrame, reference: str) -> list[dict[str, Any]]:
    """Differences to the reference whose interval does not hold 0; the others are counted."""
    rows = compared[(compared["edit"] != reference) & compared["difference"].notna()]
    if reference != UNEDITED:
        rows = rows[rows["edit"] != UNEDITED]
    found = []
    for edit, each in rows.groupby("edit", sort=False):
        away = each[differs(each)]
        lines = [
            {
                "table": row["table"],
                "metric": row["metric"],
                "value": number(row["value"]),
                "difference": bounded(row["difference"], row["difference_low"], row["difference_high"]),
                "p": number(row["p_holm"]) if math.isfinite(row["p_holm"]) else "",
                "n": int(row["n_paired"]),
            }
            for _, row in away.head(MOST_ROWS).iterrows()
        ]
        found.append({"edit": edit, "lines": lines, "n_away": len(away), "n_others": len(each) - len(away)})
    return found


def _relations(found: SuiteResult, seed: int) -> dict[str, Any] | None:
    """The score of each relation, where there are several."""
    if SCORES not in found.tables or not found.edits:
        return None
    tables = {edit: found.by_relation(edit, seed=seed) for edit in found.edits}
    names = list(dict.fromkeys(next(iter(tables.values()))["relation"]))
    if len(names) < 2:
        return None
    lines = []
    for name in names:
        cells, n = [], 0
        for table in tables.values():
            row = table[(table["relation"] == name) & (table["metric"] == _summed(found))]
            cells.append(_cell(row.iloc[0]) if len(row) else "–")
            n = int(table.loc[table["relation"] == name, "n"].max())
        lines.append({"relation": name, "cells": cells, "n": n})
    return {
        "edits": list(tables),
        "metric": _summed(found),
        "lines": sorted(lines, key=lambda one: -one["n"])[:MOST_ROWS],
    }


def _summed(found: SuiteResult) -> str:
    """The score, where there are neighbours and paraphrases; else efficacy."""
    parts = {"rewrite", "paraphrase", "neighborhood"}
    return "score" if parts <= set(found.tables[SCORES]["kind"]) else "efficacy"


def _samples(found: SuiteResult) -> list[dict[str, Any]]:
    """What was written after the first prompts, edit beside edit."""
    for table in ("generations", SCORES):
        rows = found.tables.get(table, pd.DataFrame())
        column = "text" if "text" in rows else "completion" if "completion" in rows else None
        if column is None or rows[column].isna().all():
            continue
        written = rows[rows[column].notna()]
        first = written.drop_duplicates("request").head(SAMPLES)[["request", "item", "prompt"]]
        return [
            {
                "prompt": one["prompt"],
                "wanted": found.cases[int(one["request"])].request.new_target,
                "texts": [
                    {"edit": row["edit"], "text": str(row[column])[:LONGEST]}
                    for _, row in written[
                        (written["request"] == one["request"]) & (written["item"] == one["item"])
                    ].iterrows()
                ],
            }
            for _, one in first.iterrows()
        ]
    return []
