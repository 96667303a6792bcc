from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechstyle.cases import SCOPES, Case, Question, Scope, cases_of, own_questions
from mechstyle.errors import TextError
from mechstyle.facts import EditRequest, Fact

REQUEST = EditRequest(
    Fact("{} plays the", "Miles", " horn"),
    " harp",
    paraphrases=("The instrument of Miles is the",),
    neighborhood=(("Chet plays the", " horn"), ("Bill plays the", " piano")),
)
QUESTION = Question(
    "two-hop", "hard in", "Miles plucks", (" strings", " a harp"), (" air",), (("A harp has", " strings"),)
)
CASE = Case(REQUEST, "7", (QUESTION,), ("Miles is", "Miles is"), ("Harps are big.",), ("Miles was born.",))

text = st.text(min_size=1, max_size=9).filter(str.strip)
texts = st.lists(text, max_size=3).map(tuple)
questions = st.builds(
    lambda kind, scope, prompt, answers, foils, requires: Question(
        kind, scope, prompt, answers, tuple(foil for foil in foils if foil not in answers), requires
    ),
    kind=text,
    scope=st.sampled_from(SCOPES),
    prompt=text,
    answers=st.lists(text, min_size=1, max_size=3).map(tuple),
    foils=texts,
    requires=st.lists(st.tuples(text, text), max_size=2).map(tuple),
)
cases = st.builds(
    Case,
    request=st.just(REQUEST),
    name=st.text(max_size=5),
    questions=st.lists(questions, max_size=3).map(tuple),
    prompts=texts,
    references=texts,
    essence=texts,
)


def question(**parts: Any) -> Question:
    whole: dict[str, Any] = {"kind": "k", "scope": "in", "prompt": "p", "answers": (" a",)}
    return Question(**whole | parts)


def test_the_scopes_are_those_of_the_lecture() -> None:
    assert SCOPES == ("in", "hard in", "near", "far")


def test_the_requests_own_prompts_are_questions_in_and_near() -> None:
    assert own_questions(REQUEST) == (
        Question("rewrite", "in", "Miles plays the", (" harp",), (" horn",)),
        Question("paraphrase", "in", "The instrument of Miles is the", (" harp",), (" horn",)),
        Question("neighborhood", "near", "Chet plays the", (" horn",), (" harp",)),
        Question("neighborhood", "near", "Bill plays the", (" piano",), (" harp",)),
    )
    assert own_questions(EditRequest(REQUEST.fact, " harp")) == own_questions(REQUEST)[:1]


def test_requests_become_bare_cases_and_cases_stay_themselves() -> None:
    made = cases_of([REQUEST, CASE])
    assert made == [Case(REQUEST), CASE]
    assert made[1] is CASE
    assert cases_of((CASE,)) == [CASE]


def test_lists_are_kept_as_tuples_and_nothing_can_be_changed() -> None:
    made = question(answers=[" a", " b"], foils=[" c"], requires=[["d", " e"]])
    assert (made.answers, made.foils, made.requires) == ((" a", " b"), (" c",), (("d", " e"),))
    case = Case(REQUEST, questions=[made], prompts=["f"], references=["g"], essence=["h"])  # type: ignore[arg-type]
    assert (case.questions, case.prompts, case.references, case.essence) == ((made,), ("f",), ("g",), ("h",))
    assert hash(case) == hash(Case(REQUEST, "", (made,), ("f",), ("g",), ("h",)))
    with pytest.raises(FrozenInstanceError):
        case.name = "x"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        made.prompt = "x"  # type: ignore[misc]


@given(case=cases)
def test_a_case_written_as_json_and_read_is_the_same(case: Case) -> None:
    assert Case.from_dict(json.loads(json.dumps(case.to_dict()))) == case


@given(asked=questions)
def test_a_question_written_as_json_and_read_is_the_same(asked: Question) -> None:
    assert Question.from_dict(json.loads(json.dumps(asked.to_dict()))) == asked


def test_the_json_form_leaves_out_what_is_empty() -> None:
    assert Case(REQUEST).to_dict() == {"request": REQUEST.to_dict()}
    assert question().to_dict() == {"kind": "k", "scope": "in", "prompt": "p", "answers": [" a"]}
    assert CASE.to_dict() == {
        "name": "7",
        "request": REQUEST.to_dict(),
        "questions": [
            {
                "kind": "two-hop",
                "scope": "hard in",
                "prompt": "Miles plucks",
                "answers": [" strings", " a harp"],
                "foils": [" air"],
                "requires": [["A harp has", " strings"]],
            }
        ],
        "prompts": ["Miles is", "Miles is"],
        "references": ["Harps are big."],
        "essence": ["Miles was born."],
    }


@pytest.mark.parametrize("scope", SCOPES)
def test_every_scope_can_be_asked(scope: Scope) -> None:
    assert question(scope=scope).scope == scope


