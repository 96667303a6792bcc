"""Shares with intervals that know that answers about one thing hang together."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist

import numpy as np

from ..errors import InputError

__all__ = ["share_interval"]


def share_interval(
    values: Sequence[float], groups: Sequence[Hashable], *, level: float = 0.95
) -> tuple[float, float, float]:
    """A mean of numbers between 0 and 1, with its interval.

    The interval is Wilson's (1927) for the effective number of answers (Kish 1965): so many independent ones
    would have the variance that the groups' means show. Where all answers are the same, groups count as one
    answer each.

    Args:
        groups: of each value, what it is about; values of different groups are independent.
        level: chance of the interval to hold the true share.

    Raises:
        InputError: no values, another number of groups, or values that are not between 0 and 1.

    Example:
        >>> from mechstyle.organisms.shares import share_interval
        >>> [round(number, 3) for number in share_interval([1, 1, 1, 0], [1, 2, 3, 4])]
        [0.75, 0.301, 0.954]
    """
    array = np.asarray(values, dtype=np.float64)
    if not len(array) or len(array) != len(groups) or array.min() < 0 or array.max() > 1:
        raise InputError(
            f"values: expected numbers between 0 and 1, as many as groups ({len(groups)}), got {len(array)}."
        )
    mean = float(array.mean())
    names = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    place = [names[group] for group in groups]
    sums = np.bincount(place, weights=array - mean)
    variance = float((sums**2).sum()) / len(array) ** 2
    count = min(len(array), mean * (1 - mean) / variance) if variance > 1e-15 else len(names)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    middle = (mean + z * z / (2 * count)) / (1 + z * z / count)
    reach = z / (1 + z * z / count) * math.sqrt(mean * (1 - mean) / count + z * z / (4 * count * count))
    return mean, max(0.0, middle - reach), min(1.0, middle + reach)
