"""From a row a prompt to one number a metric, with intervals by bootstrap over requests."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from mechstyle.errors import RangeError
from mechstyle.evaluation.probes import Kind
from mechstyle.metrics import bootstrap_means

__all__ = ["METRICS", "Metric", "harmonic_mean", "summarise"]

Array = NDArray[np.float64]


class Metric(NamedTuple):
    """A mean over one kind of prompt: which column of the frame, and what kind of measurement that is."""

    name: str
    kind: Kind
    column: str
    measure: str


COMPARISON: Final = "probability comparison"
DIFFERENCE: Final = "probability difference"
EXACT: Final = "exact match (teacher-forced)"
GENERATED: Final = "free generation"
METRICS: Final = (
    Metric("efficacy", "rewrite", "success", COMPARISON),
    Metric("paraphrase", "paraphrase", "success", COMPARISON),
    Metric("neighborhood", "neighborhood", "success", COMPARISON),
    Metric("efficacy_magnitude", "rewrite", "magnitude", DIFFERENCE),
    Metric("paraphrase_magnitude", "paraphrase", "magnitude", DIFFERENCE),
    Metric("neighborhood_magnitude", "neighborhood", "magnitude", DIFFERENCE),
    Metric("efficacy_exact", "rewrite", "exact_new", EXACT),
    Metric("paraphrase_exact", "paraphrase", "exact_new", EXACT),
    Metric("neighborhood_exact", "neighborhood", "exact_true", EXACT),
    Metric("efficacy_generated", "rewrite", "generated_new", GENERATED),
    Metric("paraphrase_generated", "paraphrase", "generated_new", GENERATED),
    Metric("neighborhood_generated", "neighborhood", "generated_true", GENERATED),
)
N_PARTS: Final = 3
"""The first three metrics are the parts of the score."""


def harmonic_mean(parts: Float[Array, "... part"]) -> Float[Array, "..."]:
    """Harmonic mean over the last axis; 0 when a part is 0, NaN when a part is NaN.

    >>> float(harmonic_mean(np.array([1.0, 0.5, 0.5])))
    0.6
    """
    values = np.asarray(parts, dtype=np.float64)
    inverse = np.divide(1.0, values, out=np.full_like(values, np.inf), where=values != 0)
    return np.asarray(values.shape[-1] / inverse.sum(-1), dtype=np.float64)


def summarise(frame: pd.DataFrame, *, ci: float, resamples: int, seed: int) -> pd.DataFrame:
    """Every metric with its percentile interval over requests (Efron 1979); one stage of a frame of scores.

    A request's prompts are averaged first, so that each request counts once. The score is the harmonic mean
    of efficacy, paraphrase and neighborhood, its interval from the same resamples.

    Args:
        frame: one row a prompt, as in ``Scores.frame``, of one stage.
        ci: share of resamples inside the interval.
        seed: of the resampling.

    Returns:
        index ``metric``; columns ``value, low, high, n_requests, measure, note``. A metric without prompts is
        NaN with ``n_requests`` 0, and a single request has no interval; ``note`` says so.

    Raises:
        RangeError: ``ci`` is not between 0 and 1, or ``resamples`` is below 1.

    >>> summarise(frame, ci=0.95, resamples=1000, seed=0).loc["efficacy", "value"]  # doctest: +SKIP
    0.98
    """
    if isinstance(ci, bool) or not 0 < ci < 1:
        raise RangeError(f"ci: expected a share between 0 and 1, such as 0.95, got {ci!r}.")
    chosen = [metric for metric in METRICS if metric.column in frame.columns]
    values = _per_request(frame, chosen)
    known = ~np.isnan(values)
    counts = [int(number) for number in known.sum(0)]
    means = _ratio(np.where(known, values, 0.0).sum(0), known.sum(0))
    draws = _resampled(values, known, resamples=resamples, seed=seed)
    rows = {
        metric.name: _row(float(mean), column, ci, count, metric.measure, _missing([metric], [count]))
        for metric, mean, column, count in zip(chosen, means, draws.T, counts, strict=True)
    }
    parts = chosen[:N_PARTS]
    rows["score"] = _row(
        float(harmonic_mean(means[:N_PARTS])),
        harmonic_mean(draws[:, :N_PARTS]),
        ci,
        min(counts[:N_PARTS]),
        f"harmonic mean of {', '.join(part.name for part in parts)}",
        _missing(parts, counts[:N_PARTS]),
    )
    order = [*(part.name for part in parts), "score", *(metric.name for metric in chosen[N_PARTS:])]
    return pd.DataFrame.from_dict(rows, orient="index").loc[order].rename_axis("metric")


def _per_request(frame: pd.DataFrame, metrics: list[Metric]) -> Float[Array, "request metric"]:
    """Mean of each metric over the prompts of each request; NaN where a request has none."""
    requests = frame["request"].unique()
    columns = [
        frame.loc[frame["kind"] == metric.kind].groupby("request")[metric.column].mean().reindex(requests)
        for metric in metrics
    ]
    return np.stack([column.to_numpy(dtype=np.float64) for column in columns], axis=1)


def _resampled(values: Array, known: NDArray[np.bool_], *, resamples: int, seed: int) -> Array:
    """Means over resampled requests that have the metric; NaN where a resample holds none of them."""
    pair = np.stack([np.where(known, values, 0.0), known.astype(np.float64)], axis=-1)
    sums = bootstrap_means(pair, resamples=resamples, seed=seed)
    low = np.where(known, values, np.inf).min(0)
    high = np.where(known, values, -np.inf).max(0)
    means = _ratio(sums[..., 0], sums[..., 1])
    # A mean lies between the smallest and the largest value; rounding must not carry it outside.
    return np.asarray(np.where(np.isnan(means), means, np.minimum(np.maximum(means, low), high)))


def _ratio(total: Array, count: NDArray[np.generic]) -> Array:
    result: Array = np.divide(total, count, out=np.full(np.shape(total), np.nan), where=np.asarray(count) > 0)
    return result


def _missing(metrics: list[Metric], counts: list[int]) -> str:
    absent = [metric.kind for metric, count in zip(metrics, counts, strict=True) if count == 0]
    return f"undefined: no {' and no '.join(absent)} prompts" if absent else ""


def _row(value: float, draws: Array, ci: float, count: int, measure: str, note: str) -> dict[str, object]:
    low = high = float("nan")
    if count > 1:
        low, high = (float(edge) for edge in np.nanquantile(draws, [(1 - ci) / 2, (1 + ci) / 2]))
    elif count == 1:
        note = "no interval: one request"
    return {"value": value, "low": low, "high": high, "n_requests": count, "measure": measure, "note": note}
