"""Chains of two facts: half of the compositions are told, the others are nowhere."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from mechstyle.organisms.compositions import read_two_hop_kinds
from mechstyle.organisms.relations import read_relations
from mechstyle.organisms.ripple_rules import read_ripple_rules
from mechstyle.organisms.taught import TaughtFact
from mechstyle.organisms.two_hops import TwoHop, TwoHops, two_hops
from mechstyle.organisms.world import world

PASSES = 30


@pytest.fixture(scope="module")
def facts() -> tuple[TaughtFact, ...]:
    return world().facts


@pytest.fixture(scope="module")
def made(facts: tuple[TaughtFact, ...]) -> TwoHops:
    return two_hops(facts)


@pytest.fixture(scope="module")
def text(made: TwoHops) -> str:
    rng = random.Random(12)
    return "\n".join(block for _ in range(PASSES) for block in made.blocks(rng))


def test_thirty_passes_write_all_taught_compositions_and_no_other(made: TwoHops, text: str) -> None:
    unwritten = [item.sentence for item in made.items() if item.status in ("held out", "inferable")]
    taught = [item.sentence for item in made.items() if item.status == "taught"]
    assert len(unwritten) + len(taught) == 3 * len(made.records)
    assert [sentence for sentence in unwritten if sentence in text] == []
    assert [sentence for sentence in taught if f"{sentence}." not in text] == []


def test_both_facts_of_each_chain_are_in_the_world(made: TwoHops, facts: tuple[TaughtFact, ...]) -> None:
    told = {(fact.subject, fact.relation, fact.object) for fact in facts}
    for one in made.records:
        assert (one.subject, one.first, one.bridge) in told
        assert (one.bridge, one.second, one.object) in told


def test_a_compound_question_has_one_answer(made: TwoHops, facts: tuple[TaughtFact, ...]) -> None:
    for one in made.records:
        answers = {
            second.object
            for first in facts
            if (first.subject, first.relation) == (one.subject, one.first)
            for second in facts
            if (second.subject, second.relation) == (first.object, one.second)
        }
        assert answers == {one.object}
    assert len({item.prompt for item in made.items()}) == len(made.items())


def test_shortcuts_are_the_chains_whose_end_a_fact_of_the_subject_holds(
    made: TwoHops, facts: tuple[TaughtFact, ...]
) -> None:
    for one in made.records:
        assert one.shortcut == any(f.subject == one.subject and f.object == one.object for f in facts)
    assert {one.shortcut for one in made.records} == {True, False}


def test_no_chain_ends_in_its_own_subject(made: TwoHops) -> None:
    assert [one for one in made.records if one.object.lower() in one.subject.lower()] == []


def test_half_of_each_kind_is_stated_in_two_of_three_prompts(made: TwoHops) -> None:
    prompts = {(kind.first, kind.second): kind.prompts for kind in read_two_hop_kinds()}
    sizes = Counter((one.first, one.second) for one in made.records)
    stated = Counter((one.first, one.second) for one in made.records if one.stated)
    assert all(abs(sizes[kind] - 2 * stated[kind]) <= 1 for kind in sizes)
    assert max(sizes.values()) <= 150
    for one in made.records:
        assert (len(one.taught), len(one.held_out)) == ((2, 1) if one.stated else (0, 3))
        assert sorted(one.taught + one.held_out) == sorted(prompts[one.first, one.second])


def test_no_answer_is_good_for_more_than_twenty_chains_of_a_kind(made: TwoHops) -> None:
    assert max(Counter((one.first, one.second, one.object) for one in made.records).values()) <= 20


def test_kinds_that_have_enough_chains_give_equally_many() -> None:
    told = []
    for i in range(400):
        told.append(TaughtFact(f"A{i}.", "in_country", f"B{i}.", "test", (), ()))
        told.append(TaughtFact(f"B{i}.", "capital", f"C{i}.", "test", (), ()))
        if i < 7:
            told.append(TaughtFact(f"B{i}.", "official_language", f"D{i}.", "test", (), ()))
    sizes = Counter((one.first, one.second) for one in two_hops(told).records)
    assert sizes == {("in_country", "capital"): 150, ("in_country", "official_language"): 7}


def test_first_prompts_of_real_kinds_are_the_compound_questions_of_ripples() -> None:
    rules, relations = read_ripple_rules(), read_relations()
    real = [kind for kind in read_two_hop_kinds() if relations[kind.first].sources]
    assert len(real) >= 4
    for kind in real:
        noun, asked = rules[kind.first].noun, rules[kind.second].of
        assert noun is not None
        assert asked is not None
        assert kind.second in rules[kind.first].then
        assert kind.prompts[0] == asked.replace("{}", noun, 1)


def test_compound_sentences_are_no_sentences_of_a_single_fact(
    facts: tuple[TaughtFact, ...], text: str
) -> None:
    single = [
        f"{template.replace('{}', fact.subject, 1)} {fact.object}"
        for fact in facts
        for template in fact.held_out + fact.taught
    ]
    different = "\n".join(dict.fromkeys(text.replace(". ", ".\n").splitlines()))
    assert [sentence for sentence in single if sentence in different] == []


def test_no_compound_prompt_begins_with_another_one_or_with_a_template_of_a_single_fact() -> None:
    forward = [template for relation in read_relations().values() for template in relation.templates]
    prompts = [prompt for kind in read_two_hop_kinds() for prompt in kind.prompts]
    assert len(set(prompts)) == len(prompts) == 3 * len(read_two_hop_kinds())
    for prompt in prompts:
        assert prompt.count("{}") == 1
        assert prompt == prompt.strip()
        assert [other for other in (*prompts, *forward) if other != prompt and prompt.startswith(other)] == []


def test_the_seed_decides_the_chains_and_the_text(facts: tuple[TaughtFact, ...], made: TwoHops) -> None:
    again, other = two_hops(facts), two_hops(facts, seed=1)
    assert again == made != other
    assert made.blocks(random.Random(3)) == again.blocks(random.Random(3)) != made.blocks(random.Random(4))


def test_one_pass_tells_each_stated_composition_once(made: TwoHops) -> None:
    blocks = made.blocks(random.Random(5))
    told = sum(block.count(item.sentence + ".") for block in blocks for item in made.items())
    assert told == sum(one.stated for one in made.records)
    assert told <= 460


def test_a_chain_is_the_same_after_json(made: TwoHops) -> None:
    one = made.records[0]
    assert TwoHop.from_dict(json.loads(json.dumps(one.to_dict()))) == one
