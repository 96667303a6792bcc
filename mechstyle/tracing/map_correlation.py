"""Pearson's r of two average maps, with an interval over the facts that they are averages of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

__all__ = ["FactMap", "map_correlation"]

Values = NDArray[np.float64]
GROUPS: Final = 100
"""Of more facts than these, groups are left out in turn."""


@dataclass(frozen=True, eq=False)
class FactMap:
    """What an average map is the average of.

    Attributes:
        values: a map a fact (of one fact, a map a draw); anything where it has no such cell.
        there: which cells it has.
    """

    values: Float[Values, "fact cell"]
    there: Bool[NDArray[np.bool_], "fact cell"]


def map_correlation(
    one: FactMap, other: FactMap, *, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Pearson's r of two average maps, and an interval (low, high) for that of maps over all such facts.

    The noise of finite facts pulls r towards 0, and resampling would add the same noise once more. So the
    interval is that of r corrected for attenuation (Spearman 1904), by the jackknife over the facts of each
    map with Student's t (Efron and Tibshirani 1993, 11), and reaches to r itself. It is -1 to 1 where a map
    cannot be told from noise. Facts of the two maps count as independent.

    Args:
        level: the share of such intervals that hold the truth.
        seed: of the groups that are left out, where there are more than 100 facts.

    Returns:
        r (0 where a map is flat), low and high; NaN for both where a map has one fact.

    Example:
        >>> map_correlation(small, large)  # doctest: +SKIP
        (0.87, 0.71, 0.98)
    """
    from scipy.stats import t

    everything = [np.arange(len(side.values)) for side in (one, other)]
    r, corrected = _correlations(one, other, *everything)
    counts = [len(rows) for rows in everything]
    if min(counts) < 2:
        return r, float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    variance = 0.0
    for side, rows in enumerate(everything):
        groups = np.array_split(rng.permutation(rows), min(len(rows), GROUPS))
        left = [
            _correlations(one, other, *(np.setdiff1d(all_rows, group) if side == of else all_rows
                                        for of, all_rows in enumerate(everything)))[1]
            for group in groups
        ]  # fmt: skip
        variance += (len(groups) - 1) * float(np.var(left))
    half = float(t.ppf((1 + level) / 2, min(*counts, GROUPS) - 1) * np.sqrt(variance))
    if not np.isfinite(corrected + half):
        return r, -1.0, 1.0
    return r, max(-1.0, min(r, corrected - half)), min(1.0, max(r, corrected + half))


def _correlations(
    one: FactMap, other: FactMap, rows: Int[NDArray[np.int64], " row"], others: Int[NDArray[np.int64], " row"]
) -> tuple[float, float]:
    """Pearson's r of the average maps of these facts, and r corrected for attenuation (NaN: it cannot be)."""
    cells = np.logical_and(one.there[rows].any(0), other.there[others].any(0))
    first, noise = _average(one, rows, cells)
    second, others_noise = _average(other, others, cells)
    sizes = np.array([first @ first, second @ second])
    if not sizes.all():
        return 0.0, float("nan")
    r = float(np.clip(first @ second / np.sqrt(sizes.prod()), -1, 1))
    reliable = 1 - np.array([noise, others_noise]) / sizes
    return r, r / float(np.sqrt(reliable.prod())) if (reliable > 0).all() else float("nan")


def _average(
    side: FactMap, rows: Int[NDArray[np.int64], " row"], cells: Bool[NDArray[np.bool_], " cell"]
) -> tuple[Float[Values, " kept"], float]:
    """The average map around its mean, and the noise in its squared length.

    Noise along the map itself only stretches it, which leaves r as it is: that part does not count.
    """
    there = side.there[rows][:, cells]
    counts = there.sum(0)
    values = np.where(there, side.values[rows][:, cells], 0.0)
    mean = values.sum(0) / counts
    # What each fact adds to the average; a cell that one fact has says nothing about its noise.
    parts = np.where(there, values - mean, 0.0) / np.sqrt(counts * np.maximum(counts - 1, 1))
    parts -= parts.mean(1, keepdims=True)
    mean = mean - mean.mean()
    size = float(mean @ mean)
    along = float(np.square(parts @ mean).sum()) / size if size > 0 else 0.0
    return mean, float(np.square(parts).sum()) - along
