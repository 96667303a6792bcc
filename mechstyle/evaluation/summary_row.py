"""One row of a summary: a value, its interval, and what is to be said about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy.typing import NDArray

from mechstyle.errors import RangeError
from mechstyle.evaluation.clusters import RowValues, Unit, bounds
from mechstyle.evaluation.measure import Metric

__all__ = ["COLUMNS", "absence", "joined", "require_ci", "summary_frame", "summary_row", "undefined"]

Array = NDArray[np.float64]
COLUMNS: Final = ("value", "low", "high", "n", "unit", "measure", "note")
FEW: Final = 30
"""Percentile intervals of fewer clusters hold the truth clearly less often than they say."""
ROUNDING: Final = 1e-9
"""Resampled values that differ by less than this share of the largest count as equal."""


def summary_frame(table: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Rows by metric as a frame.

    >>> summary_frame({}).columns.tolist()[:3]
    ['value', 'low', 'high']
    """
    return pd.DataFrame.from_dict(table, orient="index", columns=list(COLUMNS)).rename_axis("metric")


def summary_row(
    value: float,
    draws: Float[Array, " resample"],
    *,
    ci: float,
    n: int,
    unit: Unit,
    measure: str,
    note: str,
) -> dict[str, Any]:
    """One row of a summary: no interval for one cluster, and none where a value is infinite.

    Where there is an interval, the note says if it is of few clusters, and if it has no width because all
    resamples agree. Neither means that the value is known so well: of a rate of 0.9, an interval of 5
    requests that says 95 % holds the truth in about 42 % of cases.

    Args:
        n: how many clusters have the metric.
        measure: what kind of number it is.
        note: what is to be said already.

    >>> summary_row(0.5, np.array([0.0, 1.0]), ci=0.95, n=1, unit="request", measure="share", note="")["note"]
    'no interval: one request'
    """
    low, high = bounds(draws, ci) if n > 1 else (float("nan"), float("nan"))
    return {
        "value": value,
        "low": low,
        "high": high,
        "n": n,
        "unit": unit,
        "measure": measure,
        "note": joined(note, *_about_interval(draws, n, unit)),
    }


def joined(*notes: str) -> str:
    """Notes as one, each part once.

    >>> joined("no width: all agree", "", "left out: 1 row; no width: all agree")
    'no width: all agree; left out: 1 row'
    """
    return "; ".join(dict.fromkeys(part for note in notes for part in note.split("; ") if part))


def undefined(parts: Sequence[int], counts: Int[NDArray[np.int64], " base"], absent: Sequence[str]) -> str:
    """Why a metric has no value; empty where it has one.

    Args:
        parts: indices of its base metrics.

    >>> undefined([0, 1], np.array([3, 0]), ["no rows", "no paraphrase prompts"])
    'undefined: no paraphrase prompts'
    """
    missing = dict.fromkeys(absent[part] for part in parts if counts[part] == 0)
    return f"undefined: {' and '.join(missing)}" if missing else ""


def absence(metric: Metric, values: RowValues) -> str:
    """What is missing where no row has the metric: rows, or values in them.

    >>> rate = Metric("rate", "success", "share", "rewrite")
    >>> absence(rate, row_values(pd.DataFrame(), rate))  # doctest: +SKIP
    'no rewrite prompts'
    """
    if values.of_kind.any():
        return f"no values of {metric.column}"
    return "no rows" if metric.kind is None else f"no {metric.kind} prompts"


def require_ci(ci: float) -> None:
    """Refuse what is no share.

    Raises:
        RangeError: it is not between 0 and 1.

    >>> require_ci(0.95)
    """
    if isinstance(ci, bool) or not 0 < ci < 1:
        raise RangeError(f"ci: expected a share between 0 and 1, such as 0.95, got {ci!r}.")


def _about_interval(draws: Float[Array, " resample"], n: int, unit: Unit) -> list[str]:
    """Why there is no interval, or why not to trust the one that there is."""
    if n <= 1:
        return [f"no interval: one {unit}"] * n
    known = draws[~np.isnan(draws)]
    if not len(known) or not np.isfinite(known).all():
        return ["no interval: a value is not finite"]
    notes = [f"fewer than {FEW} {unit}s: the interval is too narrow"] if n < FEW else []
    if len(known) > 1 and np.ptp(known) <= ROUNDING * np.abs(known).max():
        notes.append("no width: all agree")
    return notes
