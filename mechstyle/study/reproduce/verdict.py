"""Our figures beside the published ones: how far they may be apart, and whether they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import pandas as pd

from mechstyle.study.reproduce.published import Figure, PublishedRow

__all__ = ["COLUMNS", "Verdict", "compare", "tolerances", "verdict"]

Verdict = Literal["reproduced", "not reproduced", "cannot tell", "not measured"]
COLUMNS: Final = (
    "metric", "ours", "low", "high", "published", "difference", "tolerance", "verdict", "note", "printed",
)  # fmt: skip
SIGMAS: Final = 3.0
"""Standard errors of the published figure that ours may be away from it."""
NORMAL_95: Final = 1.96
PSEUDO: Final = 2.0
"""Successes and failures that are added before a share's standard error is taken (Agresti & Coull 1998)."""


def verdict(ours: float, low: float, high: float, published: float, tolerance: float) -> Verdict:
    """Compare one of our figures, with its interval, with a published one and its tolerance.

    "not reproduced" when the interval lies outside of ``published ± tolerance``; "reproduced" when our figure
    lies inside and the interval's half-width is no more than the tolerance; else "cannot tell": the interval
    is too wide, or it only reaches into the tolerance.

    Example:
        >>> verdict(0.96, 0.95, 0.97, published=0.964, tolerance=0.02)
        'reproduced'
        >>> verdict(0.80, 0.60, 0.95, published=0.964, tolerance=0.02)
        'cannot tell'
    """
    if any(math.isnan(number) for number in (ours, low, high)):
        return "cannot tell"
    if low > published + tolerance or high < published - tolerance:
        return "not reproduced"
    near, narrow = abs(ours - published) <= tolerance, (high - low) / 2 <= tolerance
    return "reproduced" if near and narrow else "cannot tell"


def tolerances(
    row: PublishedRow,
    summary: pd.DataFrame,
    *,
    measured: int,
    given: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """How far each of our figures may be from the published one, in our units.

    Three standard errors of the published figure, and half a unit of its last digit. The error is for

    - "share" at most ``sqrt(p (1 - p) / n)``, as of any mean of ``n`` numbers between 0 and 1, with two
      successes and two failures added, so that a printed 100 % has an error too;
    - "harmonic", of ``k`` parts, ``sum of S² / (k p²)`` times the errors of the parts: the largest that it
      can be, however they hang together;
    - "ours" that of our own figure, brought to the published number of records.

    Args:
        summary: index ``metric``, columns ``low`` and ``high`` of a 95 % interval.
        measured: requests that ours are over; it stands for the number of records where that is not known.
        given: metric -> tolerance that holds instead.

    Example:
        >>> row = published_row("rome-counterfact", "gpt2-xl", "ROME")
        >>> round(tolerances(row, summary, measured=7500)["paraphrase"], 4)  # doctest: +SKIP
        0.007
    """
    n = row.records or measured
    shares = [figure for figure in row.figures if figure.spread == "share"]
    errors = {figure.metric: _share_error(figure.value, n) for figure in shares}
    for figure in row.figures:
        if figure.spread == "harmonic":
            errors[figure.metric] = _harmonic_error(shares, errors)
        elif figure.spread == "ours":
            errors[figure.metric] = _own_error(figure, summary, measured / n)
    own = {figure.metric: SIGMAS * errors[figure.metric] + figure.rounding for figure in row.figures}
    return {**own, **(given or {})}


def compare(
    row: PublishedRow,
    summary: pd.DataFrame,
    *,
    measured: int,
    expected: int | None = None,
    given: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """One line for each published figure; columns as in ``COLUMNS``, all but ``printed`` in our units.

    Args:
        summary: index ``metric``, columns ``value, low, high``.
        measured: requests that ours are over.
        expected: records that the published ones are over; with fewer of ours the verdict is "cannot tell",
            and the note says on how many, and on which side ours are so far.
        given: metric -> tolerance that holds instead of the one from ``tolerances``.

    Example:
        >>> compare(row, scores.summary(), measured=20, expected=7500)["verdict"].unique()  # doctest: +SKIP
        array(['cannot tell'], dtype=object)
    """
    allowed = tolerances(row, summary, measured=measured, given=given)
    short = expected if expected is not None and measured < expected else None
    lines = [_line(figure, summary, allowed[figure.metric], measured, short) for figure in row.figures]
    if row.records is None:
        for line in lines:
            line["note"] = line["note"] or "the paper's number of records is not known: taken as ours"
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _line(
    figure: Figure, summary: pd.DataFrame, tolerance: float, measured: int, short: int | None
) -> dict[str, Any]:
    """One figure; ``short`` is the number of records where ours are fewer."""
    known = figure.ours in summary.index
    ours, low, high = (
        float(summary.loc[figure.ours, name]) if known else math.nan for name in ("value", "low", "high")
    )
    said, note = verdict(ours, low, high, figure.value, tolerance), ""
    if math.isnan(ours):
        said = "not measured"
    elif short is not None:
        inside = "inside" if abs(ours - figure.value) <= tolerance else "outside"
        said, note = "cannot tell", f"on {measured} of {short} records; so far {inside} the tolerance"
    printed = f"{figure.printed:.{figure.decimals}f}"
    values = (
        figure.metric,
        ours,
        low,
        high,
        figure.value,
        ours - figure.value,
        tolerance,
        said,
        note,
        printed,
    )
    return dict(zip(COLUMNS, values, strict=True))


def _share_error(p: float, n: int) -> float:
    """The largest standard error that a mean of ``n`` numbers between 0 and 1 can have."""
    p = (n * p + PSEUDO) / (n + 2 * PSEUDO)
    return math.sqrt(p * (1 - p) / (n + 2 * PSEUDO))


def _harmonic_error(parts: Sequence[Figure], errors: Mapping[str, float]) -> float:
    """The largest standard error that the harmonic mean of the parts can have, to first order."""
    values = {part.metric: max(part.value, part.rounding) for part in parts}
    score = len(values) / sum(1 / value for value in values.values())
    return sum(score**2 / len(values) / value**2 * errors[metric] for metric, value in values.items())


def _own_error(figure: Figure, summary: pd.DataFrame, ratio: float) -> float:
    """The standard error of ours, as if it were over as many records as the published figure."""
    if figure.ours not in summary.index:
        return math.nan
    half = (summary.loc[figure.ours, "high"] - summary.loc[figure.ours, "low"]) / 2
    return float(half / NORMAL_95 * math.sqrt(ratio))
