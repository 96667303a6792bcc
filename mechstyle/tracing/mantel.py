"""Do two sets of distances between the same things go together? Mantel's permutation test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from mechstyle.errors import InputError, RangeError

__all__ = ["Mantel", "mantel", "require_distances"]

Distances = Float[NDArray[np.float64], "item item"]
FEWEST = 4
"""Items; of three, no order of six can have a p below 1/6."""
TIE = 1e-12
"""Correlations this close count as equal: sums in another order differ by rounding."""


@dataclass(frozen=True)
class Mantel:
    """What the test found.

    Attributes:
        r: Spearman's rank correlation over all pairs; NaN when all distances of one set are the same.
        p: share of permutations, the observed order among them, with an r at least as large.
        permutations: how many there were beside the observed order.
    """

    r: float
    p: float
    permutations: int


def mantel(first: Distances, second: Distances, *, permutations: int = 9999, seed: int = 0) -> Mantel:
    """Test whether large distances of one set go with large distances of the other (Mantel 1967).

    The things of the second set are permuted, so that distances that share a thing stay together. The test is
    one-sided, and its p = (k + 1) / (n + 1) is exact: it is never 0 (Phipson and Smyth 2010).

    Raises:
        InputError: no two matrices of distances between the same four things or more.
        RangeError: fewer than one permutation.

    Example:
        >>> mantel(trace_distances, prompt_distances).p
        0.0001
    """
    from scipy.stats import rankdata

    for name, given in (("first", first), ("second", second)):
        require_distances(name, given)
    if first.shape != second.shape:
        raise InputError(f"second: expected as many things as in first, {len(first)}, got {len(second)}.")
    if isinstance(permutations, bool) or not isinstance(permutations, int) or permutations < 1:
        raise RangeError(f"permutations: expected a whole number of at least 1, got {permutations!r}.")
    rows, columns = np.triu_indices(len(first), 1)
    centred = []
    for given in (first, second):
        ranks = rankdata(given[rows, columns])
        ranks = ranks - ranks.mean()
        size = float(np.sqrt(np.square(ranks).sum()))
        if size == 0:
            return Mantel(float("nan"), float("nan"), permutations)
        whole = np.zeros(first.shape)
        whole[rows, columns] = ranks / size
        centred.append(whole)
    upper, other = centred[0], centred[1] + centred[1].T
    observed = float((upper * other).sum())
    rng = np.random.default_rng(seed)
    at_least = 0
    for _ in range(permutations):
        order = rng.permutation(len(first))
        at_least += bool((upper * other[np.ix_(order, order)]).sum() >= observed - TIE)
    return Mantel(observed, (at_least + 1) / (permutations + 1), permutations)


def require_distances(name: str, given: Distances) -> None:
    """Make sure that a matrix holds distances: square, symmetric, finite, 0 on the diagonal.

    Raises:
        InputError: it does not, or is of fewer than four things.

    Example:
        >>> require_distances("first", np.ones((4, 4)) - np.eye(4))
    """
    if not isinstance(given, np.ndarray) or given.ndim != 2 or given.shape[0] != given.shape[1]:
        shape = list(given.shape) if isinstance(given, np.ndarray) else type(given).__name__
        raise InputError(f"{name}: expected a square matrix of distances, got {shape}.")
    if len(given) < FEWEST:
        raise InputError(f"{name}: expected distances between at least {FEWEST} things, got {len(given)}.")
    if not np.isfinite(given).all() or not np.allclose(given, given.T) or np.diagonal(given).any():
        raise InputError(f"{name}: expected finite, symmetric distances with 0 from each thing to itself.")
