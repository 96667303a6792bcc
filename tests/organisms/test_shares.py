"""Shares with intervals."""

from __future__ import annotations

import random

import pytest

from mechstyle.errors import InputError
from mechstyle.organisms.shares import share_interval


def test_independent_answers_have_wilsons_interval() -> None:
    # 8 of 10, from Newcombe (1998), method 3.
    found = share_interval([1] * 8 + [0] * 2, range(10))
    assert found == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)


def test_saying_the_same_thing_again_tells_nothing_new() -> None:
    rng = random.Random(0)
    once = [float(rng.random() < 0.7) for _ in range(40)]
    repeated = [value for value in once for _ in range(5)]
    groups = [group for group in range(40) for _ in range(5)]
    assert share_interval(repeated, groups) == pytest.approx(share_interval(once, range(40)))
    assert share_interval([1.0] * 50, [group // 5 for group in range(50)]) == pytest.approx(
        share_interval([1.0] * 10, range(10))
    )


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = random.Random(1)
    hits = 0
    for _ in range(400):
        chances = [rng.choice((0.95, 0.65)) for _ in range(60)]  # of each group; 0.8 in the mean
        groups = [group for group in range(60) for _ in range(6)]
        _, low, high = share_interval([float(rng.random() < chances[group]) for group in groups], groups)
        hits += low <= 0.8 <= high
    assert 0.92 <= hits / 400 <= 0.98


def test_what_is_no_share_is_refused() -> None:
    for values, groups in (([], []), ([1.0], [1, 2]), ([1.5], [1])):
        with pytest.raises(InputError, match="between 0 and 1"):
            share_interval(values, groups)
