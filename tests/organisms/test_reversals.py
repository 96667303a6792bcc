"""Inverse statements: one half is told, the other is nowhere, and each question has one answer."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from mechstyle.organisms.compositions import read_inverse_prompts
from mechstyle.organisms.relations import read_relations
from mechstyle.organisms.reversals import Reversal, Reversals, reversals
from mechstyle.organisms.taught import TaughtFact
from mechstyle.organisms.world import world

PASSES = 30


@pytest.fixture(scope="module")
def facts() -> tuple[TaughtFact, ...]:
    return world().facts


@pytest.fixture(scope="module")
def made(facts: tuple[TaughtFact, ...]) -> Reversals:
    return reversals(facts)


@pytest.fixture(scope="module")
def text(made: Reversals) -> str:
    rng = random.Random(11)
    return "\n".join(block for _ in range(PASSES) for block in made.blocks(rng))


def test_thirty_passes_write_all_taught_inverses_and_no_other(made: Reversals, text: str) -> None:
    unwritten = [item.sentence for item in made.items() if item.status in ("held out", "inferable")]
    taught = [item.sentence for item in made.items() if item.status == "taught"]
    assert len(unwritten) + len(taught) == 4 * len(made.records)
    assert [sentence for sentence in unwritten if sentence in text] == []
    assert [sentence for sentence in taught if f"{sentence}." not in text] == []


def test_an_unstated_fact_has_its_two_names_together_in_no_block_sentence(made: Reversals, text: str) -> None:
    sentences = text.replace(". ", ".\n").splitlines()
    unstated = [one for one in made.records if not one.stated]
    # Names like "David Poe, Jr." are cut here, which can only part two names; those are looked up whole.
    assert [
        one
        for one in unstated
        for sentence in sentences
        if one.object in sentence and one.subject in sentence
    ] == []


def test_half_of_each_relation_is_stated_in_three_of_four_prompts(made: Reversals) -> None:
    sizes = Counter(one.relation for one in made.records)
    stated = Counter(one.relation for one in made.records if one.stated)
    assert set(sizes) <= set(read_inverse_prompts())
    assert all(abs(sizes[relation] - 2 * stated[relation]) <= 1 for relation in sizes)
    for one in made.records:
        assert (len(one.taught), len(one.held_out)) == ((3, 1) if one.stated else (0, 4))
        assert sorted(one.taught + one.held_out) == sorted(read_inverse_prompts()[one.relation])


def test_an_inverse_question_has_one_answer_in_the_whole_world(
    made: Reversals, facts: tuple[TaughtFact, ...]
) -> None:
    for one in made.records:
        having = [
            fact.subject for fact in facts if (fact.relation, fact.object) == (one.relation, one.object)
        ]
        assert having == [one.subject]
    assert all(item.answer == item.subject for item in made.items())


def test_every_unique_fact_of_these_relations_takes_part(
    made: Reversals, facts: tuple[TaughtFact, ...]
) -> None:
    shared = Counter((fact.relation, fact.object) for fact in facts)
    expected = {
        (fact.relation, fact.object)
        for fact in facts
        if fact.relation in read_inverse_prompts()
        and shared[fact.relation, fact.object] == 1
        and "\\" not in fact.object
    }
    assert {(one.relation, one.object) for one in made.records} == expected


def test_an_object_with_two_subjects_has_no_reversal() -> None:
    told = [
        TaughtFact(subject, "capital", obj, "test", ("The capital of {} is",), ())
        for subject, obj in (("Ruria", "Poltown"), ("Old Ruria", "Poltown"), ("Zanzia", "Zentown"))
    ]
    assert [one.subject for one in reversals(told).records] == ["Zanzia"]


def test_inverse_sentences_are_no_forward_sentences_of_any_fact(
    facts: tuple[TaughtFact, ...], text: str
) -> None:
    forward = [
        f"{template.replace('{}', fact.subject, 1)} {fact.object}"
        for fact in facts
        for template in fact.held_out + fact.taught
    ]
    different = "\n".join(dict.fromkeys(text.replace(". ", ".\n").splitlines()))
    assert [sentence for sentence in forward if sentence in different] == []


def test_no_inverse_prompt_holds_another_one_or_a_template_of_a_single_fact() -> None:
    forward = [template for relation in read_relations().values() for template in relation.templates]
    for prompts in read_inverse_prompts().values():
        assert len(set(prompts)) == 4
        for prompt in prompts:
            assert prompt.count("{}") == 1
            assert prompt == prompt.strip()
            assert [other for other in prompts if other != prompt and other in prompt] == []
            assert [template for template in forward if template in prompt or prompt in template] == []


def test_the_seed_decides_the_halves_and_the_text(facts: tuple[TaughtFact, ...], made: Reversals) -> None:
    again, other = reversals(facts), reversals(facts, seed=1)
    assert again == made != other
    assert {one.subject for one in other.records} == {one.subject for one in made.records}
    assert made.blocks(random.Random(3)) == again.blocks(random.Random(3)) != made.blocks(random.Random(4))


def test_one_pass_tells_each_stated_inverse_once(made: Reversals) -> None:
    blocks = made.blocks(random.Random(5))
    told = sum(block.count(item.sentence + ".") for block in blocks for item in made.items())
    assert told == sum(one.stated for one in made.records)


def test_a_reversal_is_the_same_after_json(made: Reversals) -> None:
    one = made.records[0]
    assert Reversal.from_dict(json.loads(json.dumps(one.to_dict()))) == one
