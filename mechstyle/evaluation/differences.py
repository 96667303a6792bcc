"""Differences between edits on the same questions, with intervals from resamples that both sides share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd

from mechstyle.errors import InputError
from mechstyle.evaluation.clusters import resampled
from mechstyle.evaluation.intervals import metrics_in
from mechstyle.evaluation.measure import AnyMetric, Harmonic, Metric
from mechstyle.evaluation.pairs import Pairs, pairs_of
from mechstyle.evaluation.scores import Scores, Stage
from mechstyle.evaluation.significance import holm, sign_flip_p
from mechstyle.evaluation.summaries import base_metrics, estimates, parts_of, summarise_rows
from mechstyle.evaluation.summary_row import joined, require_ci, summary_frame, summary_row, undefined

__all__ = ["compare", "compare_scores", "paired_differences"]

COMPARED: Final = (
    "edit", "metric", "value", "low", "high", "n", "unit", "difference", "difference_low", "difference_high",
    "paired_value", "paired_reference", "p", "p_holm", "n_paired", "measure", "note",
)  # fmt: skip
ASKED: Final = ("request", "kind", "prompt", "target_new", "target_true")
"""Columns in which scores that are compared must agree, row by row."""
SETTINGS: Final = ("prepend_bos", "reduce", "active_edits")
"""Settings that change what a score means."""


def paired_differences(
    rows_a: pd.DataFrame,
    rows_b: pd.DataFrame,
    metrics: Sequence[AnyMetric],
    *,
    ci: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Each metric of one table less that of another, on the questions that both answer.

    Rows are paired by ``item``, and by ``request`` and ``kind`` where both tables have them. If only one
    table has requests (it asks the same under each request's edit, and the other asked once, of the unedited
    model), each request is compared with the whole of the other. The interval is the percentile interval of
    differences in resamples of requests, the same in both tables: what makes a request hard for both cancels.

    Args:
        rows_a: of one edit and stage.
        rows_b: what is taken away from it.
        ci: share of resamples inside the interval.
        seed: of the resampling.

    Returns:
        as ``summarise_rows``: ``value`` is the difference, ``n`` counts the pairs of requests (or items), and
        ``note`` says how many rows have no partner and are left out.

    Raises:
        InputError: rows without ``item``, or as ``summarise_rows``.
        RangeError: as ``summarise_rows``.

    >>> paired_differences(rome_rows, ft_rows, METRICS).loc["efficacy", "value"]  # doctest: +SKIP
    0.25
    """
    require_ci(ci)
    base = base_metrics(metrics)
    pairs = pairs_of(rows_a, rows_b, base)
    return _differences(pairs, metrics, base, ci=ci, resamples=resamples, seed=seed)


def compare(
    tables: Mapping[str, pd.DataFrame],
    metrics: Sequence[AnyMetric],
    *,
    reference: str,
    ci: float = 0.95,
    resamples: int = 1000,
    permutations: int = 9999,
    seed: int = 0,
) -> pd.DataFrame:
    """Several edits side by side, each with its difference to one of them.

    Args:
        tables: name of the edit -> its rows, of one stage.
        reference: the name of the table that the others are compared with.
        ci: share of resamples inside each interval.
        permutations: of the sign-flip test, where there are too many requests to try all signs.
        seed: of the resampling and of the test.

    Returns:
        a row per edit and metric. ``value, low, high, n, unit`` are those of ``summarise_rows``, over all
        rows of the edit. ``difference, difference_low, difference_high, n_paired`` are those of
        ``paired_differences``, over the rows that the reference has too; the reference itself has none.
        ``paired_value`` and ``paired_reference`` are the edit's and the reference's values over these rows
        alone: the one less the other is the difference. They differ from ``value`` where an edit or the
        reference lacks rows, such as those of requests that failed. ``p`` is that of ``sign_flip_p`` over
        requests, and ``p_holm`` is corrected for the number of edits, metric by metric. Both are NaN for
        ratios and harmonic means, which are no means over requests, and where a value is infinite. ``note``
        tells of both intervals, that of the value and that of the difference.

    Raises:
        InputError: no table has the reference's name; or as ``paired_differences``.
        RangeError: as ``summarise_rows``, or ``permutations`` is below 1.

    >>> compare({"rome": rome_rows, "ft": ft_rows}, METRICS, reference="ft")  # doctest: +SKIP
    """
    require_ci(ci)
    if reference not in tables:
        raise InputError(f"reference: expected one of {', '.join(map(repr, tables))}, got {reference!r}.")
    base = base_metrics(metrics)
    found = []
    for edit, rows in tables.items():
        table = summarise_rows(rows, metrics, ci=ci, resamples=resamples, seed=seed).assign(edit=edit)
        if edit != reference:
            pairs = pairs_of(rows, tables[reference], base)
            less = _differences(pairs, metrics, base, ci=ci, resamples=resamples, seed=seed)
            table["difference"], table["n_paired"] = less["value"], less["n"]
            table["difference_low"], table["difference_high"] = less["low"], less["high"]
            table["paired_value"], table["paired_reference"] = estimates(metrics, base, pairs.clusters.total)
            table["p"] = _p_values(pairs, metrics, base, permutations=permutations, seed=seed)
            table["note"] = [joined(*notes) for notes in zip(table["note"], less["note"], strict=True)]
        found.append(table.reset_index())
    whole = pd.concat(found, ignore_index=True).reindex(columns=list(COMPARED))
    whole["n_paired"] = whole["n_paired"].fillna(0).astype(np.int64)
    whole["p_holm"] = whole.groupby("metric")["p"].transform(lambda p: holm(p.to_numpy(dtype=np.float64)))
    return whole


