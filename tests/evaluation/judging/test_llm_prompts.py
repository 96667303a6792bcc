"""The files with questions, how they are filled, and how answers are read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechstyle.errors import InputError
from mechstyle.evaluation.judging import Judged
from mechstyle.evaluation.judging.llm_prompts import JudgePrompt, read_answer, read_prompt

LABELS = ("new", "true", "both", "neither")


@given(st.text(), st.text())
def test_sampled_text_stands_in_the_question_as_it_is(text: str, prompt: str) -> None:
    question = JudgePrompt("own", "a {prompt} b {text} c {{x}} {other} {labels}", LABELS)
    filled = question.filled(0, Judged(text, prompt))
    assert filled == f"a {prompt} b {text} c {{{{x}}}} {{other}} new, true, both, neither"


def test_a_text_that_names_a_place_is_not_filled_itself() -> None:
    question = read_prompt("edit_success")
    filled = question.filled(0, Judged("{new} {true} {labels} {0} %s", "{text}", new="{true}", true="no"))
    assert "<text>{new} {true} {labels} {0} %s</text>" in filled
    assert "<prompt>{text}</prompt>" in filled
    assert "<new>{true}</new>" in filled


@pytest.mark.parametrize("labels", [("yes", "no"), ("formal", "plain", "archaic")])
def test_the_question_of_style_asks_for_the_labels_of_the_caller(labels: tuple[str, ...]) -> None:
    question = read_prompt("style", labels)
    assert question.labels == labels
    assert ", ".join(labels) in question.filled(0, Judged("Verily."))


def test_a_file_of_ones_own_may_name_its_labels(tmp_path: Path) -> None:
    path = tmp_path / "rude.txt"
    path.write_text("labels: rude, polite\nIs this rude? {text}\n", encoding="utf-8")
    question = read_prompt(path)
    assert (question.name, question.labels) == ("rude.txt", ("rude", "polite"))
    assert question.filled(0, Judged("Go!")) == "Is this rude? Go!"
    assert read_prompt(str(path), ("a", "b")).labels == ("a", "b")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("Is it? {text}", "labels: expected two or more different ones"),
        ("labels: yes\nIs it? {text}", "begin the file with a line 'labels: yes, no'"),
        ("labels: yes, yes\nIs it? {text}", "labels: expected two or more different ones"),
        ("labels: yes, \nIs it? {text}", "labels: expected two or more different ones"),
        ("labels: yes, no\nIs it?", r"has no place for what is judged; put \{text\} there"),
    ],
)
def test_a_file_that_is_no_question_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "own.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=said):
        read_prompt(path)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"label": "new", "score": 0.9}', ("new", 0.9)),
        ('```json\n{"label": "both", "score": 1}\n```', ("both", 1.0)),
        ('{"label": "new"}', ("new", None)),
        ('{"label": "new", "score": 7}', ("new", None)),
        ('{"label": "new", "score": true}', ("new", None)),
        ('{"label": "new", "score": NaN}', ("new", None)),
        (" neither. ", ("neither", None)),
        ('"true"', ("true", None)),
        ("New", (None, None)),
        ("not new", (None, None)),
        ("new or true", (None, None)),
        ('{"label": "new"} or {"label": "true"}', (None, None)),
        ('{"label": ["new"]}', (None, None)),
        ('{"verdict": "new"}', (None, None)),
        ("}{", (None, None)),
        ("", (None, None)),
    ],
)
def test_only_a_label_that_is_named_plainly_counts(
    answer: str, expected: tuple[str | None, float | None]
) -> None:
    assert read_answer(answer, LABELS) == expected


@given(st.text())
def test_no_answer_breaks_the_reader_or_gives_a_label_that_is_not_in_it(answer: str) -> None:
    label, score = read_answer(answer, LABELS)
    assert label is None or label in answer
    assert score is None or 0 <= score <= 1
