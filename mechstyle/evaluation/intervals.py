"""The metrics of ``evaluate``, and one stage of its rows summed up with intervals over requests."""

from __future__ import annotations

from typing import Final

import pandas as pd

from mechstyle.evaluation.measure import AnyMetric, Harmonic, Metric
from mechstyle.evaluation.summaries import parts_of, summarise_rows

__all__ = ["ACCURACY", "COMPARISON", "EXACT", "GENERATED", "METRICS", "metrics_in", "summarise"]

COMPARISON: Final = "probability comparison"
DIFFERENCE: Final = "probability difference"
EXACT: Final = "exact match (teacher-forced)"
GENERATED: Final = "free generation"
ACCURACY: Final = "token accuracy (teacher-forced)"

_RATES: Final = (
    Metric("efficacy", "success", COMPARISON, "rewrite"),
    Metric("paraphrase", "success", COMPARISON, "paraphrase"),
    Metric("neighborhood", "success", COMPARISON, "neighborhood"),
)
_EXACT: Final = (
    Metric("efficacy_exact", "exact_new", EXACT, "rewrite"),
    Metric("paraphrase_exact", "exact_new", EXACT, "paraphrase"),
    Metric("neighborhood_exact", "exact_true", EXACT, "neighborhood"),
)
_GENERATED: Final = (
    Metric("efficacy_generated", "generated_new", GENERATED, "rewrite"),
    Metric("paraphrase_generated", "generated_new", GENERATED, "paraphrase"),
    Metric("neighborhood_generated", "generated_true", GENERATED, "neighborhood"),
)
METRICS: Final[tuple[AnyMetric, ...]] = (
    *_RATES,
    Harmonic("score", _RATES, "harmonic mean of efficacy, paraphrase, neighborhood"),
    Metric("efficacy_magnitude", "magnitude", DIFFERENCE, "rewrite"),
    Metric("paraphrase_magnitude", "magnitude", DIFFERENCE, "paraphrase"),
    Metric("neighborhood_magnitude", "magnitude", DIFFERENCE, "neighborhood"),
    *_EXACT,
    Harmonic("score_exact", _EXACT, f"harmonic mean of the three rates of {EXACT}"),
    *_GENERATED,
    Harmonic("score_generated", _GENERATED, f"harmonic mean of the three rates of {GENERATED}"),
    Metric("efficacy_accuracy", "accuracy_new", ACCURACY, "rewrite"),
    Metric("paraphrase_accuracy", "accuracy_new", ACCURACY, "paraphrase"),
    Metric("neighborhood_accuracy", "accuracy_true", ACCURACY, "neighborhood"),
)


def metrics_in(*frames: pd.DataFrame) -> list[AnyMetric]:
    """The metrics of ``evaluate`` whose columns all of the frames have.

    >>> [one.name for one in metrics_in(pd.DataFrame({"kind": [], "exact_true": []}))]
    ['neighborhood_exact']
    """
    return [
        metric
        for metric in METRICS
        if all(part.column in frame.columns for part in parts_of(metric) for frame in frames)
    ]


def summarise(frame: pd.DataFrame, *, ci: float, resamples: int, seed: int) -> pd.DataFrame:
    """Every metric with its percentile interval over requests (Efron 1979); one stage of a frame of scores.

    A request's prompts are averaged first, so that each request counts once. ``score`` is the harmonic mean
    of efficacy, paraphrase and neighborhood, its interval from the same resamples; ``score_exact`` and
    ``score_generated`` are those of exact matches and of free generation.

    Args:
        frame: one row a prompt, as in ``Scores.frame``, of one stage.
        ci: share of resamples inside the interval.
        seed: of the resampling.

    Returns:
        index ``metric``; columns ``value, low, high, n_requests, measure, note``. A metric without prompts is
        NaN with ``n_requests`` 0, and a single request has no interval; ``note`` says so, and warns of
        intervals of fewer than 30 requests (too narrow) and of those without width.

    Raises:
        RangeError: ``ci`` is not between 0 and 1, or ``resamples`` is below 1.

    >>> summarise(frame, ci=0.95, resamples=1000, seed=0).loc["efficacy", "value"]  # doctest: +SKIP
    0.98
    """
    table = summarise_rows(frame, metrics_in(frame), ci=ci, resamples=resamples, seed=seed)
    return table.drop(columns="unit").rename(columns={"n": "n_requests"})
