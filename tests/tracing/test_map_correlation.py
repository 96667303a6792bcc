"""The correlation of two average maps, and whether its interval covers the truth."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mechstyle.tracing.map_correlation import FactMap, map_correlation

CELLS = np.linspace(0, 1, 30)


def bump(centre: float) -> NDArray[np.float64]:
    return np.exp(-(((CELLS - centre) / 0.2) ** 2))


def maps(
    shape: NDArray[np.float64], rng: np.random.Generator, *, n: int, noise: float, smooth: float = 0.0
) -> FactMap:
    """Facts that have a shape more or less strongly, with noise of some width."""
    width = np.eye(len(CELLS))
    if smooth:
        distance = (CELLS[:, None] - CELLS) / smooth
        width = np.linalg.cholesky(np.exp(-(distance**2)) + 1e-8 * np.eye(len(CELLS)))
    strength = rng.normal(1, 0.5, size=(n, 1))
    values = shape * strength + noise * rng.normal(size=(n, len(CELLS))) @ width.T
    return FactMap(values, np.ones(values.shape, dtype=bool))


@pytest.mark.parametrize(("shift", "noise", "smooth"), [(0.0, 1.0, 0.0), (0.1, 1.0, 0.0), (0.3, 0.3, 0.1)])
def test_the_interval_covers_the_correlation_of_maps_without_noise(
    shift: float, noise: float, smooth: float
) -> None:
    rng, runs, level, covered, plain = np.random.default_rng(0), 100, 0.9, 0, []
    first, second = bump(0.4), bump(0.4 + shift)
    truth = float(np.corrcoef(first, second)[0, 1])
    for _ in range(runs):
        sides = [maps(shape, rng, n=12, noise=noise, smooth=smooth) for shape in (first, second)]
        r, low, high = map_correlation(*sides, level=level)
        assert low <= r <= high
        covered += low - 1e-9 <= truth <= high + 1e-9
        plain.append(r)
    # The interval that reaches to r is never too narrow but for chance (three standard errors of 0.03).
    assert covered / runs > level - 0.09
    if noise == 1.0:
        assert np.mean(plain) < truth - 0.2  # r itself is far from the truth


def test_a_map_is_the_same_as_itself_whatever_its_noise() -> None:
    for noise in (0.0, 0.1, 1.0, 30.0):
        one = maps(bump(0.4), np.random.default_rng(1), n=10, noise=noise)
        r, low, high = map_correlation(one, one)
        assert (r, high) == (pytest.approx(1.0), pytest.approx(1.0))
        assert low <= 1.0
    opposite = 0.01 * bump(0.4) + np.array([[1.0], [-1.0]]) * bump(0.8)
    nothing = FactMap(opposite, np.ones(opposite.shape, dtype=bool))
    assert map_correlation(nothing, nothing) == (pytest.approx(1.0), -1.0, 1.0)


def test_it_is_pearsons_and_turns_with_its_sign() -> None:
    rng = np.random.default_rng(2)
    one, other = (maps(bump(0.4), rng, n=12, noise=0.1) for _ in range(2))
    r, low, high = map_correlation(one, other)
    assert r == pytest.approx(np.corrcoef(one.values.mean(0), other.values.mean(0))[0, 1])
    turned = map_correlation(one, FactMap(-other.values, other.there))
    assert turned == (pytest.approx(-r), pytest.approx(-high), pytest.approx(-low))
    assert map_correlation(one, other) == (r, low, high)


def test_cells_that_a_fact_lacks_do_not_count() -> None:
    rng = np.random.default_rng(3)
    one, other = (maps(bump(0.4), rng, n=12, noise=0.2) for _ in range(2))
    there = one.there.copy()
    there[::2, :10] = False
    told = [map_correlation(FactMap(np.where(there, one.values, junk), there), other) for junk in (0.0, 1e6)]
    assert told[0] == told[1]
    mean = np.where(there, one.values, 0).sum(0) / there.sum(0)
    assert told[0][0] == pytest.approx(np.corrcoef(mean, other.values.mean(0))[0, 1])


def test_one_fact_has_no_interval_and_a_flat_map_no_correlation() -> None:
    rng = np.random.default_rng(4)
    one, other = (maps(bump(0.4), rng, n=n, noise=0.1) for n in (1, 12))
    r, low, high = map_correlation(one, other)
    assert r > 0.8
    assert np.isnan([low, high]).all()
    flat = FactMap(np.zeros_like(other.values), other.there)
    assert map_correlation(other, flat) == (0.0, -1.0, 1.0)


def test_of_many_facts_groups_are_left_out() -> None:
    rng = np.random.default_rng(5)
    one, other = (maps(bump(0.4), rng, n=450, noise=1.0) for _ in range(2))
    r, low, high = map_correlation(one, other)
    assert low <= r <= high
    assert high > 0.99
    assert high - low < 0.06
