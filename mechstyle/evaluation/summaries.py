"""From rows of any measurement to one number a metric, with intervals by bootstrap over what was sampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy.typing import NDArray

from mechstyle.errors import InputError
from mechstyle.evaluation.clusters import Clusters, Unit, clusters_of, resampled, row_values, sum_up
from mechstyle.evaluation.measure import AnyMetric, Harmonic, Metric
from mechstyle.evaluation.summary_row import absence, require_ci, summary_frame, summary_row, undefined

__all__ = [
    "base_metrics",
    "by_relation",
    "estimates",
    "harmonic_mean",
    "parts_of",
    "require_unique",
    "row_groups",
    "summarise_rows",
    "summary_table",
]

Array = NDArray[np.float64]
NO_VALUE: Final = "(none)"
"""Stands for a missing value of the column that a table is broken down by."""


def harmonic_mean(parts: Float[Array, "... part"]) -> Float[Array, "..."]:
    """Harmonic mean over the last axis; 0 when a part is 0, NaN when a part is NaN.

    >>> float(harmonic_mean(np.array([1.0, 0.5, 0.5])))
    0.6
    """
    values = np.asarray(parts, dtype=np.float64)
    inverse = np.divide(1.0, values, out=np.full_like(values, np.inf), where=values != 0)
    return np.asarray(values.shape[-1] / inverse.sum(-1), dtype=np.float64)


def summarise_rows(
    rows: pd.DataFrame,
    metrics: Sequence[AnyMetric],
    *,
    ci: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Every metric with its percentile interval (Efron 1979), resampling whole requests.

    Rows of one request are summed up first. Rows without a request count one by one, and are resampled so. A
    metric with a weight is a ratio: of the sums over all rows, and in each resample of the sums over those.

    Args:
        rows: of one stage and one edit; ``request`` in all of them or in none.
        ci: share of resamples inside the interval.
        seed: of the resampling.

    Returns:
        index ``metric``; columns ``value, low, high, n, unit, measure, note``. ``n`` counts the clusters that
        have the metric, ``unit`` says what they are ("request", "item"). A metric without rows is NaN, and
        one cluster has no interval; ``note`` says so. It also warns of intervals of fewer than 30 clusters,
        which hold the truth less often than ``ci`` says, and of those without width, where all agree.

    Raises:
        InputError: a metric's column is not there, or two metrics have one name.
        RangeError: ``ci`` is not between 0 and 1, or ``resamples`` is below 1.

    >>> rate = Metric("rate", "success", "probability comparison")
    >>> float(summarise_rows(pd.DataFrame({"success": [1, 0]}), [rate]).loc["rate", "value"])
    0.5
    """
    require_ci(ci)
    base = base_metrics(metrics)
    values = [row_values(rows, metric) for metric in base]
    codes, unit = clusters_of(rows)
    clusters = sum_up(base, values, codes)
    absent = [absence(metric, found) for metric, found in zip(base, values, strict=True)]
    return summary_table(metrics, clusters, unit, absent, ci=ci, resamples=resamples, seed=seed)


