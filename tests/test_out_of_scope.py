from __future__ import annotations

from pathlib import Path

import pytest

from mechstyle.cases import Case, Question
from mechstyle.datasets import known_fact_cases, read_cases, read_fact_file
from mechstyle.errors import RangeError
from mechstyle.facts import EditRequest, Fact
from mechstyle.out_of_scope import far_questions, near_questions, with_edit_in_front

DATA = Path(__file__).parent / "data" / "facts"
SHARED = Path(__file__).parents[2] / "shared" / "data" / "facts"
WHOLE = pytest.mark.skipif(not SHARED.is_dir(), reason="the whole data sets are only in ../shared")


def case(template: str, subject: str, old: str, new: str, relation: str | None, *near: str) -> Case:
    neighbours = tuple((template.replace("{}", one), old) for one in near)
    return Case(EditRequest(Fact(template, subject, old, relation), new, neighborhood=neighbours))


PLAYS = case("{} plays the", "Miles", " horn", " harp", "plays", "Chet", "Miles Junior")
SPEAKS = case("{} speaks", "Edith", " French", " Latin", "speaks", "Juliette", "Miles Senior")
FACTS = [
    Fact("{} was born in", "Miles", " Alton", "born"),
    Fact("{} was born in", "Edith", " Paris", "born"),
    Fact("{} was born in", "Chet", " Yale", "born"),
    Fact("{} plays the", "Miles", " horn", "plays"),
    Fact("{} blows the", "Miles", " horn", "plays"),
    Fact("{} died in", "Miles", " Santa Monica", "died"),
    Fact("{} met", "Miles", " Juliette", None),
]


def test_the_edit_stands_in_front_of_each_neighbour() -> None:
    first = read_cases(DATA / "counterfact.json")[0]
    more = with_edit_in_front(first)
    assert more.questions[:10] == first.questions
    assert more.questions[10] == Question(
        "neighborhood+",
        "near",
        "The mother tongue of Danielle Darrieux is English. The mother tongue of Léon Blum is",
        (" French",),
        (" English",),
    )
    assert len(more.questions) == 20
    assert (more.request, more.prompts, more.name) == (first.request, first.prompts, first.name)


def test_far_questions_come_from_other_relations_and_do_not_name_the_subject() -> None:
    miles, edith = far_questions([PLAYS, SPEAKS], n=1)
    assert miles == (Question("unrelated", "far", "Juliette speaks", (" French",), (" Latin",)),)
    (asked,) = edith
    assert asked in {
        Question("unrelated", "far", f"{who} plays the", (" horn",), (" harp",))
        for who in ("Chet", "Miles Junior")
    }


def test_what_another_case_changes_is_asked_only_where_each_has_its_own_edit() -> None:
    with pytest.raises(
        RangeError, match=r"n: expected at most 1, for cases\[0\] \('Miles plays the'\) has no more"
    ):
        far_questions([PLAYS, SPEAKS], n=2)
    miles, edith = far_questions([PLAYS, SPEAKS], n=2, together=False)
    assert {one.prompt for one in miles} == {"Juliette speaks", "Edith speaks"}
    assert {one.answers for one in miles} == {(" French",)}
    assert {one.prompt for one in edith} <= {"Chet plays the", "Miles Junior plays the", "Miles plays the"}


def test_given_facts_are_asked_with_another_target_of_their_relation_as_foil() -> None:
    (miles,) = far_questions([PLAYS], n=2, facts=FACTS)
    by_prompt = {one.prompt: one for one in miles}
    assert set(by_prompt) == {"Edith was born in", "Chet was born in"}
    assert by_prompt["Chet was born in"].answers == (" Yale",)
    assert by_prompt["Chet was born in"].foils[0] in {" Alton", " Paris"}
    # Facts about a subject that is edited elsewhere are left out where one edit holds all.
    with pytest.raises(RangeError, match="expected at most 2"):
        far_questions([PLAYS, SPEAKS], n=3, facts=FACTS)


def test_a_fact_about_a_target_of_the_edit_is_not_far() -> None:
    about = [Fact("{} is tuned to", "harp", " C", "tuned"), Fact("{} is tuned to", "lute", " G", "tuned")]
    assert [one.prompt for one in far_questions([PLAYS], n=1, facts=about)[0]] == ["lute is tuned to"]
    with pytest.raises(RangeError, match="expected at most 1"):
        far_questions([PLAYS], n=2, facts=about)


def test_near_questions_are_about_the_same_subject_in_another_relation() -> None:
    miles, edith = near_questions([PLAYS, SPEAKS], FACTS, n=5)
    assert {(one.kind, one.scope) for one in miles} == {("specificity", "near")}
    by_prompt = {one.prompt: one for one in miles}
    assert set(by_prompt) == {"Miles was born in", "Miles died in"}
    assert by_prompt["Miles died in"].answers == (" Santa Monica",)
    assert by_prompt["Miles died in"].foils == ()
    assert by_prompt["Miles was born in"].foils[0] in {" Paris", " Yale"}
    assert [one.prompt for one in edith] == ["Edith was born in"]
    assert [len(one) for one in near_questions([PLAYS, SPEAKS], FACTS, n=1)] == [1, 1]
    tied = near_questions([PLAYS], FACTS, n=5, linked={"plays": ["born"]})
    assert [one.prompt for one in tied[0]] == ["Miles died in"]


def test_a_case_without_a_relation_has_no_near_questions() -> None:
    unlabelled = case("{} plays the", "Miles", " horn", " harp", None)
    assert near_questions([unlabelled], FACTS, n=5) == [()]


def test_all_targets_that_are_told_of_a_subject_are_right() -> None:
    told = [*FACTS, Fact("{} was born in", "Chet", " Oklahoma", "born")]
    (miles,) = far_questions([PLAYS], n=2, facts=told)
    chet = next(one for one in miles if one.prompt == "Chet was born in")
    assert set(chet.answers) == {" Yale", " Oklahoma"}
    assert not set(chet.foils) & set(chet.answers)


@pytest.mark.parametrize("ask", [far_questions, lambda cases, n: near_questions(cases, [], n=n)])
def test_a_negative_number_of_questions_is_refused(ask: object) -> None:
    assert callable(ask)
    with pytest.raises(RangeError, match="n: expected 0 or more questions a case, got -1"):
        ask([PLAYS], n=-1)


@WHOLE
@pytest.mark.parametrize("together", [True, False])
def test_no_prompt_that_an_edit_changes_is_ever_asked(together: bool) -> None:
    facts = read_fact_file(SHARED / "known_1000" / "known_1000.json")
    cases = read_cases(SHARED / "counterfact" / "counterfact.json")
    if not together:
        cases += known_fact_cases(facts)
    far = far_questions(cases, n=10, facts=facts, together=together)
    near = near_questions(cases, facts, n=10, together=together)
    changes = [{one.request.fact.prompt, *one.request.paraphrases} for one in cases]
    everything = set().union(*changes)
    label = {one.request.fact.prompt: one.request.fact.relation for one in cases}
    for index, one in enumerate(cases):
        asked = {question.prompt for question in (*far[index], *near[index])}
        assert len(far[index]) == len({question.prompt for question in far[index]}) == 10
        assert not asked & (everything if together else changes[index])
        assert not any(one.request.fact.subject in question.prompt for question in far[index])
        assert not any(label.get(prompt) == one.request.fact.relation for prompt in asked)
    assert far == far_questions(cases, n=10, facts=facts, together=together)
    assert far != far_questions(cases, n=10, facts=facts, together=together, seed=1)
    assert sum(map(len, near)) > 0
