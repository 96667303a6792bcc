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

__all__ = ["COLUMNS", "absence", "require_ci", "summary_frame", "summary_row", "undefined"]

Array = NDArray[np.float64]
COLUMNS: Final = ("value", "low", "high", "n", "unit", "measure", "note")


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

    Args:
        n: how many clusters have the metric.
        measure: what kind of number it is.
        note: what is to be said already.

    >>> summary_row(0.5, np.array([0.0, 1.0]), ci=0.95, n=1, unit="request", measure="share", note="")["note"]
    'no interval: one request'
    """
    low, high = bounds(draws, ci) if n > 1 else (float("nan"), float("nan"))
    why = f"no interval: one {unit}" if n == 1 else ""
    if n > 1 and np.isnan(low):
        why = "no interval: a value is not finite"
    return {
        "value": value,
        "low": low,
        "high": high,
        "n": n,
        "unit": unit,
        "measure": measure,
        "note": "; ".join(filter(None, (note, why))),
    }


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
