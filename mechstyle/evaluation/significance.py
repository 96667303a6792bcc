"""How easily chance alone gives such differences: a sign-flip permutation test, and Holm's correction."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from mechstyle.errors import RangeError

__all__ = ["holm", "sign_flip_p"]

Array = NDArray[np.float64]
EXACT_UP_TO: Final = 14
"""Differences other than 0 of which all 2^n signs are tried."""
CHUNK: Final = 1000
"""Permutations held in memory at a time."""
ROUNDING: Final = 1e-9
"""Sums that differ by less than this share of the largest sum possible count as equal."""


def sign_flip_p(
    differences: Float[Array, "unit test"], *, permutations: int = 9999, seed: int = 0
) -> Float[Array, " test"]:
    """Two-sided p-values of paired differences: the share of signs with a sum as far from 0 (Fisher 1935).

    Under the null hypothesis that it is chance which member of a pair is which, each difference is as likely
    to have the other sign. All signs are tried where that is feasible: then p is exact. Else p is
    ``(k + 1) / (permutations + 1)`` for k random ones as extreme (Phipson and Smyth 2010).

    Args:
        differences: NaN where a unit has none; they do not count.
        permutations: random signs, where there are too many to try all of them.
        seed: of the random signs.

    Returns:
        NaN for a test without differences, and for one with an infinite difference: its sums say nothing.

    Raises:
        RangeError: fewer than one permutation.

    >>> sign_flip_p(np.array([[1.0], [1.0], [1.0]])).tolist()
    [0.25]
    """
    if permutations < 1:
        raise RangeError(f"permutations: expected at least 1, got {permutations}.")
    values = np.where(np.isnan(differences), 0.0, differences)
    there = (~np.isnan(differences)).any(0) & ~np.isinf(differences).any(0)
    small = (values != 0).sum(0) <= EXACT_UP_TO
    p = np.full(values.shape[1], np.nan)
    for test in np.flatnonzero(there & small):
        p[test] = _exact(values[values[:, test] != 0, test])
    large = np.flatnonzero(there & ~small)
    if len(large):
        p[large] = _monte_carlo(values[:, large], permutations, seed)
    return p


def holm(p: Float[Array, " test"]) -> Float[Array, " test"]:
    """p-values corrected for their number: one false alarm among all is as rare as wanted (Holm 1979).

    Args:
        p: NaN where there was no test; it stays NaN and does not count.

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted


def _exact(values: Float[Array, " unit"]) -> float:
    """Over all signs."""
    patterns = np.arange(2 ** len(values))[:, None] >> np.arange(len(values)) & 1
    sums = np.abs((1.0 - 2.0 * patterns) @ values)
    return float((sums >= _threshold(values)).mean())


def _monte_carlo(values: Float[Array, "unit test"], permutations: int, seed: int) -> Float[Array, " test"]:
    """Over random signs, the same for all tests."""
    rng = np.random.default_rng(seed)
    extreme = np.zeros(values.shape[1], dtype=np.int64)
    for start in range(0, permutations, CHUNK):
        size = min(CHUNK, permutations - start), len(values)
        signs = 1.0 - 2.0 * rng.integers(0, 2, size=size, dtype=np.int8)
        extreme += (np.abs(signs @ values) >= _threshold(values)).sum(0)
    return np.asarray((extreme + 1) / (permutations + 1))


def _threshold(values: Float[Array, "unit ..."]) -> Float[Array, "..."]:
    """The sum that was found, less what rounding may do to another one that is equal."""
    return np.asarray(np.abs(values.sum(0)) - ROUNDING * np.abs(values).sum(0))
