"""Rows summed up by what was sampled: a numerator and a divisor for each request (or item) and metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Final, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from mechstyle.errors import InputError, RangeError
from mechstyle.evaluation.measure import Metric
from mechstyle.metrics import bootstrap_means

__all__ = [
    "Clusters",
    "RowValues",
    "Unit",
    "bounds",
    "clusters_of",
    "ratio",
    "resampled",
    "row_values",
    "sum_up",
]

Array = NDArray[np.float64]
Indices = Int[NDArray[np.int64], " row"]
Unit = Literal["request", "item", "relation"]
"""What was sampled."""
MISSING: Final = float("nan")


@dataclass(frozen=True, eq=False)
class RowValues:
    """What one metric takes from each row.

    Args:
        top: of the numerator.
        bottom: of the divisor; 1 for a plain mean.
        known: whether the row counts for this metric.
        of_kind: whether it is at least a row of the kind that the metric is about.
    """

    top: Float[Array, " row"]
    bottom: Float[Array, " row"]
    known: Bool[NDArray[np.bool_], " row"]
    of_kind: Bool[NDArray[np.bool_], " row"]


@dataclass(frozen=True, eq=False)
class Clusters:
    """Numerators and divisors; a cluster without a metric has 0 for both.

    Args:
        top: a request's mean, or with a weight the sum over its rows.
        bottom: 1 where there is a mean, or the sum of the weights.
    """

    top: Float[Array, "unit ..."]
    bottom: Float[Array, "unit ..."]

    @property
    def counts(self) -> Int[NDArray[np.int64], "..."]:
        """How many clusters have each metric."""
        return np.asarray((self.bottom > 0).sum(0), dtype=np.int64)

    @property
    def each(self) -> Float[Array, "unit ..."]:
        """The value of each cluster alone; NaN where it has none."""
        return ratio(self.top, self.bottom)

    @property
    def total(self) -> Float[Array, "..."]:
        """The value of all clusters together."""
        with np.errstate(invalid="ignore"):
            return _within(ratio(self.top.sum(0), self.bottom.sum(0)), self.each)


def clusters_of(rows: pd.DataFrame) -> tuple[Indices, Unit]:
    """The number of each row's cluster, and what a cluster is: a request, or without requests a row.

    Raises:
        InputError: some rows have a request and some have none.

    >>> clusters_of(pd.DataFrame({"request": [7, 7, 9]}))[0].tolist()
    [0, 0, 1]
    """
    if "request" not in rows.columns or rows["request"].isna().all():
        return np.arange(len(rows)), "item"
    if rows["request"].isna().any():
        raise InputError(
            f"rows: expected a request in every row or in none, but {int(rows['request'].isna().sum())} of "
            f"{len(rows)} have none; sum the two sorts up apart."
        )
    codes, _ = pd.factorize(rows["request"], sort=True)
    return np.asarray(codes, dtype=np.int64), "request"


def row_values(rows: pd.DataFrame, metric: Metric) -> RowValues:
    """What a metric takes from each row; without rows no column is asked for.

    Raises:
        InputError: a column is not there, or holds what is no number.
        RangeError: a weight is below 0.

    >>> row_values(pd.DataFrame({"success": [True, None]}), Metric("rate", "success", "share")).known.tolist()
    [True, False]
    """
    if rows.empty:
        nothing = np.zeros(0)
        return RowValues(nothing, nothing, nothing > 0, nothing > 0)
    top = _numbers(rows, metric.name, metric.column)
    bottom = np.ones_like(top) if metric.weight is None else _numbers(rows, metric.name, metric.weight)
    if (bottom < 0).any():
        raise RangeError(
            f"{metric.name}: expected weights of 0 or more in the column {metric.weight!r}, "
            f"got {np.nanmin(bottom)}."
        )
    of_kind = np.full(len(rows), True)
    if metric.kind is not None:
        of_kind = (_column(rows, metric.name, "kind") == metric.kind).to_numpy(dtype=bool)
    return RowValues(top, bottom, of_kind & ~np.isnan(top) & ~np.isnan(bottom), of_kind)


def sum_up(metrics: Sequence[Metric], values: Sequence[RowValues], codes: Indices) -> Clusters:
    """Numerators and divisors of each cluster and metric.

    Args:
        values: of each metric, with the same rows as ``codes``.

    >>> rate = Metric("rate", "success", "share")
    >>> frame = pd.DataFrame({"success": [1, 0, 1]})
    >>> sum_up([rate], [row_values(frame, rate)], np.array([0, 0, 1])).each.tolist()
    [[0.5], [1.0]]
    """
    size = int(codes.max(initial=-1)) + 1
    top, bottom = np.zeros((2, size, len(metrics)))
    for index, (metric, found) in enumerate(zip(metrics, values, strict=True)):
        here = codes[found.known]
        top[:, index] = np.bincount(here, found.top[found.known], size)
        bottom[:, index] = np.bincount(here, found.bottom[found.known], size)
        if metric.weight is None:
            top[:, index] = ratio(top[:, index], bottom[:, index], otherwise=0.0)
            bottom[:, index] = bottom[:, index] > 0
    return Clusters(top, bottom)


def resampled(clusters: Clusters, *, resamples: int, seed: int) -> Float[Array, "resample ..."]:
    """Values of clusters drawn with replacement (Efron 1979), in each resample the same for all metrics.

    NaN where a resample holds no cluster that has the metric, and everywhere if one of them is infinite.

    Raises:
        RangeError: fewer than one resample.
    """
    if resamples < 1:
        raise RangeError(f"resamples: expected at least 1, got {resamples}.")
    if not len(clusters.top):
        return np.full((resamples, *clusters.top.shape[1:]), MISSING)
    finite = np.isfinite(clusters.top)
    pair = np.stack([np.where(finite, clusters.top, 0.0), clusters.bottom], axis=-1)
    sums = bootstrap_means(pair, resamples=resamples, seed=seed)
    values = _within(ratio(sums[..., 0], sums[..., 1]), clusters.each)
    return np.asarray(np.where(finite.all(0), values, MISSING))


def bounds(draws: Float[Array, " resample"], ci: float) -> tuple[float, float]:
    """Percentile interval of resampled values; NaN for both where they are not finite.

    >>> bounds(np.array([1.0, 2.0, 3.0]), 0.5)
    (1.5, 2.5)
    """
    known = draws[~np.isnan(draws)]
    if not len(known) or not np.isfinite(known).all():
        return MISSING, MISSING
    low, high = np.quantile(known, [(1 - ci) / 2, (1 + ci) / 2])
    return float(low), float(high)


def ratio(
    top: Float[Array, "..."], bottom: Float[Array, "..."], *, otherwise: float = MISSING
) -> Float[Array, "..."]:
    """``top / bottom`` where the divisor is above 0.

    >>> ratio(np.array([1.0, 1.0]), np.array([2.0, 0.0])).tolist()
    [0.5, nan]
    """
    result: Array = np.divide(top, bottom, out=np.full(np.shape(top), otherwise), where=bottom > 0)
    return result


def _within(values: Float[Array, "..."], each: Float[Array, "unit ..."]) -> Float[Array, "..."]:
    """A ratio of sums lies between its parts' smallest and largest; rounding must not carry it outside."""
    if not len(each):
        return values
    low = np.where(np.isnan(each), np.inf, each).min(0)
    high = np.where(np.isnan(each), -np.inf, each).max(0)
    return np.asarray(np.where(np.isnan(values), values, np.minimum(np.maximum(values, low), high)))


def _column(rows: pd.DataFrame, name: str, column: str) -> pd.Series:
    if column not in rows.columns:
        raise InputError(
            f"{name}: expected rows with the column {column!r}, got {', '.join(map(str, rows.columns))}."
        )
    return rows[column]


def _numbers(rows: pd.DataFrame, name: str, column: str) -> Float[Array, " row"]:
    series = _column(rows, name, column)
    try:
        return np.asarray(series.to_numpy(dtype=np.float64, na_value=MISSING))
    except (TypeError, ValueError) as error:
        wrong = next((one for one in series.dropna() if not isinstance(one, Real)), series.dtype)
        raise InputError(f"{name}: expected numbers in the column {column!r}, got {wrong!r}.") from error
