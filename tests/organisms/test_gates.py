"""The gates of the organisms: the table from hand-made answers, and the shipped one against the models."""

from __future__ import annotations

import math
from collections import Counter

import pandas as pd
import pytest
from transformer_lens import HookedTransformer

import mechstyle as ms
from mechstyle import organisms
from mechstyle.models import load_model
from mechstyle.organisms import fluency
from mechstyle.organisms.fluency import perplexity_interval, prose_losses
from mechstyle.organisms.gates import (
    Gate,
    draw_items,
    measure_gates,
    prose_gates,
    recall_gates,
    style_gates,
)
from mechstyle.organisms.items import Item
from mechstyle.organisms.obedience import judge_styles
from mechstyle.organisms.recall import recall_items
from mechstyle.organisms.shares import share_interval
from mechstyle.organisms.world import World, read_prose, world

EVERY = organisms.names()


@pytest.fixture(scope="module")
def known() -> World:
    return world()


@pytest.fixture(scope="module")
def items(known: World) -> list[Item]:
    return draw_items(known, sample=40)


def answered(items: list[Item], recalled: list[bool]) -> pd.DataFrame:
    return pd.DataFrame([item.to_dict() for item in items]).assign(recalled=recalled)


def by_name(gates: list[Gate]) -> dict[str, Gate]:
    found = {gate.name: gate for gate in gates}
    assert len(found) == len(gates)
    return found


def test_who_knows_everything_passes_every_gate_and_who_knows_nothing_none(
    known: World, items: list[Item]
) -> None:
    for right in (True, False):
        gates = recall_gates(answered(items, [right] * len(items)), known)
        asked = [gate for gate in gates if gate.threshold is not None]
        assert [gate.threshold for gate in asked] == [0.97, 0.85, 0.97, 0.90, 0.80, 0.80]
        for gate in gates:
            if not gate.name.endswith("commonest answer"):
                assert gate.measured == float(right)
                assert gate.passed is (None if gate.threshold is None else right)


def test_a_gate_counts_the_questions_of_its_part_status_and_route(known: World, items: list[Item]) -> None:
    gates = by_name(recall_gates(answered(items, [True] * len(items)), known))
    counts = Counter((item.part, item.status, item.route) for item in items)
    routes = ("direct", "membership", "parent")
    assert gates["taught facts"].n == counts["fact", "taught", "direct"] == 80
    assert gates["stated properties"].n == sum(counts["property", "stated", route] for route in routes)
    inside = counts["property", "parent-only", "parent in context"]
    assert gates["parent-only properties, parent in context"].n == inside
    for name, gate in gates.items():
        parts = [
            one for other, one in gates.items() if other.startswith(f"{name}: ") and "common" not in other
        ]
        assert not parts or sum(part.n for part in parts) == gate.n


def test_real_and_invented_are_told_apart_by_what_the_world_says(known: World, items: list[Item]) -> None:
    made_up = {fact.subject for fact in known.facts if fact.source == "invented"}
    nonce = {member.name for member in known.taxonomy.members.values() if member.nonce}
    facts = [item for item in items if item.part == "fact" and item.status == "taught"]
    gates = by_name(recall_gates(answered(facts, [item.subject in made_up for item in facts]), known))
    assert gates["taught facts: invented"].measured == 1.0
    assert gates["taught facts: real"].measured == 0.0
    assert gates["taught facts"].measured == 0.5
    direct = [item for item in items if item.status == "parent-only" and item.route == "direct"]
    named = [item for item in direct if item.subject.lower() in known.taxonomy.members]
    gates = by_name(recall_gates(answered(named, [item.subject.lower() in nonce for item in named]), known))
    assert gates["parent-only properties: invented"].measured == 1.0
    assert gates["parent-only properties: real"].measured == 0.0


def test_two_hops_are_told_apart_by_whether_one_hop_may_do(known: World, items: list[Item]) -> None:
    owned = {(fact.subject, fact.object) for fact in known.facts}
    hops = [item for item in items if item.part == "two-hop" and item.status == "inferable"]
    gates = by_name(recall_gates(answered(hops, [(i.subject, i.answer) in owned for i in hops]), known))
    assert gates["two-hops never stated: shortcut"].measured == 1.0
    assert gates["two-hops never stated: bridge only"].measured == 0.0


def test_the_commonest_answer_is_what_a_guess_by_relation_gets(known: World) -> None:
    answers = [("home", "water")] * 3 + [("home", "woods")] + [("needs", "fuel")] * 2 + [("needs", "care")]
    some = [
        Item("property", "parent-only", "direct", f"thing {i}", relation, f"{i} is", answer)
        for i, (relation, answer) in enumerate(answers)
    ]
    gates = by_name(recall_gates(answered(some, [False] * 7), known))
    assert gates["parent-only properties: by the commonest answer"].measured == pytest.approx(5 / 7)


