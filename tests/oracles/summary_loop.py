"""Summaries, paired differences and permutation tests with lists, dictionaries and loops.

Rows are dictionaries. Only the random draws are numpy's own, so that both sides resample the same requests.
It shares no code with `mechstyle.evaluation`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]
Statistic = Callable[[list[list[Row]]], float]
"""From groups of rows, a group a request (repeated where it was drawn repeatedly), to a number."""


def known(row: Row, *columns: str) -> bool:
    return all(row[name] is not None and not math.isnan(row[name]) for name in columns)


def mean_of(column: str, kind: str | None = None) -> Statistic:
    """Mean over requests of the mean over their rows."""

    def statistic(groups: list[list[Row]]) -> float:
        means = []
        for group in groups:
            values = [
                float(row[column])
                for row in group
                if (kind is None or row["kind"] == kind) and known(row, column)
            ]
            if values:
                means.append(sum(values) / len(values))
        return sum(means) / len(means) if means else math.nan

    return statistic


def ratio_of(column: str, weight: str, *, exponential: bool = False) -> Statistic:
    """Sum over all rows by sum over all rows."""

    def statistic(groups: list[list[Row]]) -> float:
        rows = [row for group in groups for row in group if known(row, column, weight)]
        value = sum(row[column] for row in rows) / sum(row[weight] for row in rows)
        return math.exp(value) if exponential else value

    return statistic


def harmonic_of(*statistics: Statistic) -> Statistic:
    def statistic(groups: list[list[Row]]) -> float:
        parts = [one(groups) for one in statistics]
        return 0.0 if 0 in parts else len(parts) / sum(1 / part for part in parts)

    return statistic


def groups_of(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each request, in the requests' order; without requests each row alone."""
    if any("request" not in row for row in rows):
        return [[row] for row in rows]
    requests = sorted({row["request"] for row in rows})
    return [[row for row in rows if row["request"] == request] for request in requests]


def drawn(size: int, resamples: int, seed: int) -> list[list[int]]:
    """For each resample how often each request is in it."""
    counts = np.random.default_rng(seed).multinomial(size, [1 / size] * size, size=resamples)
    return [[int(count) for count in row] for row in counts]


def quantile(values: Sequence[float], share: float) -> float:
    """Between the two neighbours in order, as the crow flies."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def interval(
    groups: list[Any], statistic: Callable[[list[Any]], float], ci: float, resamples: int, seed: int
) -> tuple[float, float]:
    values = []
    for counts in drawn(len(groups), resamples, seed):
        resample = [group for group, count in zip(groups, counts, strict=True) for _ in range(count)]
        value = statistic(resample)
        if not math.isnan(value):
            values.append(value)
    return quantile(values, (1 - ci) / 2), quantile(values, (1 + ci) / 2)


def paired_groups(rows_a: Sequence[Row], rows_b: Sequence[Row]) -> list[tuple[list[Row], list[Row]]]:
    """For each request that both have the rows of both, item by item; of other items nothing."""
    found = []
    for request in sorted({row["request"] for row in rows_a} & {row["request"] for row in rows_b}):
        ours = {(row["kind"], row["item"]): row for row in rows_a if row["request"] == request}
        theirs = {(row["kind"], row["item"]): row for row in rows_b if row["request"] == request}
        both = sorted(ours.keys() & theirs.keys())
        if both:
            found.append(([ours[key] for key in both], [theirs[key] for key in both]))
    return found


def difference_of(statistic: Statistic) -> Callable[[list[tuple[list[Row], list[Row]]]], float]:
    return lambda pairs: statistic([pair[0] for pair in pairs]) - statistic([pair[1] for pair in pairs])


def sign_flip_p(differences: Sequence[float]) -> float:
    """Over all signs of all differences, zeros included."""
    wanted = abs(sum(differences))
    sums = [
        abs(sum(sign * one for sign, one in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return sum(one >= wanted - 1e-9 for one in sums) / len(sums)


def holm(p: Sequence[float]) -> list[float]:
    """The largest of all p at or below each one, each times how many remain when it is tested."""
    ordered = sorted(p)
    return [
        min(1.0, max((len(p) - rank) * one for rank, one in enumerate(ordered) if one <= value))
        for value in p
    ]
