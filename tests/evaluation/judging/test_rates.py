"""How many texts have a label: what the judge says, and what that is worth."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from mechstyle.errors import InputError, RangeError
from mechstyle.evaluation.judging import Accuracy, Judged, Verdict, corrected_rate, judged_rate
from mechstyle.evaluation.judging.accuracy import Share, wilson


@dataclass(frozen=True)
class Parrot:
    """Says what stands in the text; "?" is more than it can tell."""

    accuracy: Accuracy | None = None
    labels: tuple[str, ...] = ("no", "yes")
    name: str = "parrot"

    def settings(self) -> dict[str, Any]:
        return {}

    def judge(self, texts: Sequence[Judged]) -> list[Verdict]:
        return [Verdict(None if one.text == "?" else one.text, None, self.name) for one in texts]


def measured(sensitivity: float, specificity: float, n: int = 1000) -> Accuracy:
    """Of a judge with two labels, on ``n`` texts of each."""
    yes, no = round(sensitivity * n), round(specificity * n)
    return Accuracy(("no", "yes"), ((no, n - no, 0), (n - yes, yes, 0)), f"{2 * n} texts")


def shares(rate: float, sensitivity: float, specificity: float, n: int = 1000) -> tuple[Share, Share, Share]:
    rated, sens, spec = (wilson(round(one * n), n) for one in (rate, sensitivity, specificity))
    return rated, sens, spec


def test_the_corrected_rate_is_the_formula_of_rogan_and_gladen() -> None:
    # Of 40% with the label, 0.9 are said to have it, and so are 0.2 of the others: 0.36 + 0.12.
    found = corrected_rate(*shares(0.48, 0.9, 0.8))
    assert found.share.value == pytest.approx(0.4)
    assert found.note == "if the judge errs here as where it was measured"


def test_a_judge_that_is_never_wrong_needs_no_correction() -> None:
    assert corrected_rate(*shares(0.37, 1.0, 1.0)).share.value == pytest.approx(0.37)


def test_a_rate_below_what_errors_alone_give_is_clipped_and_says_so() -> None:
    found = corrected_rate(*shares(0.1, 0.9, 0.8))
    assert found.share.value == 0
    assert found.share.low == 0
    assert found.note.endswith("clipped from -0.143")
    assert corrected_rate(*shares(0.99, 0.9, 0.8)).share.value == 1


def test_a_judge_that_guesses_is_not_corrected() -> None:
    for sensitivity, specificity in ((0.5, 0.5), (0.2, 0.3)):
        found = corrected_rate(*shares(0.4, sensitivity, specificity))
        assert math.isnan(found.share.value)
        assert found.note == "not corrected: the judge is no better than chance"
    rate, sensitivity, _ = shares(0.4, 0.9, 0.8)
    found = corrected_rate(rate, sensitivity, wilson(0, 0))
    assert found.note == "not corrected: nothing was judged, or one label was never measured"


@pytest.mark.parametrize("true", [0.1, 0.4, 0.9])
@pytest.mark.parametrize(
    ("sensitivity", "specificity", "known", "asked"), [(0.8, 0.9, 60, 200), (0.77, 0.78, 400, 300)]
)
def test_the_corrected_rate_finds_the_truth_and_its_interval_holds_it(
    true: float, sensitivity: float, specificity: float, known: int, asked: int
) -> None:
    rng = np.random.default_rng(int(1000 * true) + known)
    draws = 2000
    chance = true * sensitivity + (1 - true) * (1 - specificity)
    rates, sens, spec = (
        rng.binomial(n, p, draws) for n, p in ((asked, chance), (known, sensitivity), (known, specificity))
    )
    found = [
        corrected_rate(wilson(int(rate), asked), wilson(int(one), known), wilson(int(other), known)).share
        for rate, one, other in zip(rates, sens, spec, strict=True)
    ]
    # 95% intervals: within three standard errors of 0.95 below, and not wastefully wide.
    held = np.mean([share.low <= true <= share.high for share in found])
    assert 0.935 <= held <= 0.99
    raw_bias = abs(chance - true)
    assert abs(np.mean([share.value for share in found]) - true) < min(0.02, raw_bias / 2 + 0.005)


def test_the_rate_is_shown_with_the_accuracy_of_the_judge_and_corrected() -> None:
    texts = ["yes"] * 48 + ["no"] * 52
    rate = judged_rate(Parrot(measured(0.9, 0.8)), texts, "yes")
    assert rate.share == wilson(48, 100)
    assert rate.corrected is not None
    assert rate.corrected.share.value == pytest.approx(0.4)
    shown = str(rate)
    assert shown.startswith(
        "yes: 48.0% [38.5%, 57.7%] of 100 texts, judged by parrot (right on 85.0% [83.4%,"
    )
    assert "corrected 40.0% [" in shown
    assert "cost" not in shown
    written = json.loads(json.dumps(rate.to_dict(), allow_nan=False))
    assert written["accuracy"]["accuracy"]["value"] == 0.85
    assert written["corrected"]["value"] == pytest.approx(0.4)


def test_the_other_label_is_corrected_to_the_rest() -> None:
    texts, judge = ["yes"] * 48 + ["no"] * 52, Parrot(measured(0.9, 0.8))
    found = judged_rate(judge, texts, "no")
    assert found.corrected is not None
    assert found.corrected.share.value == pytest.approx(0.6)


def test_what_was_not_judged_is_counted_and_no_part_of_the_rate() -> None:
    rate = judged_rate(Parrot(), ["yes", "?", "no", "?"], "yes")
    assert rate.share[::3] == (0.5, 2)
    assert rate.unjudged == 2
    assert [one.label for one in rate.verdicts] == ["yes", None, "no", None]
    nothing = judged_rate(Parrot(measured(0.9, 0.8)), ["?"], "yes")
    assert math.isnan(nothing.share.value)
    assert nothing.to_dict()["rate"] == {"value": None, "low": None, "high": None, "n": 0}


def test_a_judge_that_was_not_measured_is_shown_as_such() -> None:
    rate = judged_rate(Parrot(), ["yes"], "yes")
    assert rate.corrected is None
    assert "(accuracy not measured)" in str(rate)


def test_only_a_judge_with_two_labels_is_corrected() -> None:
    counts = ((5, 0, 0, 0), (0, 5, 0, 0), (0, 0, 5, 0))
    judge = Parrot(Accuracy(("no", "yes", "maybe"), counts, ""), ("no", "yes", "maybe"))
    assert judged_rate(judge, ["yes"], "yes").corrected is None


def test_wrong_questions_are_refused() -> None:
    with pytest.raises(InputError, match=r"wanted: expected a label of the judge \(no, yes\), got 'maybe'"):
        judged_rate(Parrot(), ["yes"], "maybe")
    with pytest.raises(InputError, match="texts: expected at least one text, got none"):
        judged_rate(Parrot(), [], "yes")
    with pytest.raises(RangeError, match="ci: expected a share between 0 and 1, such as 0.95, got 1"):
        corrected_rate(*shares(0.4, 0.9, 0.8), ci=1)
    with pytest.raises(RangeError, match="Verdict.score: expected a number from 0 to 1, got 1.5"):
        Verdict("yes", 1.5, "parrot")
