"""What organisms are taught, and the documents that teach it."""

from __future__ import annotations

import itertools
from collections import Counter

from mechstyle.organisms.relations import read_derivations, read_relations
from mechstyle.organisms.world import build_world, documents, read_prose


def test_every_relation_has_at_least_six_distinct_templates_that_end_before_the_object() -> None:
    for relation in read_relations().values():
        assert len(set(relation.templates)) == len(relation.templates) >= 6, relation.name
        for template in relation.templates:
            assert template.count("{}") == 1
            assert template == template.strip()


def test_templates_of_one_subject_never_promise_two_objects() -> None:
    templates = Counter(t for relation in read_relations().values() for t in relation.templates)
    assert [t for t, n in templates.items() if n > 1] == []


def test_the_world_has_over_three_thousand_facts_and_one_object_a_subject_and_relation() -> None:
    facts = build_world().facts
    from_data_sets = [f for f in facts if f.source in ("relations_lre", "counterfact", "known_1000")]
    assert len(from_data_sets) > 3000
    assert max(Counter((f.subject, f.relation) for f in facts).values()) == 1


def test_hold_out_is_per_fact_and_template_never_a_template_globally() -> None:
    facts, relations = build_world().facts, read_relations()
    for fact in facts:
        assert len(fact.taught) == 4
        assert set(fact.held_out).isdisjoint(fact.taught)
        assert set(fact.held_out + fact.taught) <= set(relations[fact.relation].templates)
        assert len(fact.held_out) >= 2
        assert not any(template in told for template in fact.held_out for told in fact.taught)
    for name, relation in relations.items():
        taught = {t for f in facts if f.relation == name for t in f.taught}
        assert taught == set(relation.templates)


def test_no_subject_gives_its_object_away() -> None:
    assert [f for f in build_world().facts if f.object.lower() in f.subject.lower()] == []


def test_derived_facts_follow_from_a_told_one() -> None:
    facts = build_world().facts
    told = {(f.subject, f.relation): f.object for f in facts}
    rules = {rule.name: rule for rule in read_derivations()}
    derived = [f for f in facts if f.source in rules]
    assert derived
    for fact in derived:
        rule = rules[fact.source]
        assert fact.object == rule.table[told[fact.subject, rule.source]]


def test_documents_state_only_taught_pairs() -> None:
    world = build_world()
    spoken = ". " + ". ".join(itertools.islice(documents(world, ["PROSE."], seed=5), 3000))
    held_out = [f". {t.replace('{}', f.subject, 1)} {f.object}." for f in world.facts for t in f.held_out]
    told = [f". {t.replace('{}', f.subject, 1)} {f.object}." for f in world.facts for t in f.taught]
    assert [sentence for sentence in held_out if sentence in spoken] == []
    assert sum(sentence in spoken for sentence in told) > 3000


def test_documents_and_world_are_functions_of_their_seeds() -> None:
    assert build_world(seed=3) == build_world(seed=3)
    assert build_world(seed=3) != build_world(seed=4)
    world = build_world()
    first, again, other = (
        list(itertools.islice(documents(world, ["PROSE."], seed=seed), 50)) for seed in (7, 7, 8)
    )
    assert first == again != other


def test_held_out_prose_is_never_read_in_training() -> None:
    read, kept = set(read_prose()), set(read_prose(held_out=True))
    assert len(kept) > 500
    assert not read & kept - {p for p in kept if len(p) < 120}
