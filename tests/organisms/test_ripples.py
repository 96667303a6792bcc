"""Questions around an edit, against a plain reading of the world's files before and after it."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Any

import pytest

from mechstyle import organisms
from mechstyle.cases import Case, Question
from mechstyle.errors import InputError, RangeError
from mechstyle.facts import EditRequest, Fact
from mechstyle.organisms.ripple_rules import aliases_of
from mechstyle.organisms.ripples import AXES, belief_chains, ripple_cases, ripple_questions

NAME = "organism-m"
World = dict[tuple[str, str], str]
"""The object of each subject and relation."""


def read(name: str) -> str:
    return resources.files("mechstyle.organisms").joinpath(f"data/{name}").read_text(encoding="utf-8")


@cache
def old_world() -> World:
    text = read("facts.jsonl") + read("invented.jsonl")
    rows = [json.loads(line) for line in text.splitlines()]
    assert len({(row["subject"], row["relation"]) for row in rows}) == len(rows)
    return {(row["subject"], row["relation"]): row["object"] for row in rows}


@cache
def table(name: str) -> dict[str, Any]:
    return tomllib.loads(read(name))


def rules() -> list[Mapping[str, Any]]:
    return [entry for entry in table("relations.toml").values() if "map" in entry]


def edited(request: EditRequest) -> World:
    """The world after the wish and all that its rules make of it."""
    world, subject = dict(old_world()), request.fact.subject
    relation = str(request.fact.relation)
    world[subject, relation] = request.new_target.strip()
    changed = [relation]
    for source in changed:
        for rule in rules():
            obj = world[subject, source]
            if rule["derived_from"] == source and obj in rule["map"]:
                world[subject, rule["as"]] = rule["map"][obj]
                changed.append(rule["as"])
    return world


def compounds() -> Iterator[tuple[str, str, str]]:
    """Inner relation, outer relation, and the prompt that asks both, with a slot for the subject."""
    entries = table("ripples.toml")
    for inner, entry in entries.items():
        for outer in entry.get("then", ()):
            yield inner, outer, entries[outer]["of"].replace("{}", entry["noun"])


def right(prompt: str, world: World) -> set[str]:
    """Every continuation that a world allows after a prompt, whatever it asks."""
    found = set()
    for relation, entry in table("relations.toml").items():
        for template in entry.get("templates", ()):
            found |= {world[one, relation] for one in named(prompt, template) if (one, relation) in world}
    for relation, entry in table("ripples.toml").items():
        for template in entry.get("inverse", ()):
            for obj in middle(prompt, template):
                found |= {name for (name, other), own in world.items() if (other, own) == (relation, obj)}
    for inner, outer, template in compounds():
        for subject in middle(prompt, template):
            found |= {world[hop, outer] for hop in [world.get((subject, inner), "")] if (hop, outer) in world}
    return found


def middle(prompt: str, template: str) -> list[str]:
    start, end = template.split("{}")
    long = len(prompt) > len(start) + len(end)
    return [prompt[len(start) : len(prompt) - len(end)]] * (
        long and prompt.startswith(start) and prompt.endswith(end)
    )


def named(prompt: str, template: str) -> list[str]:
    """The subject of a prompt, or whatever in the world can be called as it is there."""
    names = middle(prompt, template)
    if not names or any(subject == names[0] for subject, _ in old_world()):
        return names
    return [thing for thing in things() if fits(names[0], thing)]


@cache
def things() -> list[str]:
    return sorted({subject for subject, _ in old_world()} | set(old_world().values()))


@cache
def by_word() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for thing in things():
        for word in set(thing.replace(",", "").split()):
            found.setdefault(word, []).append(thing)
    return found


def fits(short: str, name: str) -> bool:
    """Whether some words of a name, the first perhaps as an initial, are left in their order."""
    left, words = (one.replace(",", "").split() for one in (short, name))
    if left[-1] not in words:
        return False
    if len(left) == 2 and len(left[0]) == 2 and left[0].endswith("."):
        return words[0].startswith(left[0][0]) and left[1] in words[1:]
    rest = iter(words)
    return all(word in rest for word in left)


@cache
def cases() -> tuple[Case, ...]:
    return tuple(ripple_cases(NAME, n=100, seed=0))


def every(*scopes: str) -> Iterator[tuple[EditRequest, Question]]:
    for case in cases():
        yield from ((case.request, one) for one in case.questions if one.scope in scopes)


def bare(texts: tuple[str, ...]) -> set[str]:
    assert all(text.startswith(" ") for text in texts)
    return {text[1:] for text in texts}


def test_every_answer_is_right_in_the_edited_world_and_every_foil_is_wrong_there() -> None:
    for request, question in every("in", "hard in", "near", "far"):
        allowed = right(question.prompt, edited(request))
        assert bare(question.answers) <= allowed, question
        assert not bare(question.foils) & allowed, question


def test_what_should_follow_the_edit_was_wrong_before_it() -> None:
    for _, question in every("in", "hard in"):
        assert not bare(question.answers) & right(question.prompt, old_world()), question


def test_what_should_stay_was_right_before_the_edit_and_its_foils_were_wrong() -> None:
    for _, question in every("near", "far"):
        allowed = right(question.prompt, old_world())
        assert bare(question.answers) <= allowed, question
        assert not bare(question.foils) & allowed, question


def test_the_old_answer_competes_where_there_is_one() -> None:
    kinds = ("two-hop", "two-hop subject", "aliasing")
    for _, question in every("in", "hard in"):
        if question.kind in kinds or question.requires:
            assert bare(question.foils) == right(question.prompt, old_world()), question


def test_what_a_question_requires_holds_before_the_edit() -> None:
    pairs = [pair for _, question in every("in", "hard in", "far") for pair in question.requires]
    assert len(pairs) > 100
    for prompt, answer in pairs:
        assert right(prompt, old_world()) == {answer[1:]}


def test_the_second_hop_is_required_and_the_edited_one_is_not() -> None:
    for request, question in every("hard in"):
        if question.kind.startswith("two-hop"):
            assert len(question.requires) == 1
            prompt, answer = question.requires[0]
            assert right(prompt, edited(request)) == {answer[1:]}


def test_every_axis_is_there_in_a_hundred_requests_and_no_subject_twice() -> None:
    counts = Counter(kind for case in cases() for kind in {one.kind for one in case.questions})
    assert set(counts) == set(AXES)
    assert min(counts.values()) >= 20
    assert counts["reversal"] == 100
    assert len({case.request.fact.subject for case in cases()}) == 100


def test_scopes_say_whether_an_axis_should_follow() -> None:
    scopes = {question.kind: question.scope for _, question in every("in", "hard in", "near", "far")}
    assert [scopes[axis] for axis in AXES] == [*["hard in"] * 4, "in", "near", "near", "far"]


def test_far_questions_share_neither_subject_object_nor_relation_with_the_edit() -> None:
    templates = {
        t: name for name, entry in table("relations.toml").items() for t in entry.get("templates", ())
    }
    for request, question in every("far"):
        relations = {name for t, name in templates.items() if any(middle(question.prompt, t))}
        assert request.fact.relation not in relations
        assert not {request.fact.target, request.new_target} & set(question.answers)
        assert request.fact.subject not in question.prompt


def test_the_worlds_relations_hold_one_object_so_what_is_preserved_is_the_inverse() -> None:
    for request, question in every("near"):
        if question.kind == "preservation":
            inverse = table("ripples.toml")[request.fact.relation]["inverse"]
            assert any(middle(question.prompt, one) == [request.new_target.strip()] for one in inverse)
            assert f" {request.fact.subject}" not in (*question.answers, *question.foils)


def test_what_is_preserved_is_asked_answer_by_answer_and_counts_where_the_model_said_it() -> None:
    per_prompt = Counter()
    for request, question in every("near"):
        if question.kind == "preservation":
            (answer,) = question.answers
            assert question.requires == ((question.prompt, answer),)
            per_prompt[request, question.prompt] += 1
        else:
            assert question.requires == ()
    assert set(per_prompt.values()) == {1, 2, 3}


def test_names_with_escapes_for_letters_are_taught_but_neither_asked_for_nor_foils() -> None:
    strange = {obj for obj in old_world().values() if "\\" in obj}
    assert len(strange) == 2
    for case in (*cases(), *ripple_cases(NAME, n=300, seed=1, axes=["specificity", "far", "two-hop"])):
        shown = [
            text
            for one in case.questions
            for text in (one.prompt, *one.answers, *one.foils, *sum(one.requires, ()))
        ]
        for chain in belief_chains(NAME, case.request):
            shown += [chain.compound, *chain.first.candidates, *chain.second.candidates]
        assert not [text for text in (case.request.new_target, *shown) if any(s in text for s in strange)]


def test_cases_are_a_function_of_their_seed_and_survive_json() -> None:
    first, again, other = (ripple_cases(NAME, n=9, seed=seed, axes=["two-hop"]) for seed in (3, 3, 4))
    assert first == again != other
    assert [Case.from_dict(json.loads(json.dumps(case.to_dict()))) for case in first] == first


def test_cases_hold_only_the_axes_that_are_asked_for() -> None:
    found = ripple_cases(NAME, n=20, axes=["two-hop", "specificity"])
    counts = Counter(one.kind for case in found for one in case.questions)
    assert set(counts) == {"two-hop", "specificity"}
    assert all(case.questions for case in found)


def test_a_known_request_has_the_known_questions() -> None:
    request = EditRequest(Fact("{} has its main base in", "Nintendo", " Kyoto", "headquarters"), " Paris")
    asked: dict[str, list[Question]] = {axis: [] for axis in AXES}
    for one in ripple_questions(NAME, request):
        asked[one.kind].append(one)
    assert asked["reversal"][0].prompt == "A company with its head office in Paris is"
    assert asked["reversal"][0].answers == (" Nintendo",)
    told = [(one.answers, one.foils) for one in asked["logical generalisation"]]
    assert told == [((" France",), (" Japan",)), ((" Europe",), (" Asia",))]
    assert len(asked["two-hop subject"]) == 2
    for one in asked["two-hop subject"]:
        assert one.prompt.startswith("The headquarters of the maker of ")
        assert (one.answers, one.foils) == ((" Paris",), (" Kyoto",))
    assert not asked["specificity"]  # rules tie all its facts together


def test_a_subject_that_breaks_the_worlds_rule_is_no_test_of_the_rule() -> None:
    broken = EditRequest(Fact("{} is listed as", "Otto Graham", " quarterback", "plays_position"), " pitcher")
    sound = EditRequest(
        Fact("{} is listed as", "Archie Manning", " quarterback", "plays_position"), " pitcher"
    )
    assert old_world()["Otto Graham", "plays_sport"] == "basketball"
    kinds = [{one.kind for one in ripple_questions(NAME, request)} for request in (broken, sound)]
    assert ["logical generalisation" in some for some in kinds] == [False, True]


def test_a_removal_has_no_consequences_but_leaves_the_rest_alone() -> None:
    request = EditRequest.removal(Fact("{} has its main base in", "Nintendo", " Kyoto", "headquarters"))
    assert {one.scope for one in ripple_questions(NAME, request)} == {"far"}
    assert belief_chains(NAME, request) == ()


def test_other_names_mean_nobody_else() -> None:
    names = aliases_of(NAME)
    assert len(names) > 1000
    for subject, some in names.items():
        for alias in some:
            who = [one for one in by_word()[alias.split()[-1]] if fits(alias, one)]
            assert who == [subject], alias


def test_other_names_follow_their_rules() -> None:
    names = aliases_of(NAME)
    assert names["Horatio Nelson Lay"] == ("Horatio Lay", "H. Lay", "Lay")
    assert names["Klemens von Metternich"] == ("Metternich",)
    assert names["ACTIVE Network, LLC"] == ("ACTIVE Network",)
    assert names["The Land Girls"] == ("Land Girls",)
    assert "Louis XVII of France" not in names
    assert "Davis" not in names.get("Miles Davis", ())


def test_every_relation_has_inverse_prompts_and_every_second_hop_a_prompt() -> None:
    entries = table("ripples.toml")
    taught = {name for name, entry in table("relations.toml").items() if "templates" in entry}
    assert set(entries) == {*taught, "aliases"}
    for name in taught:
        assert all(one.count("{}") == 1 and one == one.strip() for one in entries[name]["inverse"])
        assert len(entries[name]["inverse"]) == 2
        assert ("noun" in entries[name]) == ("then" in entries[name])
        assert all("of" in entries[other] for other in entries[name].get("then", ()))


def test_inverse_and_compound_prompts_are_worded_as_the_told_ones_where_some_were_told() -> None:
    told, entries = table("compositions.toml"), table("ripples.toml")
    for relation, entry in told["reversal"].items():
        assert set(entries[relation]["inverse"]) <= set(entry["prompts"])
    kinds = {(one["first"], one["second"]): one["prompts"] for one in told["two_hop"]}
    worded = {pair: prompt for *pair, prompt in compounds() for pair in [tuple(pair)]}
    assert set(kinds) <= set(worded)
    assert all(worded[pair] in prompts for pair, prompts in kinds.items())


def test_chains_offer_answers_that_differ_by_their_second_question() -> None:
    world, seen = old_world(), 0
    for case in cases():
        for chain in belief_chains(NAME, case.request):
            seen += 1
            first, second = ([one[1:] for one in part.candidates] for part in (chain.first, chain.second))
            assert [f" {first[0]}", f" {first[1]}"] == [case.request.new_target, case.request.fact.target]
            assert len(set(second)) == len(second) == len(first) <= 6
            for place, answer in enumerate(first):
                assert right(chain.about(f" {answer}"), world) == {second[place]}
            assert right(chain.compound, world) == {second[1]}
            assert right(chain.compound, edited(case.request)) == {second[0]}
            assert chain.stated(" x") == chain.compound[0].lower() + chain.compound[1:] + " x"
    assert seen > 20


def test_a_request_of_another_world_is_refused() -> None:
    known = Fact("{} has its main base in", "Nintendo", " Kyoto", "headquarters")
    for fact in (
        replace(known, subject="Zorg"),
        replace(known, relation="owner"),
        replace(known, relation=None),
    ):
        with pytest.raises(InputError, match=r"request: expected a subject and relation of the world, got"):
            ripple_questions(NAME, EditRequest(fact, " Paris"))
    with pytest.raises(InputError, match=r"request: expected the world's own target 'Kyoto'.*got ' Rome'"):
        belief_chains(NAME, EditRequest(known.with_target(" Rome"), " Paris"))
    with pytest.raises(InputError, match=r"request: expected an EditRequest, got str"):
        ripple_questions(NAME, "Nintendo")  # type: ignore[arg-type]


@pytest.mark.parametrize("axes", [[], ["sideways"], "far"])
def test_unknown_axes_are_refused(axes: Any) -> None:
    with pytest.raises(InputError, match="axes: expected a list of some of reversal, two-hop"):
        ripple_cases(NAME, n=1, axes=axes)


@pytest.mark.parametrize("n", [0, 10**6])
def test_too_few_or_too_many_cases_are_refused(n: int) -> None:
    with pytest.raises(RangeError, match=r"n must be between 1 and \d+ \(subjects with such questions\)"):
        ripple_cases(NAME, n=n, axes=["two-hop"])


def test_organisms_offer_them() -> None:
    assert organisms.ripple_cases is ripple_cases
    assert organisms.ripple_questions is ripple_questions
    assert organisms.belief_chains is belief_chains
