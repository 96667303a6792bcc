"""Sign-flip tests and Holm's correction: by hand, against loops over all signs, and against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mechstyle.errors import RangeError
from mechstyle.evaluation.significance import holm, sign_flip_p
from tests.oracles import summary_loop

VALUES = st.lists(st.sampled_from([-1.0, -0.5, -0.1, 0.0, 0.1, 0.2, 0.3, 1.0]), min_size=1, max_size=9)


@given(VALUES)
def test_exact_p_values_are_those_of_a_loop_over_all_signs(values: list[float]) -> None:
    (p,) = sign_flip_p(np.array(values)[:, None])
    assert p == pytest.approx(summary_loop.sign_flip_p(values))


def test_n_equal_differences_are_as_rare_as_n_heads_or_n_tails() -> None:
    assert sign_flip_p(np.ones((10, 1)))[0] == 2 / 2**10
    assert sign_flip_p(np.zeros((10, 1)))[0] == 1
    assert sign_flip_p(np.array([[0.7]]))[0] == 1


def test_requests_that_do_not_differ_do_not_make_an_exact_test_impossible() -> None:
    assert sign_flip_p(np.array([0.0] * 500 + [1.0] * 5)[:, None])[0] == 2 / 2**5


def test_wins_and_losses_give_the_sign_test() -> None:
    wins = np.array([1.0] * 11 + [-1.0] * 3)[:, None]
    assert sign_flip_p(wins)[0] == pytest.approx(stats.binomtest(3, 14).pvalue)


def test_with_many_requests_random_signs_come_near_the_exact_p_and_never_reach_0() -> None:
    wins = np.array([1.0] * 40 + [-1.0] * 22)[:, None]
    assert sign_flip_p(wins, seed=1)[0] == pytest.approx(stats.binomtest(22, 62).pvalue, abs=0.006)
    assert sign_flip_p(np.ones((60, 1)), permutations=199)[0] == 1 / 200


def test_missing_differences_do_not_count_and_each_test_has_its_own() -> None:
    values = np.array([[1.0, np.nan, np.nan], [2.0, 1.0, np.nan], [3.0, np.nan, np.nan]])
    np.testing.assert_array_equal(sign_flip_p(values), [0.25, 1.0, np.nan])


def test_an_infinite_difference_makes_its_own_test_undefined_and_no_other() -> None:
    values = np.array([[np.inf, 1.0, -np.inf], [1.0, 1.0, np.inf], [2.0, 1.0, np.nan]])
    np.testing.assert_array_equal(sign_flip_p(values), [np.nan, 0.25, np.nan])
    many = np.concatenate([np.ones((60, 2)), [[np.inf, 1.0]]])
    np.testing.assert_array_equal(sign_flip_p(many, permutations=199), [np.nan, 1 / 200])


@given(st.lists(st.sampled_from([0.001, 0.01, 0.02, 0.02, 0.04, 0.2, 0.5, 1.0]), min_size=1, max_size=6))
def test_holms_correction_is_that_of_its_definition(p: list[float]) -> None:
    assert holm(np.array(p)).tolist() == pytest.approx(summary_loop.holm(p))


def test_holms_correction_passes_over_what_was_not_tested() -> None:
    np.testing.assert_allclose(holm(np.array([np.nan, 0.03, 0.01])), [np.nan, 0.03, 0.02])
    assert holm(np.array([])).tolist() == []


def test_no_permutations_are_refused() -> None:
    with pytest.raises(RangeError, match="permutations: expected at least 1, got 0"):
        sign_flip_p(np.ones((2, 1)), permutations=0)