def by_relation(
    rows: pd.DataFrame,
    metrics: Sequence[AnyMetric],
    *,
    by: str = "relation",
    ci: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """``summarise_rows`` of the rows of each relation, or of each value of another column.

    Returns:
        a row per relation and metric; columns ``relation`` (or what ``by`` names), ``metric``, and those of
        ``summarise_rows``. Rows without a relation stand under "(none)".

    Raises:
        InputError: there is no such column; or as ``summarise_rows``.
        RangeError: as ``summarise_rows``.

    >>> by_relation(frame, metrics_in(frame))[["relation", "metric", "value"]]  # doctest: +SKIP
    """
    groups = row_groups(rows, by)
    tables = []
    for label, index in (groups or {NO_VALUE: np.arange(0)}).items():
        table = summarise_rows(rows.iloc[index], metrics, ci=ci, resamples=resamples, seed=seed).reset_index()
        table.insert(0, by, label)
        tables.append(table)
    return pd.concat(tables, ignore_index=True) if groups else tables[0].iloc[:0]


def row_groups(rows: pd.DataFrame, by: str) -> dict[str, Int[NDArray[np.int64], " row"]]:
    """Positions of the rows of each value of a column, in the values' order; "(none)" is no value.

    Raises:
        InputError: there is no such column.

    >>> row_groups(pd.DataFrame({"relation": ["P1", None, "P1"]}), "relation")["P1"].tolist()
    [0, 2]
    """
    if rows.empty:
        return {}
    if by not in rows.columns:
        raise InputError(f"by: expected one of the columns {', '.join(map(str, rows.columns))}, got {by!r}.")
    labels = rows[by].astype(object).where(rows[by].notna(), NO_VALUE).astype(str).to_numpy()
    found = pd.Series(np.arange(len(rows))).groupby(labels).indices
    return {str(label): np.asarray(index) for label, index in found.items()}


def parts_of(metric: AnyMetric) -> tuple[Metric, ...]:
    """The metrics that are read from columns: the parts of a harmonic mean, or the metric itself.

    >>> rate = Metric("rate", "success", "share")
    >>> parts_of(rate) == (rate,)
    True
    """
    return metric.parts if isinstance(metric, Harmonic) else (metric,)


def base_metrics(metrics: Sequence[AnyMetric]) -> list[Metric]:
    """Every metric that is read from columns, once, after checking that no two metrics have one name.

    Raises:
        InputError: two metrics have the same name.

    >>> base_metrics([Metric("rate", "success", "share")])[0].name
    'rate'
    """
    require_unique("metrics", [metric.name for metric in metrics])
    return list(dict.fromkeys(part for metric in metrics for part in parts_of(metric)))


def estimates(
    metrics: Sequence[AnyMetric], base: Sequence[Metric], ratios: Float[Array, "... base"]
) -> Float[Array, "... metric"]:
    """From ratios of sums to the metrics themselves: exponentials and harmonic means.

    >>> perplexity = Metric("perplexity", "nll", "perplexity", weight="tokens", exponential=True)
    >>> float(estimates([perplexity], [perplexity], np.zeros(1))[0])
    1.0
    """
    with np.errstate(over="ignore"):
        finished = {
            metric: np.exp(ratios[..., index]) if metric.exponential else ratios[..., index]
            for index, metric in enumerate(base)
        }
    columns = [
        harmonic_mean(np.stack([finished[part] for part in metric.parts], axis=-1))
        if isinstance(metric, Harmonic)
        else finished[metric]
        for metric in metrics
    ]
    return np.stack(columns, axis=-1) if columns else np.zeros((*ratios.shape[:-1], 0))


def summary_table(
    metrics: Sequence[AnyMetric],
    clusters: Clusters,
    unit: Unit,
    absent: Sequence[str],
    *,
    ci: float,
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    """The summary of numerators and divisors, as in ``summarise_rows``.

    Args:
        clusters: of the ``base_metrics``.
        unit: what a cluster is.
        absent: what to say of each base metric if no cluster has it.
    """
    base = base_metrics(metrics)
    counts = clusters.counts
    values = estimates(metrics, base, clusters.total)
    draws = estimates(metrics, base, resampled(clusters, resamples=resamples, seed=seed))
    table = {}
    for index, metric in enumerate(metrics):
        parts = [base.index(part) for part in parts_of(metric)]
        table[metric.name] = summary_row(
            float(values[index]),
            draws[:, index],
            ci=ci,
            n=int(counts[parts].min()),
            unit=unit,
            measure=metric.measure,
            note=undefined(parts, counts, absent),
        )
    return summary_frame(table)


def require_unique(argument: str, names: Sequence[str]) -> None:
    """Refuse names that stand for two things.

    Raises:
        InputError: a name comes twice.

    >>> require_unique("metrics", ["efficacy", "score"])
    """
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{argument}: expected each name once, got {twice[0]!r} twice.")