def compare_scores(
    scores: Mapping[str, Scores],
    reference: str,
    *,
    stage: Stage | None = None,
    ci: float = 0.95,
    resamples: int = 1000,
    permutations: int = 9999,
    seed: int = 0,
) -> pd.DataFrame:
    """Scores of several edits on the same prompts side by side, each with its difference to one of them.

    Args:
        scores: name of the edit -> what ``evaluate`` found.
        reference: the name that the others are compared with.
        stage: None is the last one of each: "after", or "before" where no edit was scored.
        ci: share of resamples inside each interval.
        permutations: of the sign-flip test, where there are too many requests to try all signs.
        seed: of the resampling and of the test.

    Returns:
        as ``compare``, for the metrics that all of the scores have.

    Raises:
        InputError: scores of other prompts or targets, of another model, or with other settings; a stage that
            was not scored; or as ``compare``.
        RangeError: as ``compare``.

    >>> table = compare_scores({"rome": scores, "ft": others}, reference="ft")  # doctest: +SKIP
    >>> table[["edit", "metric", "difference", "p_holm"]]  # doctest: +SKIP
    """
    if reference not in scores:
        raise InputError(f"reference: expected one of {', '.join(map(repr, scores))}, got {reference!r}.")
    tables = {}
    for name, one in scores.items():
        chosen = one.stages[-1] if stage is None else stage
        if chosen not in one.stages:
            raise InputError(f"stage: {name!r} has {', '.join(one.stages)}, but not {chosen!r}.")
        rows = one.rows[one.rows["stage"] == chosen].reset_index(drop=True)
        tables[name] = rows.assign(item=rows["prompt"])
        _require_same(name, one, reference, scores[reference])
    for name, rows in tables.items():
        _require_same_prompts(name, rows, reference, tables[reference])
    return compare(
        tables,
        metrics_in(*tables.values()),
        reference=reference,
        ci=ci,
        resamples=resamples,
        permutations=permutations,
        seed=seed,
    )


def _differences(
    pairs: Pairs,
    metrics: Sequence[AnyMetric],
    base: Sequence[Metric],
    *,
    ci: float,
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    counts = pairs.clusters.counts.min(0)
    both = estimates(metrics, base, pairs.clusters.total)
    draws = estimates(metrics, base, resampled(pairs.clusters, resamples=resamples, seed=seed))
    with np.errstate(invalid="ignore"):
        value, draws = both[0] - both[1], draws[:, 0] - draws[:, 1]
    table = {}
    for index, metric in enumerate(metrics):
        parts = [base.index(part) for part in parts_of(metric)]
        missing = undefined(parts, counts, ["no rows that both have"] * len(base))
        note = joined(missing, *(pairs.left_out[part] for part in parts))
        table[metric.name] = summary_row(
            float(value[index]),
            draws[:, index],
            ci=ci,
            n=int(counts[parts].min()),
            unit=pairs.unit,
            measure=metric.measure,
            note=note,
        )
    return summary_frame(table)


def _p_values(
    pairs: Pairs, metrics: Sequence[AnyMetric], base: Sequence[Metric], *, permutations: int, seed: int
) -> list[float]:
    """Of each metric; NaN for what is no mean over requests, and where a request is infinite on any side."""
    each = pairs.clusters.each
    with np.errstate(invalid="ignore"):
        less = np.where(np.isinf(each).any(1), np.inf, each[:, 0] - each[:, 1])
    p = sign_flip_p(less, permutations=permutations, seed=seed)
    return [
        float("nan") if isinstance(metric, Harmonic) or metric.weight else float(p[base.index(metric)])
        for metric in metrics
    ]


def _require_same(name: str, one: Scores, reference: str, other: Scores) -> None:
    """Refuse scores of another model, or that were measured otherwise."""
    ours, theirs = one.provenance["fingerprint"], other.provenance["fingerprint"]
    if ours != theirs:
        raise InputError(
            f"scores: {name!r} is of another model (fingerprint {ours[:12]}) than {reference!r} "
            f"({theirs[:12]}); evaluate both on one model."
        )
    for setting in SETTINGS:
        found, wanted = (scores.provenance["settings"].get(setting) for scores in (one, other))
        if found != wanted:
            raise InputError(
                f"scores: {name!r} was evaluated with {setting}={found!r} and {reference!r} with {wanted!r}; "
                "evaluate both alike."
            )


def _require_same_prompts(name: str, rows: pd.DataFrame, reference: str, wanted: pd.DataFrame) -> None:
    """Refuse scores of other requests or prompts."""
    if len(rows) != len(wanted):
        raise InputError(
            f"scores: {name!r} has {len(rows)} prompts and {reference!r} has {len(wanted)}; "
            "evaluate both on the same requests."
        )
    ours, theirs = (table[list(ASKED)].astype(object) for table in (rows, wanted))
    differs = (ours != theirs).any(axis=1).to_numpy()
    if differs.any():
        first = int(np.argmax(differs))
        column = next(name for name in ASKED if ours.loc[first, name] != theirs.loc[first, name])
        raise InputError(
            f"scores: prompt {first} of {name!r} has the {column} {ours.loc[first, column]!r}, that of "
            f"{reference!r} {theirs.loc[first, column]!r}; evaluate both on the same requests."
        )
