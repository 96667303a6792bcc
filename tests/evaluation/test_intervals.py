"""Summaries of hand-made frames: weights, harmonic mean, bootstrap over requests, and what is undefined."""

from __future__ import annotations

import statistics

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechstyle.errors import RangeError
from mechstyle.evaluation.clusters import Clusters, bounds, resampled
from mechstyle.evaluation.intervals import summarise
from mechstyle.evaluation.summaries import harmonic_mean


def frame_of(successes: dict[str, list[list[bool]]]) -> pd.DataFrame:
    """kind -> for each request the success of each of its prompts; the magnitude is 0.5 or -0.5."""
    return pd.DataFrame(
        [
            {
                "request": request,
                "kind": kind,
                "success": success,
                "magnitude": 0.5 if success else -0.5,
                "exact_new": False,
                "exact_true": success,
            }
            for kind, requests in successes.items()
            for request, prompts in enumerate(requests)
            for success in prompts
        ]
    )


def summary(successes: dict[str, list[list[bool]]], seed: int = 0, ci: float = 0.95) -> pd.DataFrame:
    return summarise(frame_of(successes), ci=ci, resamples=400, seed=seed)


def test_a_requests_prompts_are_averaged_first_so_that_each_request_counts_once() -> None:
    table = summary({"rewrite": [[True], [True]], "paraphrase": [[True], [False, False, False]]})
    assert table.loc["paraphrase", "value"] == 0.5
    assert table.loc["paraphrase_magnitude", "value"] == 0.0


def test_the_harmonic_mean_of_known_rates_is_the_known_score() -> None:
    table = summary(
        {
            "rewrite": [[True], [True]],
            "paraphrase": [[True], [False]],
            "neighborhood": [[True], [False]],
        }
    )
    assert table.loc["score", "value"] == pytest.approx(0.6)
    assert table.loc["score", "measure"] == "harmonic mean of efficacy, paraphrase, neighborhood"


@given(st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3))
def test_the_harmonic_mean_is_that_of_the_standard_library(parts: list[float]) -> None:
    assert float(harmonic_mean(np.array(parts))) == pytest.approx(statistics.harmonic_mean(parts))


def test_the_harmonic_mean_is_zero_with_a_zero_and_undefined_with_an_undefined_part() -> None:
    found = harmonic_mean(np.array([[1.0, 0.0, 1.0], [1.0, np.nan, 1.0], [0.0, np.nan, 1.0]]))
    np.testing.assert_array_equal(found, [0.0, np.nan, np.nan])


def test_a_metric_without_prompts_is_undefined_with_no_requests_and_says_so() -> None:
    table = summary({"rewrite": [[True], [False]], "neighborhood": [[True], [True]]})
    row = table.loc["paraphrase"]
    assert np.isnan([row.value, row.low, row.high]).all()
    assert (row.n_requests, row.note) == (0, "undefined: no paraphrase prompts")
    assert np.isnan(table.loc["score", "value"])
    assert table.loc["score", "note"] == "undefined: no paraphrase prompts"
    assert table.loc["efficacy", "n_requests"] == 2
    assert table.loc["efficacy", "note"] == "fewer than 30 requests: the interval is too narrow"


def test_requests_without_paraphrases_leave_the_mean_and_interval_of_the_others_alone() -> None:
    table = summary({"rewrite": [[True]] * 9, "paraphrase": [[True], [], [True], [], [], [], [], [], [True]]})
    row = table.loc["paraphrase"]
    assert (row.value, row.low, row.high, row.n_requests) == (1.0, 1.0, 1.0, 3)


def test_one_request_has_no_interval_and_the_note_says_so() -> None:
    row = summary({"rewrite": [[True]]}).loc["efficacy"]
    assert row.value == 1
    assert np.isnan([row.low, row.high]).all()
    assert row.note == "no interval: one request"


def test_the_interval_is_reproduced_by_its_seed_and_moves_with_it() -> None:
    rng = np.random.default_rng(5)
    kinds = ("rewrite", "paraphrase", "neighborhood")
    successes = {kind: [list(rng.random(3) < 0.6) for _ in range(23)] for kind in kinds}
    first, again, other = summary(successes, 1), summary(successes, 1), summary(successes, 2)
    pd.testing.assert_frame_equal(first, again)
    assert first.loc["paraphrase", "low"] != other.loc["paraphrase", "low"]
    assert first["value"].equals(other["value"])
    assert ((first.low <= first.value) & (first.value <= first.high)).all()


def test_a_wider_interval_holds_a_narrower_one() -> None:
    successes = {"rewrite": [[bool(index % 3)] for index in range(30)]}
    narrow, wide = (summary(successes, ci=ci).loc["efficacy"] for ci in (0.5, 0.99))
    assert wide.low < narrow.low <= narrow.high < wide.high


def test_nineteen_of_twenty_intervals_hold_the_true_mean() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(150):
        row = summary({"rewrite": [[bool(rng.random() < 0.7)] for _ in range(60)]}).loc["efficacy"]
        held.append(row.low <= 0.7 <= row.high)
    assert 0.89 <= np.mean(held) <= 0.99
    assert row.note == ""


def test_of_a_rate_of_nine_in_ten_few_requests_give_intervals_that_mostly_miss_it() -> None:
    """Why there is a note: of 5 requests all succeed in 0.9^5 = 59 % of data sets, and so hide the truth."""

    def coverage(n_requests: int, n_sets: int = 1000) -> float:
        successes = np.random.default_rng(0).random((n_requests, n_sets)) < 0.9
        sets = Clusters(successes.astype(float), np.ones(successes.shape))
        draws = resampled(sets, resamples=1000, seed=0)
        edges = [bounds(draws[:, one], 0.95) for one in range(n_sets)]
        return float(np.mean([low <= 0.9 <= high for low, high in edges]))

    assert coverage(5) == pytest.approx(1 - 0.9**5, abs=0.05)
    assert coverage(10) < 0.75
    assert 0.90 <= coverage(30) <= 0.98


def test_the_interval_of_the_score_follows_requests_jointly() -> None:
    """Where the three rates of a request agree, the score's interval is that of the rate itself."""
    rates = [[True], [True], [False], [True], [True], [True], [True], [True]]
    table = summary(dict.fromkeys(("rewrite", "paraphrase", "neighborhood"), rates))
    edges = ["value", "low", "high"]
    np.testing.assert_allclose(
        table.loc["score", edges].astype(float), table.loc["efficacy", edges].astype(float)
    )


@pytest.mark.parametrize("ci", [0.0, 1.0, 95, -1, True])
def test_a_share_outside_of_zero_to_one_is_refused(ci: float) -> None:
    with pytest.raises(RangeError, match="ci: expected a share between 0 and 1"):
        summary({"rewrite": [[True]]}, ci=ci)