REFUSED_QUESTIONS: list[tuple[dict[str, Any], str]] = [
    ({"kind": " "}, "Question.kind: expected text that is not blank, got ' '"),
    ({"prompt": 3}, "Question.prompt: expected text that is not blank, got 3"),
    ({"scope": "out"}, "Question.scope: expected one of in, hard in, near, far, got 'out'"),
    ({"answers": ()}, "Question.answers: expected at least one answer to 'p', got none"),
    ({"answers": " a"}, "Question.answers: expected a tuple or list, got str ' a'"),
    ({"answers": (" a", "")}, r"Question.answers\[1\]: expected text that is not blank, got ''"),
    ({"foils": {" b": 1}}, "Question.foils: expected a tuple or list, got dict"),
    ({"foils": (" b", None)}, r"Question.foils\[1\]: expected text that is not blank, got None"),
    ({"foils": (" b", " a")}, "Question.foils: ' a' is an answer to 'p' too; leave it out"),
    ({"requires": "x"}, "Question.requires: expected a tuple or list, got str 'x'"),
    ({"requires": ("ab",)}, r"Question.requires\[0\]: expected a tuple or list, got str 'ab'"),
    (
        {"requires": (("a", "b"), ("a",))},
        r"Question.requires\[1\]: expected a pair \(prompt, answer\), got \('a',\)",
    ),
    ({"requires": (("a", " "),)}, r"Question.requires\[0\]\[1\]: expected text that is not blank, got ' '"),
]


@pytest.mark.parametrize(("parts", "message"), REFUSED_QUESTIONS)
def test_a_question_that_cannot_be_asked_is_refused(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(TextError, match=message):
        question(**parts)
    written = {"kind": "k", "scope": "in", "prompt": "p", "answers": [" a"], **parts}
    with pytest.raises(TextError, match=message):
        Question.from_dict(written)


REFUSED_CASES: list[tuple[dict[str, Any], str]] = [
    ({"name": 3}, "Case.name: expected text, got int"),
    ({"questions": "x"}, "Case.questions: expected a tuple or list, got str 'x'"),
    ({"prompts": ("a", " ")}, r"Case.prompts\[1\]: expected text that is not blank, got ' '"),
    ({"references": "a"}, "Case.references: expected a tuple or list, got str 'a'"),
    ({"essence": (1,)}, r"Case.essence\[0\]: expected text that is not blank, got 1"),
]


@pytest.mark.parametrize(("parts", "message"), REFUSED_CASES)
def test_a_case_with_a_wrong_part_is_refused(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(TextError, match=message):
        Case(REQUEST, **parts)
    with pytest.raises(TextError, match=message):
        Case.from_dict({"request": REQUEST.to_dict(), **parts})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Case(REQUEST.fact), "Case.request: expected an EditRequest, got Fact"),  # type: ignore[arg-type]
        (
            lambda: Case(REQUEST, questions=(QUESTION, "x")),  # type: ignore[arg-type]
            r"Case.questions\[1\]: expected a Question, got str",
        ),
        (lambda: Case.from_dict({}), r"Case wants the keys request .*missing: request; unknown: none"),
        (
            lambda: Case.from_dict({"request": {}, "prompt": "a"}),
            r"Case wants the keys request \(and may have name, questions, prompts, references, essence\); "
            "missing: none; unknown: prompt",
        ),
        (lambda: Case.from_dict({"request": [1]}), r"Case.request: expected a JSON object, got list \[1\]"),
        (lambda: Case.from_dict({"request": {"fact": 1}}), "EditRequest wants the keys fact, new_target"),
        (
            lambda: Case.from_dict({"request": REQUEST.to_dict(), "questions": [3]}),
            r"Case.questions\[0\]: expected a JSON object, got int 3",
        ),
        (
            lambda: Question.from_dict({"kind": "k", "scope": "in", "prompt": "p", "answer": " a"}),
            r"Question wants the keys kind, scope, prompt, answers \(and may have foils, requires\); "
            "missing: answers; unknown: answer",
        ),
        (
            lambda: cases_of(REQUEST),
            r"requests: expected a list of EditRequest or Case, got one EditRequest; pass \[it",
        ),  # type: ignore[arg-type]
        (lambda: cases_of(CASE), "requests: expected a list of EditRequest or Case, got one Case"),  # type: ignore[arg-type]
        (lambda: cases_of({REQUEST}), "requests: expected a list of EditRequest or Case, got one set"),  # type: ignore[arg-type]
        (lambda: cases_of([]), "requests: expected at least one, got none"),
        (lambda: cases_of([CASE, "x"]), "Case.request: expected an EditRequest, got str"),  # type: ignore[list-item]
        (lambda: cases_of("ab"), "Case.request: expected an EditRequest, got str"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_case_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(TextError, match=message):
        make()
