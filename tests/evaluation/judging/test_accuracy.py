"""How often a judge is right: counts, intervals, and texts that come in groups."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from mechstyle.errors import InputError, RangeError
from mechstyle.evaluation.judging import Accuracy, Judged, RuleJudge, measure_accuracy
from mechstyle.evaluation.judging.accuracy import tally, wilson

LABELS = ("no", "yes")
COUNTED = Accuracy(LABELS, ((8, 2, 1), (1, 9, 3)), "by hand")
"""Of 11 texts that are "no", 8 were called so, 2 "yes", and 1 was not judged."""


@given(st.integers(1, 400), st.data())
def test_the_interval_of_a_share_is_wilsons(n: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, n))
    share = wilson(count, n, ci=0.9)
    other = binomtest(count, n).proportion_ci(0.9, method="wilson")
    assert share[1:3] == pytest.approx((other.low, other.high), abs=1e-12)
    assert share.low <= share.value == count / n <= share.high


def test_figures_are_those_of_a_table_counted_by_hand() -> None:
    assert COUNTED.n == 24
    assert COUNTED.unjudged == 4
    assert COUNTED.share.value == 17 / 24, "what was not judged counts as wrong"
    assert COUNTED.baseline == 13 / 24
    assert COUNTED.sensitivity("yes")[::3] == (9 / 10, 10), "of the judged ones"
    assert COUNTED.specificity("yes")[::3] == (8 / 10, 10)
    assert COUNTED.sensitivity("no") == COUNTED.specificity("yes")


def test_three_labels_are_one_against_the_others() -> None:
    three = Accuracy(("a", "b", "c"), ((5, 1, 0, 0), (2, 6, 2, 0), (0, 0, 4, 0)), "by hand")
    assert three.share.value == 15 / 20
    assert three.sensitivity("b").value == 6 / 10
    assert three.specificity("b").value == 9 / 10
    assert three.specificity("a").value == 12 / 14


def test_it_is_told_and_written_with_its_interval_and_number() -> None:
    assert str(COUNTED) == "right on 70.8% [50.8%, 85.1%] of 24 texts (by hand)"
    written = json.loads(json.dumps(COUNTED.to_dict(), allow_nan=False))
    assert written["accuracy"]["n"] == 24
    assert Accuracy.from_dict(written) == COUNTED


def test_a_label_that_no_text_has_has_no_sensitivity() -> None:
    one_sided = Accuracy(LABELS, ((0, 0, 0), (1, 9, 0)), "by hand")
    assert math.isnan(one_sided.sensitivity("no").value)
    assert one_sided.to_dict()["sensitivity"]["no"] == {"value": None, "low": None, "high": None, "n": 0}


def test_pairs_that_are_always_judged_alike_count_as_one_text() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(200) < 0.7
    said = ["yes" if one else "no" for one in np.repeat(right, 2)]
    pairs = tally(said, ["yes"] * 400, LABELS, how="pairs", groups=[index // 2 for index in range(400)])
    assert pairs.design == pytest.approx(2)
    once = wilson(int(right.sum()), 200)
    assert pairs.share[:3] == pytest.approx(once[:3])
    assert tally(said, ["yes"] * 400, LABELS, how="apart").share.low > once.low


def test_groups_that_mean_nothing_hardly_change_the_interval() -> None:
    rng = np.random.default_rng(1)
    said = ["yes" if one else "no" for one in rng.random(2000) < 0.7]
    groups = [index // 4 for index in range(2000)]
    assert tally(said, ["yes"] * 2000, LABELS, how="", groups=groups).design < 1.1


def test_a_judge_is_measured_by_its_verdicts() -> None:
    judge = RuleJudge("loud", {"loud": "!", "quiet": r"\.\.\."}, otherwise=None)
    texts = ["Go!", "hush...", "Go", Judged("hush...")]
    accuracy = measure_accuracy(judge, texts, ["loud", "loud", "loud", "quiet"])
    assert accuracy.counts == ((1, 1, 1), (0, 1, 0))
    assert accuracy.how == "4 labelled texts"


@pytest.mark.parametrize(
    ("texts", "labels", "said"),
    [
        (["a"], ["red"], r"labels\[0\]: expected a label of the judge \(loud, neither\), got 'red'"),
        (["a", "b"], ["loud"], "labels: expected one for each text, at least one, got 1 for 2 texts"),
        ([], [], "labels: expected one for each text, at least one, got 0 for 0 texts"),
        ("a", ["loud"], "texts: expected a list of texts or of Judged, got one str"),
        ([3], ["loud"], r"texts\[0\]: expected a text or a Judged, got int"),
    ],
)
def test_what_cannot_be_measured_is_refused(texts: list[str], labels: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        measure_accuracy(RuleJudge("loud", {"loud": "!"}), texts, labels)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(InputError, match=r"Accuracy.counts: expected 2 rows of 3 numbers"):
        Accuracy(LABELS, ((1, 2), (3, 4)), "")
    with pytest.raises(InputError, match="expected numbers of texts, not only 0"):
        Accuracy(LABELS, ((0, 0, 0), (0, 0, 0)), "")
    with pytest.raises(RangeError, match="Accuracy.design: expected 1 or more, got 0.5"):
        Accuracy(LABELS, COUNTED.counts, "", design=0.5)
    with pytest.raises(RangeError, match="ci: expected a share between 0 and 1"):
        wilson(1, 2, ci=95)
    with pytest.raises(InputError, match="Accuracy: expected what to_dict wrote"):
        Accuracy.from_dict({"labels": []})
    with pytest.raises(InputError, match="label: expected one of no, yes, got 'maybe'"):
        COUNTED.sensitivity("maybe")
    with pytest.raises(InputError, match="said: expected the judge's own, no, yes, got 'maybe'"):
        tally(["maybe"], ["yes"], LABELS, how="")
