"""Do two sets of distances between the same things go together? Mantel's permutation test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from mechstyle.errors import InputError, RangeError

__all__ = ["FEWEST", "Mantel", "mantel", "mantel_each", "require_distances"]

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

    The things of the first set are permuted, so that distances that share a thing stay together. The test is
    one-sided, and its p = (k + 1) / (n + 1) is exact: it is never 0 (Phipson and Smyth 2010).

    Raises:
        InputError: no two matrices of distances between the same four things or more.
        RangeError: fewer than one permutation.

    Example:
        >>> mantel(trace_distances, prompt_distances).p
        0.0001
    """
    return mantel_each(first, {"second": second}, permutations=permutations, seed=seed)["second"]


def mantel_each(
    first: Distances, others: Mapping[str, Distances], *, permutations: int = 9999, seed: int = 0
) -> dict[str, Mantel]:
    """Test one set of distances against several others, each on its own, with the same permutations.

    Raises:
        InputError: as `mantel`; the set is named.
        RangeError: fewer than one permutation.

    Example:
        >>> mantel_each(trace_distances, {"relation": relations, "prompt": edits})["relation"].p
        0.0001
    """
    for name, given in {"first": first, **others}.items():
        require_distances(name, given)
        if given.shape != first.shape:
            raise InputError(f"{name}: expected as many things as in first, {len(first)}, got {len(given)}.")
    if isinstance(permutations, bool) or not isinstance(permutations, int) or permutations < 1:
        raise RangeError(f"permutations: expected a whole number of at least 1, got {permutations!r}.")
    whole = _centred(first)
    # Each pair once: the permuted matrix is symmetric.
    pairs = np.stack([np.triu(_centred(given)).ravel() for given in others.values()])
    observed = pairs @ whole.ravel()
    rng = np.random.default_rng(seed)
    at_least = np.zeros(len(pairs), dtype=int)
    for _ in range(permutations):
        order = rng.permutation(len(first))
        at_least += pairs @ whole.take(order, 0).take(order, 1).ravel() >= observed - TIE
    told = pairs.any(1) & whole.any()
    r, p = np.where(told, observed, np.nan), np.where(told, (at_least + 1) / (permutations + 1), np.nan)
    return {name: Mantel(float(r[row]), float(p[row]), permutations) for row, name in enumerate(others)}


def _centred(given: Distances) -> Distances:
    """Ranks of the distances less their mean, of length one over all pairs; 0 when all are the same."""
    from scipy.stats import rankdata

    rows, columns = np.triu_indices(len(given), 1)
    ranks = rankdata(given[rows, columns])
    ranks = ranks - ranks.mean()
    size = float(np.sqrt(np.square(ranks).sum()))
    whole = np.zeros(given.shape)
    whole[rows, columns] = ranks / size if size > 0 else 0.0
    return whole + whole.T


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
