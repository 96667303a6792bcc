"""What a suite found, in plain sentences; failures are said as plainly as successes."""

from __future__ import annotations

import math
from typing import Any, Final

import pandas as pd

from mechstyle.evaluation.suite_result import SCORES, SuiteResult
from mechstyle.evaluation.suite_tables import UNEDITED
from mechstyle.report.findings import number

__all__ = ["bounded", "differs", "evaluation_findings"]

RATES: Final = (("efficacy", "efficacy"), ("paraphrase", "paraphrase"), ("neighborhood", "neighbourhood"))
SURE: Final = 0.05


def evaluation_findings(
    found: SuiteResult, summary: pd.DataFrame, compared: pd.DataFrame, pairs: pd.DataFrame | None
) -> list[str]:
    """A sentence or more an edit, then what tells the edits apart, then what failed.

    Args:
        compared: with the unedited model.
        pairs: of the other edits with the first one; None with fewer than two edits.

    >>> evaluation_findings(found, found.summary(), found.compare(), None)  # doctest: +SKIP
    """
    sentences = [_edit(edit, found, summary, compared) for edit in found.edits]
    if not found.edits:
        sentences = [_rates("The model as it is", UNEDITED, summary)]
    if pairs is not None:
        sentences.append(_apart(found.edits[0], pairs))
    for edit in found.edits:
        lost = found.failures[found.failures["edit"] == edit]
        if len(lost):
            requests = lost["request"].dropna().nunique()
            where = f" for {requests} of {len(found.cases)} requests" if requests else ""
            sentences.append(
                f"Under {edit} the model gave no finite numbers{where}: what is said of {edit} leaves these "
                "out, and so flatters it."
            )
    return [one for one in sentences if one]


def differs(rows: pd.DataFrame) -> pd.Series[bool]:
    """Which differences are told from nothing: by their interval and, where there is one, by their p.

    >>> bool(differs(pd.DataFrame([{"difference_low": 1.0, "difference_high": 2.0, "p_holm": 0.5}]))[0])
    False
    """
    away = (rows["difference_low"] > 0) | (rows["difference_high"] < 0)
    return away & (rows["p_holm"].isna() | (rows["p_holm"] < SURE))


def bounded(value: float, low: float, high: float) -> str:
    """A value with its interval, where it has one.

    >>> bounded(0.5, 0.25, 0.75), bounded(0.5, float("nan"), float("nan"))
    ('0.500 [0.250, 0.750]', '0.500')
    """
    bounds = f" [{number(low)}, {number(high)}]" if math.isfinite(low) and math.isfinite(high) else ""
    return f"{number(value)}{bounds}"


def _edit(edit: str, found: SuiteResult, summary: pd.DataFrame, compared: pd.DataFrame) -> str:
    """What was achieved, and what moved of everything else: the first metric of each such measure."""
    parts = [_rates(edit, edit, summary)]
    for measure in found.measures:
        rows = compared[(compared["edit"] == edit) & (compared["table"] == measure.name)]
        if measure.about == "requests" or rows.empty:
            continue
        row = rows.iloc[0]
        parts.append(_moved(str(row["metric"]).replace("_", " "), row))
    return " ".join(part for part in parts if part)


def _moved(name: str, row: pd.Series[Any]) -> str:
    """How far a metric moved; where there is no interval, nothing is said of chance."""
    value, difference = float(row["value"]), float(row["difference"])
    if math.isinf(value) or math.isinf(difference):
        return f"It destroys {name}: it has grown beyond all numbers."
    if math.isnan(difference):
        return f"Nothing is known of {name} under it."
    move = bounded(difference, row["difference_low"], row["difference_high"])
    if math.isnan(row["difference_low"]):
        return f"It moves {name} by {move}, to {number(value)}; of one there is no interval."
    if differs(row.to_frame().T).iloc[0]:
        return f"It moves {name} by {move}, to {number(value)}."
    return f"A change of {name} cannot be told from none ({move})."


def _rates(subject: str, edit: str, summary: pd.DataFrame) -> str:
    rows = summary[(summary["table"] == SCORES) & (summary["edit"] == edit)].set_index("metric")
    if rows.empty:
        return ""
    said = [
        f"{name} {bounded(*rows.loc[metric, ['value', 'low', 'high']])}"
        for metric, name in RATES
        if metric in rows.index and math.isfinite(rows.loc[metric, "value"])
    ]
    exact = rows["value"].get("efficacy_generated", rows["value"].get("efficacy_exact", math.nan))
    how = "writes it freely" if "efficacy_generated" in rows.index else "has it as the most probable answer"
    tail = f"; after {number(exact)} of the prompts the model {how}" if math.isfinite(exact) else ""
    return f"{subject}: {', '.join(said)} (by comparison of probabilities){tail}."


def _apart(reference: str, pairs: pd.DataFrame) -> str:
    rows = pairs[(pairs["table"] == SCORES) & (pairs["edit"] != reference) & (pairs["p_holm"] < SURE)]
    rows = rows[rows["metric"].isin([metric for metric, _ in RATES]) & (rows["edit"] != UNEDITED)]
    if rows.empty:
        return (
            f"In efficacy, paraphrases and neighbourhood no edit can be told from {reference}, with p "
            "corrected for their number."
        )
    said = [
        f"{row['edit']} in {row['metric']} by "
        f"{bounded(row['difference'], row['difference_low'], row['difference_high'])}"
        for _, row in rows.iterrows()
    ]
    return f"Other than {reference}, request by request (p < {SURE}, corrected): {'; '.join(said)}."
