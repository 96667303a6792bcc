"""Averages in which each relation counts once, however many requests it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from mechstyle.evaluation.clusters import Clusters, clusters_of, row_values, sum_up
from mechstyle.evaluation.measure import AnyMetric, Harmonic, Metric
from mechstyle.evaluation.summaries import base_metrics, estimates, row_groups, summary_table
from mechstyle.evaluation.summary_row import absence, require_ci

__all__ = ["macro_average"]


def macro_average(
    rows: pd.DataFrame,
    metrics: Sequence[AnyMetric],
    *,
    by: str = "relation",
    ci: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Means over relations: each counts once, however many requests it has; intervals resample relations.

    A metric with a weight becomes the mean of the relations' own ratios; a harmonic mean is that of the
    averages.

    Returns:
        as ``summarise_rows``; ``n`` counts relations and ``unit`` is "relation": an interval of fewer than
        30 relations is too narrow, however many requests they have, and ``note`` says so.

    Raises:
        InputError: there is no such column; or as ``summarise_rows``.
        RangeError: as ``summarise_rows``.

    >>> macro_average(frame, metrics_in(frame)).loc["efficacy", "unit"]  # doctest: +SKIP
    'relation'
    """
    require_ci(ci)
    base = base_metrics(metrics)
    values = [row_values(rows, metric) for metric in base]
    found = [np.zeros((0, len(base)))]
    for index in row_groups(rows, by).values():
        part = rows.iloc[index]
        clusters = sum_up(base, [row_values(part, metric) for metric in base], clusters_of(part)[0])
        found.append(estimates(base, base, clusters.total)[None])
    each = np.concatenate(found)
    known = ~np.isnan(each)
    relations = Clusters(np.where(known, each, 0.0), known.astype(np.float64))
    absent = [absence(metric, one) for metric, one in zip(base, values, strict=True)]
    plain = [_plain(metric) for metric in metrics]
    return summary_table(plain, relations, "relation", absent, ci=ci, resamples=resamples, seed=seed)


def _plain(metric: AnyMetric) -> AnyMetric:
    """The metric as a mean over values that are finished."""
    if isinstance(metric, Harmonic):
        return replace(metric, parts=tuple(_plain_part(part) for part in metric.parts))
    return _plain_part(metric)


def _plain_part(metric: Metric) -> Metric:
    return replace(metric, weight=None, exponential=False)
