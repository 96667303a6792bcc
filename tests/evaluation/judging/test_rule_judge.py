"""Judges by rules: which target a text says, and detectors of labels."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechstyle.errors import InputError, RangeError, TextError
from mechstyle.evaluation.judging import Judge, Judged, RuleJudge, TargetJudge
from mechstyle.evaluation.judging.rule_judge import labelled_targets

WORDS = ("guitar", "trumpet", "guitars", "a", "the", "Guitar", "New", "York", "trumpets")


def says(text: str, *, new: str = " guitar", true: str = " trumpet", judge: TargetJudge) -> str | None:
    (verdict,) = judge.judge([Judged(text, new=new, true=true)])
    assert verdict.score == 1
    return verdict.label


START, ANYWHERE = TargetJudge(), TargetJudge("anywhere")


@pytest.mark.parametrize(
    ("text", "at_start", "anywhere"),
    [
        (" guitar.", "new", "new"),
        ("guitar", "new", "new"),
        ('\n "guitar"', "new", "new"),
        (" trumpet, not the guitar", "true", "both"),
        (" the guitar", "neither", "new"),
        (" guitars", "neither", "neither"),
        (" bass-guitar", "neither", "new"),
        (" Guitar", "neither", "neither"),
        (" guitar2", "neither", "neither"),
        ("", "neither", "neither"),
        (" not a word of it", "neither", "neither"),
    ],
)
def test_a_target_is_said_where_it_stands_as_a_word(text: str, at_start: str, anywhere: str) -> None:
    assert says(text, judge=START) == at_start
    assert says(text, judge=ANYWHERE) == anywhere


@pytest.mark.parametrize("judge", [START, ANYWHERE])
@pytest.mark.parametrize(
    ("text", "expected"),
    [(" New York", "true"), (" New", "new"), (" New Yorkers", "new"), (" New\n  York", "true")],
)
def test_a_target_that_begins_the_other_is_not_said_by_it(
    text: str, expected: str, judge: TargetJudge
) -> None:
    assert says(text, new=" New", true=" New York", judge=judge) == expected
    swapped = {"true": "new", "new": "true"}[expected]
    assert says(text, new=" New York", true=" New", judge=judge) == swapped


def test_a_target_inside_the_other_is_said_only_outside_of_it() -> None:
    assert says(" from New York", new=" York", true=" New York", judge=ANYWHERE) == "true"
    assert says(" from York to New York", new=" York", true=" New York", judge=ANYWHERE) == "both"


def test_targets_with_signs_are_taken_as_they_are() -> None:
    assert says(" U.S. dollars", new=" U.S.", true=" UK", judge=START) == "new"
    assert says(" UxSx dollars", new=" U.S.", true=" UK", judge=START) == "neither"


def test_case_is_ignored_when_asked() -> None:
    assert says(" GUITAR", judge=TargetJudge(ignore_case=True)) == "new"


@given(st.lists(st.sampled_from(WORDS), max_size=6))
def test_single_words_are_found_as_a_split_at_spaces_finds_them(words: list[str]) -> None:
    text = " ".join(words)
    new, true = "guitar" in words, "trumpet" in words
    expected = "both" if new and true else "new" if new else "true" if true else "neither"
    assert says(text, judge=ANYWHERE) == expected
    first = {"guitar": "new", "trumpet": "true"}.get(words[0], "neither") if words else "neither"
    assert says(text, judge=START) == first


def test_the_labelled_targets_are_judged_as_often_right_as_the_docs_say() -> None:
    texts, labels = labelled_targets()
    assert len(texts) == len(labels) == 125
    assert len({(one.text, one.prompt) for one in texts}) == 125
    for judge, right in ((START, 82), (ANYWHERE, 98)):
        measured = judge.measured_on(texts, labels)
        assert measured.accuracy is not None
        assert round(measured.accuracy.share.value * 125) == right
        assert measured.accuracy.share.low > measured.accuracy.baseline == 44 / 125
        assert (measured.where, judge.accuracy) == (judge.where, None)


def test_the_rule_of_the_start_never_gives_the_wrong_one_of_two_targets() -> None:
    accuracy = START.measured_on(*labelled_targets()).accuracy
    assert accuracy is not None
    (new, true), (of_new, of_true) = (accuracy.labels[:2], accuracy.counts[:2])
    assert (new, true, of_new[1], of_true[0]) == ("new", "true", 0, 0)


@pytest.mark.parametrize("judge", [START, RuleJudge("old", {"old": "thou"})])
def test_rules_are_judges_with_settings_in_json(judge: Judge) -> None:
    assert isinstance(judge, Judge)
    assert json.loads(json.dumps(judge.settings()))["accuracy"] is None


def test_a_text_without_targets_cannot_be_asked_for_them() -> None:
    with pytest.raises(
        TextError, match=r"texts\[1\]: the rules ask which target it says; pass Judged\(text, new="
    ):
        START.judge([Judged("a", new="a", true="b"), "b"])
    with pytest.raises(TextError, match="Judged.new: expected text that is not blank, or None, got ' '"):
        Judged("a", new=" ", true="b")
    with pytest.raises(InputError, match="where: expected 'start' or 'anywhere', got 'end'"):
        TargetJudge("end")  # type: ignore[arg-type]


def shouting(text: str) -> float:
    """The share of capitals."""
    return sum(map(str.isupper, text)) / len(text) if text else 0.0


MANNERS = RuleJudge("manners", {"loud": shouting, "old": r"\b(thou|hath)\b"}, otherwise="plain")


def test_the_strongest_detector_gives_the_label() -> None:
    verdicts = MANNERS.judge(["ABcd", "and he hath", "HEY thou", "so", ""])
    assert [(one.label, one.score) for one in verdicts] == [
        ("loud", 0.5), ("old", 1.0), ("old", 1.0), ("plain", 1.0), ("plain", 1.0)
    ]  # fmt: skip
    assert MANNERS.labels == ("loud", "old", "plain")


def test_two_detectors_that_are_equally_sure_leave_a_text_unjudged() -> None:
    judge = RuleJudge("two", {"a": "a", "b": "b"}, otherwise=None)
    assert [one.label for one in judge.judge(["a", "b", "ab", "c"])] == ["a", "b", None, None]


def test_detectors_are_measured_as_any_judge() -> None:
    measured = MANNERS.measured_on(["HEY", "thou", "so", "THAT"], ["loud", "old", "plain", "plain"])
    assert measured.accuracy is not None
    assert measured.accuracy.share.value == 0.75
    told = measured.settings()["detectors"]
    assert told["loud"].startswith(f"{__name__}.shouting (code ")
    assert told["old"] == r"\b(thou|hath)\b"


def always(strength: float) -> RuleJudge:
    def detector(text: str) -> float:
        return strength

    return RuleJudge("always", {"yes": detector}, otherwise="no")


def test_detectors_of_one_name_that_say_something_else_are_told_apart() -> None:
    assert always(1.0).settings() == always(1.0).settings()
    assert always(1.0).settings() != always(0.0).settings()
    first, other = (RuleJudge("old", {"old": words}) for words in ("thou", "hath"))
    assert first.settings() != other.settings()


def test_a_detector_whose_content_nobody_can_see_is_refused_at_once() -> None:
    unseen = iter([1.0])

    def detector(text: str) -> float:
        return next(unseen)

    with pytest.raises(
        InputError,
        match=r"detectors\['a'\]: a judge is kept apart .* cannot be told here: .*list_iter.*named function",
    ):
        RuleJudge("unseen", {"a": detector})


def test_detectors_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"detectors\['a'\]: no regular expression: .*; mend it"):
        RuleJudge("bad", {"a": "("})
    with pytest.raises(
        InputError, match=r"detectors\['a'\]: expected a function of a text or a regular expr"
    ):
        RuleJudge("bad", {"a": 3})  # type: ignore[dict-item]
    with pytest.raises(InputError, match="detectors: expected a mapping label -> detector"):
        RuleJudge("bad", {})
    with pytest.raises(InputError, match="otherwise: 'a' has a detector of its own"):
        RuleJudge("bad", {"a": "a"}, otherwise="a")
    with pytest.raises(
        RangeError, match=r"detectors\['a'\]: expected a strength from 0 to 1, got 4.0 for 'four'"
    ):
        RuleJudge("bad", {"a": len}).judge(["four"])
