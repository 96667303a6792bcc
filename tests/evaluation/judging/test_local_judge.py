"""A judge that learned from examples: scikit-learn's own pipeline, with an accuracy that can be trusted."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline, make_union

from mechstyle.errors import FileError, InputError, RangeError
from mechstyle.evaluation.judging import ClassifierJudge, Judge, judged_rate

SAMPLE = Path(__file__).parents[2] / "data" / "judging" / "genesis.jsonl"
STYLE = Path(__file__).parents[4] / "shared" / "data" / "style"
WHOLE = pytest.mark.skipif(not STYLE.is_dir(), reason="the whole corpora are only in ../shared")
ROWS = [json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()]
TEXTS = [row["text"] for row in ROWS]
LABELS = [row["label"] for row in ROWS]


@pytest.fixture(scope="module")
def judge() -> ClassifierJudge:
    return ClassifierJudge.fit(TEXTS, LABELS, seed=0, name="translations")


def pipeline() -> Pipeline:
    """The same in scikit-learn's own parts."""
    words = TfidfVectorizer(
        ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", min_df=2, sublinear_tf=True, max_features=50_000
    )
    letters = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(3, 5), min_df=2, sublinear_tf=True, max_features=50_000
    )
    return make_pipeline(make_union(words, letters), LogisticRegression(max_iter=1000))


def test_verdicts_are_those_of_the_pipeline(judge: ClassifierJudge) -> None:
    asked = [*TEXTS[::7], "And the man said unto her, Thou art fair.", "The man said, “You're right!”"]
    learned = pipeline().fit(TEXTS, LABELS)
    expected = learned.predict_proba(asked)
    np.testing.assert_allclose(judge.probabilities(asked), expected, atol=1e-9)
    verdicts = judge.judge(asked)
    assert [one.label for one in verdicts] == learned.predict(asked).tolist()
    assert [one.score for one in verdicts] == pytest.approx(expected.max(1))
    assert isinstance(judge, Judge)


def test_three_labels_are_learned_as_the_pipeline_does() -> None:
    texts = [*TEXTS[::3], *(text.upper() for text in TEXTS[:20])]
    labels = [*LABELS[::3], *["other"] * 20]
    third = ClassifierJudge._learn(texts, labels, 1.0)
    assert third.labels == ("kjv", "other", "web")
    np.testing.assert_allclose(
        third.probabilities(texts[::5]), pipeline().fit(texts, labels).predict_proba(texts[::5]), atol=1e-9
    )


def test_the_accuracy_is_that_of_held_out_folds(judge: ClassifierJudge) -> None:
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    said = cross_val_predict(pipeline(), TEXTS, LABELS, cv=folds)
    accuracy = judge.accuracy
    assert accuracy is not None
    assert accuracy.share.value == pytest.approx(np.mean(said == np.array(LABELS)))
    true_web = np.array(LABELS) == "web"
    assert accuracy.sensitivity("web").value == pytest.approx(np.mean(said[true_web] == "web"))
    assert accuracy.specificity("web").value == pytest.approx(np.mean(said[~true_web] == "kjv"))
    assert (accuracy.n, accuracy.how) == (120, "cross-validation, 5 folds, seed 0")


def test_what_it_learned_from_flatters_it(judge: ClassifierJudge) -> None:
    assert judge.accuracy is not None
    seen = judge.measured_on(TEXTS, LABELS).accuracy
    assert seen is not None
    assert seen.share.value > judge.accuracy.share.value


def test_labels_that_mean_nothing_are_found_out_by_cross_validation() -> None:
    labels = np.random.default_rng(0).permutation(LABELS).tolist()
    accuracy = ClassifierJudge.fit(TEXTS, labels, seed=0).accuracy
    assert accuracy is not None
    assert accuracy.share.low < 0.5 < accuracy.share.high


@pytest.mark.parametrize("named", [True, False])
def test_copies_of_a_text_do_not_help_to_judge_it(named: bool) -> None:
    labels = np.random.default_rng(1).permutation(LABELS).tolist()
    copies = TEXTS if named else [text.upper() for text in TEXTS]
    groups = [index % len(TEXTS) for index in range(2 * len(TEXTS))] if named else None
    accuracy = ClassifierJudge.fit([*TEXTS, *copies], labels * 2, seed=0, folds=3, groups=groups).accuracy
    assert accuracy is not None
    assert accuracy.share.low < 0.5 < accuracy.share.high, "a copy in another fold would give it away"
    assert accuracy.design > 1.5
    assert accuracy.how.endswith("by group") == named


def test_a_saved_judge_says_the_same_and_the_file_holds_no_code(
    judge: ClassifierJudge, tmp_path: Path
) -> None:
    path = judge.save(tmp_path / "judge.safetensors")
    loaded = ClassifierJudge.load(path)
    assert loaded.judge(TEXTS) == judge.judge(TEXTS)
    assert loaded.settings() == judge.settings()
    assert loaded.accuracy == judge.accuracy
    assert b"pickle" not in path.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["judge.safetensors"]


def test_a_changed_or_foreign_file_is_refused(judge: ClassifierJudge, tmp_path: Path) -> None:
    path = judge.save(tmp_path / "judge.safetensors")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileError, match="its contents do not match its own hash"):
        ClassifierJudge.load(path)
    with pytest.raises(FileError, match="expected a file there"):
        ClassifierJudge.load(tmp_path / "none")


