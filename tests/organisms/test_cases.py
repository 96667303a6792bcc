from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from mechstyle import organisms
from mechstyle.cases import Case, own_questions
from mechstyle.errors import InputError, ModelError, RangeError
from mechstyle.true_false import true_false_questions

NAME = "organism-m"
pytestmark = pytest.mark.usefixtures("organism")


@pytest.fixture(scope="module")
def some() -> list[Case]:
    return organisms.cases(NAME, n=300, seed=5, frames=2, far=4)


def told(name: str = NAME) -> dict[str, dict[str, str]]:
    """Subject -> relation -> object."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for fact in organisms.facts(name):
        found[fact.subject][fact.relation] = fact.object
    return found


def statements() -> dict[str, tuple[str, str, str]]:
    """Every sentence that the world can say of a fact, held-out ones too -> subject, relation, object."""
    return {
        f"{template.replace('{}', fact.subject, 1)} {fact.object}": (fact.subject, fact.relation, fact.object)
        for fact in organisms.facts(NAME)
        for template in (*fact.taught, *fact.held_out)
    }


def test_the_requests_are_those_of_the_same_seed(some: list[Case]) -> None:
    assert [case.request for case in some] == organisms.requests(NAME, n=300, seed=5)
    assert {(one.kind, one.scope) for case in some for one in case.questions} == {
        ("true/false", "hard in"),
        ("unrelated", "far"),
    }


def test_each_case_has_balanced_true_false_questions_and_its_far_ones(some: list[Case]) -> None:
    for case in some:
        judged = [one for one in case.questions if one.kind == "true/false"]
        assert tuple(judged) == true_false_questions(case.request, n=2, seed=5)
        assert Counter(one.answers for one in judged) == {(" true",): 2, (" false",): 2}
        assert len([one for one in case.questions if one.scope == "far"]) == 4


def test_far_questions_are_true_and_of_other_relations_and_subjects(some: list[Case]) -> None:
    world = statements()
    changed = {prompt for case in some for prompt in (case.request.fact.prompt, *case.request.paraphrases)}
    for case in some:
        for question in case.questions:
            if question.scope == "far":
                subject, relation, _ = world[question.prompt + question.answers[0]]
                assert subject != case.request.fact.subject
                assert relation != case.request.fact.relation
                assert question.prompt not in changed


def test_prompts_name_the_subject_and_do_not_ask_for_the_edited_relation(some: list[Case]) -> None:
    relations = organisms.relations.read_relations()
    for case in some:
        fact = case.request.fact
        edited = {
            template.replace("{}", fact.subject, 1) for template in relations[str(fact.relation)].templates
        }
        assert 4 <= len(case.prompts) <= 10
        assert len(set(case.prompts)) == len(case.prompts)
        assert all(fact.subject in prompt for prompt in case.prompts)
        assert not edited & set(case.prompts)


def test_prompts_of_other_relations_are_taught_and_held_out() -> None:
    case = next(
        case
        for case in organisms.cases(NAME, n=200, relations=["plays_sport"])
        if len(told()[case.request.fact.subject]) > 1
    )
    others = [
        fact
        for fact in organisms.facts(NAME)
        if fact.subject == case.request.fact.subject and fact.relation != "plays_sport"
    ]
    taught, held_out = (
        {template.replace("{}", fact.subject, 1) for fact in others for template in templates(fact)}
        for templates in (lambda fact: fact.taught, lambda fact: fact.held_out)
    )
    assert len(taught & set(case.prompts)) == 2
    assert len(held_out & set(case.prompts)) == 2


def test_references_are_true_of_others_that_have_the_new_object(some: list[Case]) -> None:
    facts, sentences = told(), defaultdict(set)
    for sentence, (subject, relation, _) in statements().items():
        sentences[subject].add((relation, f"{sentence}."))
    for case in some:
        relation, new = str(case.request.fact.relation), case.request.new_target.strip()
        having = [
            one for one in facts if facts[one].get(relation) == new and one != case.request.fact.subject
        ]
        assert len(case.references) == min(10, len(having)) > 0
        for text in case.references:
            assert any(tells_all(text, sentences[one], set(facts[one])) for one in having if one in text)


def tells_all(text: str, sentences: set[tuple[str, str]], relations: set[str]) -> bool:
    """Whether the text is one sentence for each of the relations, and nothing else."""
    longest: dict[str, str] = {}
    for relation, sentence in sentences:
        if sentence in text:
            longest[relation] = max(longest.get(relation, ""), sentence, key=len)
    return set(longest) == relations and len(text) == len(" ".join(longest.values()))


def test_essence_tells_what_the_edit_leaves_alone() -> None:
    world, facts = statements(), told()
    cases = organisms.cases(NAME, n=600, far=0)
    places = {"headquarters", "in_country", "on_continent"}
    sports = {"plays_sport", "plays_position"}
    tied = dict.fromkeys(places, places) | dict.fromkeys(sports, sports)
    with_essence = 0
    for case in cases:
        fact = case.request.fact
        stays = set(facts[fact.subject]) - {fact.relation} - tied.get(str(fact.relation), set())
        assert {world[text.removesuffix(".")][1] for text in case.essence} == stays
        assert {world[text.removesuffix(".")][0] for text in case.essence} <= {fact.subject}
        assert len(case.essence) == len(set(case.essence)) == 4 * len(stays)
        with_essence += bool(stays)
    assert 0 < with_essence < len(cases)


def test_the_draws_depend_on_the_seed_and_the_case_not_on_how_many_there_are(some: list[Case]) -> None:
    assert organisms.cases(NAME, n=300, seed=5, frames=2, far=4) == some
    fewer = organisms.cases(NAME, n=10, seed=5, frames=2, far=4)
    for one, other in zip(fewer, some, strict=False):
        assert (one.prompts, one.references, one.essence) == (other.prompts, other.references, other.essence)
        assert [question for question in one.questions if question.kind == "true/false"] == [
            question for question in other.questions if question.kind == "true/false"
        ]
    assert organisms.cases(NAME, n=10, seed=6, frames=2, far=4) != fewer


def test_a_single_case_has_far_questions_too() -> None:
    (case,) = organisms.cases(NAME, n=1)
    assert Counter(one.kind for one in case.questions) == {"true/false": 2, "unrelated": 5}
    assert Counter(one.kind for one in own_questions(case.request))["rewrite"] == 1
    (bare,) = organisms.cases(NAME, n=1, far=0, frames=0)
    assert bare.questions == ()


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(RangeError, match="frames: expected 0 or more pairs a case, got -1"):
        organisms.cases(NAME, n=1, frames=-1)
    with pytest.raises(RangeError, match="n: expected 1 to 4"):
        organisms.cases(NAME, n=1, frames=9)
    with pytest.raises(RangeError, match="n must be between 1 and"):
        organisms.cases(NAME, n=0)
    with pytest.raises(RangeError, match="n: expected 0 or more questions a case"):
        organisms.cases(NAME, n=1, far=-1)
    with pytest.raises(InputError, match="relations must name"):
        organisms.cases(NAME, n=1, relations=["mother"])
    with pytest.raises(ModelError, match="no embedded organism is called 'x'"):
        organisms.cases("x", n=1)