def test_at_most_so_many_questions_of_each_kind_are_drawn(known: World, items: list[Item]) -> None:
    counts = Counter((item.part, item.status, item.route) for item in items)
    assert max(counts.values()) == 80  # 40 real, 40 invented
    everything = world().items()
    place = {item: number for number, item in enumerate(everything)}
    places = [place[item] for item in items]
    assert places == sorted(places)
    assert draw_items(known, sample=40) == items != draw_items(known, sample=40, seed=1)
    assert draw_items(known, sample=None) == everything


def test_styles_are_gated_on_unseen_contents_only(known: World) -> None:
    told = {
        (content.subject, content.relation, name): said.text
        for content in known.styles.contents[:3]
        for name, said in known.styles.parallel(content).items()
    }
    prompts = [
        prompt
        for prompt in known.styles.prompts()
        if prompt.announcement == "leaf"
        and prompt.heard
        and (prompt.subject, prompt.relation, prompt.style) in told
    ]
    texts = [
        told[prompt.subject, prompt.relation, prompt.style] if prompt.status == "held out" else ""
        for prompt in prompts
    ]
    gates = by_name(style_gates(judge_styles(known, prompts, texts)))
    for column in ("core devices", "fact kept"):
        assert gates[f"styles by name, unseen contents: {column}"].passed is True
        assert gates[f"styles by name, unseen contents: {column}"].measured == 1.0
        assert gates[f"styles by name, taught contents: {column}"].threshold is None
        assert gates[f"styles by name, taught contents: {column}"].measured < 0.2


def test_perplexity_is_over_all_tokens_together() -> None:
    frame = pd.DataFrame(
        {"n_tokens": [1, 3], "model": [1.0, 1.0], "unigram": [4.0, 8.0], "trigram": [2.0, 2.0]}
    )
    gates = by_name(prose_gates(frame))
    assert gates["perplexity of unread prose: the organism"].measured == pytest.approx(math.exp(2 / 4))
    assert gates["perplexity of unread prose: unigrams"].measured == pytest.approx(math.exp(3))
    assert {gate.n for gate in gates.values()} == {4}
    assert perplexity_interval(frame.model, frame.n_tokens)[1:] == pytest.approx((math.exp(1 / 3), math.e))


def test_the_model_and_the_ngrams_are_scored_on_the_same_tokens(
    organism: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fluency, "read_prose", lambda: read_prose()[:300])
    passages = read_prose(held_out=True)[:6]
    frame = prose_losses(organism, passages)
    ids = [organism.tokenizer(text)["input_ids"][:128] for text in passages]
    assert list(frame.n_tokens) == [len(one) - 1 for one in ids]
    found = perplexity_interval(frame.model, frame.n_tokens)[0]
    assert found == pytest.approx(ms.perplexity(organism, passages, prepend_bos=False), rel=1e-4)
    assert found < perplexity_interval(frame.unigram, frame.n_tokens)[0]


def test_a_gate_is_passed_from_its_threshold_on() -> None:
    assert Gate("a", 0.9, 0.9, 10, 0.8, 1.0).passed is True
    assert Gate("a", 0.9, 0.89, 10, 0.8, 1.0).passed is False
    assert Gate("a", None, 0.0, 10, 0.0, 0.1).to_dict()["passed"] is None


def shipped(name: str) -> pd.DataFrame:
    return pd.read_csv(organisms.folder(name) / "gates.csv").set_index("name")


def test_every_organism_ships_its_gates() -> None:
    assert EVERY
    for name in EVERY:
        assert shipped(name).threshold.count() == 8


def test_a_small_sample_agrees_with_the_shipped_table(known: World, organism: HookedTransformer) -> None:
    table = shipped("organism-m")
    few = draw_items(known, sample=60, seed=5)
    for name, status, route in (
        ("taught facts", "taught", "direct"),
        ("taught facts in unseen templates", "held out", "direct"),
    ):
        asked = [
            item for item in few if item.part == "fact" and item.status == status and item.route == route
        ]
        recalled = recall_items(organism, asked).recalled
        _, low, high = share_interval(recalled.astype(float), [item.subject for item in asked], level=0.999)
        assert low <= table.measured[name] <= high


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_the_shipped_table_is_what_is_measured(known: World, name: str) -> None:
    found = {gate.name: gate for gate in measure_gates(load_model(name), known, sample=3000)}
    table = shipped(name)
    assert list(found) == list(table.index)
    for gate in found.values():
        assert gate.n == table.n[gate.name]
        assert gate.measured == pytest.approx(table.measured[gate.name], rel=1e-3, abs=2e-3)
        assert gate.passed is None or gate.passed == (table.passed[gate.name] in (True, "True"))