def test_the_same_seed_learns_the_same_judge(judge: ClassifierJudge) -> None:
    again = ClassifierJudge.fit(TEXTS, LABELS, seed=0, name="translations")
    assert np.array_equal(again.weights, judge.weights)
    assert again.settings() == judge.settings()


def test_judges_that_learned_something_else_are_told_apart() -> None:
    texts, labels = TEXTS[:20] + TEXTS[-20:], ["a", "b"] * 20
    first, swapped = (ClassifierJudge.fit(texts, some, seed=0) for some in (labels, ["b", "a"] * 20))
    assert first.settings()["fitted_on"] == swapped.settings()["fitted_on"]
    assert first.settings()["learned"] != swapped.settings()["learned"]
    for changed in (
        {"labels": ("a", "c")},
        {"bias": first.bias + 1e-9},
        {"ngrams": tuple(replace(one, idf=one.idf * 2) for one in first.ngrams)},
    ):
        assert replace(first, **changed).settings()["learned"] != first.settings()["learned"]
    assert replace(first, name="same").settings()["learned"] == first.settings()["learned"]


def test_a_text_without_a_known_word_or_letter_is_unjudged(judge: ClassifierJudge) -> None:
    verdicts = judge.judge(["", "  ", "ЖЖЖЖЖ", "And unto him"])
    assert [one.label for one in verdicts] == [None, None, None, "kjv"]
    assert judged_rate(judge, ["", "And unto him"], "kjv").unjudged == 1
    assert judge.judge([]) == []


@pytest.mark.parametrize(
    ("texts", "labels", "given", "said"),
    [
        (["a b"] * 4, ["x"] * 4, {}, r"labels: expected at least two different ones, got \['x'\]"),
        (["a b"] * 4, ["x", "y"], {}, "labels: expected one for each of the 4 texts, got 2"),
        (["a", " "], ["x", "y"], {}, r"texts\[1\]: expected text that is not blank, got ' '"),
        ("ab", ["x", "y"], {}, "texts: expected a list of texts, got str"),
        (
            TEXTS[:60],
            ["x"] * 56 + ["y"] * 4,
            {},
            "needs at least 5 different texts, one .*'y' has 4; give more",
        ),
        (["a b"] * 9 + ["b c"] * 9, ["x"] * 9 + ["y"] * 9, {}, "needs at least 5 different texts.*'x' has 1"),
        (TEXTS, LABELS, {"groups": [0] * 120}, "needs at least 5 groups, one a fold, but 'kjv' has 1"),
        (TEXTS, LABELS, {"groups": [0]}, "groups: expected one for each of the 120 texts, got 1"),
    ],
)
def test_what_nothing_can_be_learned_from_is_refused(
    texts: list[str], labels: list[str], given: dict[str, list[int]], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        ClassifierJudge.fit(texts, labels, seed=0, groups=given.get("groups"))


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(RangeError, match="folds: expected a whole number from 2 on, got 1"):
        ClassifierJudge.fit(TEXTS, LABELS, seed=0, folds=1)
    with pytest.raises(RangeError, match="strength: expected a number above 0, got 0"):
        ClassifierJudge.fit(TEXTS, LABELS, seed=0, strength=0)


def lines(name: str) -> list[str]:
    """The sentences of a file that are not blank."""
    return [
        line.strip() for line in (STYLE / name).read_text(encoding="latin-1").splitlines() if line.strip()
    ]


def sentences(name: str) -> list[str]:
    text = " ".join((STYLE / name).read_text(encoding="latin-1").split())
    return [one for one in re.split(r"(?<=[.?!])[\"']?\s+", text) if one.strip()]


@WHOLE
@pytest.mark.slow
@pytest.mark.parametrize(
    ("no", "yes", "low", "high"),
    [
        ("sentence_polarity/rt-polarity.neg", "sentence_polarity/rt-polarity.pos", 0.76, 0.81),
        ("subjectivity/plot.tok.gt9.5000", "subjectivity/quote.tok.gt9.5000", 0.90, 0.94),
    ],
)
def test_sentiment_and_subjectivity_are_judged_as_well_as_linear_models_do(
    no: str, yes: str, low: float, high: float
) -> None:
    texts, other = lines(no), lines(yes)
    judge = ClassifierJudge.fit([*texts, *other], ["no"] * len(texts) + ["yes"] * len(other), seed=0, folds=3)
    assert judge.accuracy is not None
    assert low < judge.accuracy.share.low < judge.accuracy.share.high < high


@WHOLE
@pytest.mark.slow
def test_two_translations_are_told_apart_on_passages_that_neither_was_learned_from() -> None:
    """Both translations of a passage are in one group, so that what it is about gives nothing away."""
    both = [sentences(f"genesis/english-{name}.txt") for name in ("kjv", "web")]
    texts = [text for part in both for text in part]
    labels = ["kjv"] * len(both[0]) + ["web"] * len(both[1])
    groups = [40 * index // len(part) for part in both for index in range(len(part))]
    accuracy = ClassifierJudge.fit(texts, labels, seed=0, groups=groups).accuracy
    assert accuracy is not None
    assert accuracy.share.low > 0.85 > accuracy.baseline + 0.2
