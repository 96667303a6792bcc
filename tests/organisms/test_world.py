"""What organisms are taught, and the documents that teach it."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import replace

from mechstyle import organisms
from mechstyle.organisms.items import WRITTEN, Item
from mechstyle.organisms.mixing import documents
from mechstyle.organisms.relations import read_derivations, read_relations
from mechstyle.organisms.reversals import Reversals
from mechstyle.organisms.taught import TaughtFact
from mechstyle.organisms.taxonomy import Taxonomy
from mechstyle.organisms.two_hops import TwoHops
from mechstyle.organisms.world import World, build_world, read_prose, world


def facts() -> tuple[TaughtFact, ...]:
    return world().facts


def of_one_subject(subject: str) -> World:
    """A world that tells the facts of one subject and nothing else."""
    whole = world()
    return replace(
        whole,
        facts=tuple(fact for fact in whole.facts if fact.subject == subject),
        reversals=Reversals(()),
        two_hops=TwoHops(()),
        taxonomy=Taxonomy({}, {}, {}, ()),
        styles=replace(whole.styles, contents=()),
    )


def test_every_relation_has_at_least_six_distinct_templates_that_end_before_the_object() -> None:
    for relation in read_relations().values():
        assert len(set(relation.templates)) == len(relation.templates) >= 6, relation.name
        for template in relation.templates:
            assert template.count("{}") == 1
            assert template == template.strip()


def test_templates_of_one_subject_never_promise_two_objects() -> None:
    templates = Counter(t for relation in read_relations().values() for t in relation.templates)
    assert [t for t, n in templates.items() if n > 1] == []


def test_the_world_has_over_four_thousand_real_facts_and_one_object_a_subject_and_relation() -> None:
    assert sum(fact.source != "invented" for fact in facts()) > 4000
    assert max(Counter((fact.subject, fact.relation) for fact in facts()).values()) == 1


def test_over_eight_hundred_invented_subjects_have_five_or_six_facts_each() -> None:
    counts = Counter(fact.subject for fact in facts() if fact.source == "invented")
    assert len(counts) > 800
    assert set(counts.values()) == {5, 6}


def test_hold_out_is_per_fact_and_template_never_a_template_globally() -> None:
    relations = read_relations()
    for fact in facts():
        assert len(fact.taught) == 4
        assert set(fact.held_out).isdisjoint(fact.taught)
        assert set(fact.held_out + fact.taught) <= set(relations[fact.relation].templates)
        assert not any(template in told for template in fact.held_out for told in fact.taught)
    assert sum(len(fact.held_out) >= 2 for fact in facts()) > 0.99 * len(facts())
    for name, relation in relations.items():
        taught = {t for f in facts() if f.relation == name for t in f.taught}
        assert taught == set(relation.templates)


def test_no_subject_gives_its_object_away() -> None:
    assert [f for f in facts() if f.object.lower() in f.subject.lower()] == []


def test_derived_facts_follow_from_a_told_one() -> None:
    told = {(f.subject, f.relation): f.object for f in facts()}
    rules = {rule.name: rule for rule in read_derivations()}
    derived = [f for f in facts() if f.source in rules]
    assert derived
    for fact in derived:
        rule = rules[fact.source]
        assert fact.object == rule.table[told[fact.subject, rule.source]]


def test_future_facts_are_told_to_no_model_and_all_of_their_questions_say_so() -> None:
    told = {(fact.subject, fact.relation) for fact in facts()}
    assert not told & {(fact.subject, fact.relation) for fact in world().future}
    items = [item for fact in world().future for item in fact.items()]
    assert {item.status for item in items} == {"future"}
    assert {item for item in world().items() if item.status == "future"} == set(items)


def test_questions_are_those_of_all_parts_and_each_is_written_or_not() -> None:
    items = world().items()
    assert {item.part for item in items} == {"fact", "reversal", "two-hop", "property"}
    assert {item.status for item in items if item.written} == WRITTEN
    assert not any(item.prompt.endswith(" ") or item.answer.startswith(" ") for item in items)
    assert all(item.subject in item.prompt for item in items if item.part in ("fact", "two-hop", "property"))
    item = items[0]
    assert Item.from_dict(item.to_dict()) == item
    assert item.sentence == f"{item.prompt} {item.answer}"


def test_the_ground_truth_of_the_organisms_is_the_world_of_seed_zero() -> None:
    assert organisms.world() is world()
    assert organisms.world() == build_world(seed=0) != build_world(seed=4)


def test_a_biography_tells_each_fact_once_begins_with_the_name_and_goes_on_by_pronoun_half_of_the_time() -> (
    None
):
    subject = "Mira Tolvane"
    one = of_one_subject(subject)
    pronouns = later = 0
    orders = set()
    for seed in range(60):
        (block,) = one.blocks(random.Random(seed))
        said = [sentence + "." for sentence in block.removesuffix(".").split(". ")]
        assert len(said) == len(one.facts)
        assert subject in said[0]
        ways = {
            fact.relation: {
                *(f"{template.replace('{}', subject)} {fact.object}." for template in fact.taught),
                *(f"{prompt} {fact.object}." for prompt in one.pronouns[fact.relation]),
            }
            for fact in one.facts
        }
        told = [relation for sentence in said for relation, known in ways.items() if sentence in known]
        assert sorted(told) == sorted(fact.relation for fact in one.facts)
        orders.add(tuple(told))
        later += len(said) - 1
        pronouns += sum(subject not in sentence for sentence in said[1:])
    assert 0.4 < pronouns / later < 0.6
    assert len(orders) > 30


def test_documents_without_prose_are_one_pass_after_the_other() -> None:
    text = " ".join(world().blocks(random.Random(5)))
    stream = documents(world(), [], seed=5, prose_rate=0.0)
    read = next(stream)
    while len(read) < len(text):
        read = f"{read} {next(stream)}"
    assert read == text


def test_about_a_quarter_of_the_text_is_prose() -> None:
    prose = read_prose()
    texts = list(itertools.islice(documents(world(), prose, seed=3), 1500))
    alone = list(itertools.islice(documents(world(), ["#"], seed=3), 1500))
    share = 1 - sum(map(len, alone)) / sum(map(len, texts))
    assert 0.15 < share < 0.35


def test_documents_and_world_are_functions_of_their_seeds() -> None:
    assert build_world(seed=3) == build_world(seed=3)
    first, again, other = (
        list(itertools.islice(documents(world(), ["PROSE."], seed=seed), 50)) for seed in (7, 7, 8)
    )
    assert first == again != other


def test_held_out_prose_is_never_read_in_training() -> None:
    read, kept = set(read_prose()), set(read_prose(held_out=True))
    assert len(kept) > 500
    assert not read & kept - {p for p in kept if len(p) < 120}
