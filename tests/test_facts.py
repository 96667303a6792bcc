from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechstyle.errors import TextError
from mechstyle.facts import EditRequest, Fact

TEXT = st.text(min_size=1, max_size=20).filter(lambda text: bool(text.strip()))
SIDE = st.text(max_size=20).filter(lambda text: "{}" not in text and not text.endswith("{"))
FACT = Fact(template="{} plays the", subject="Miles Davis", target=" trumpet", relation="plays instrument")


@st.composite
def facts(draw: st.DrawFn) -> Fact:
    before = draw(SIDE)
    after = draw(SIDE.filter(lambda text: not text.startswith("}")))
    return Fact(f"{before}{{}}{after}", draw(TEXT), draw(TEXT), draw(st.none() | TEXT))


@given(facts())
def test_the_subject_stands_in_the_prompt_where_its_offsets_say(fact: Fact) -> None:
    start, end = fact.subject_offsets
    before, after = fact.template.split("{}")
    assert fact.prompt[start:end] == fact.subject
    assert fact.prompt[:start] == before
    assert fact.prompt[end:] == after


TEMPLATE = facts().map(lambda fact: fact.template)


@given(facts(), TEXT, st.lists(TEXT, max_size=3), st.lists(st.tuples(TEXT, TEXT), max_size=3),
       st.lists(TEMPLATE, max_size=2), st.lists(facts(), max_size=2), st.booleans())  # fmt: skip
def test_json_gives_back_the_same_fact_and_request(
    fact: Fact,
    new: str,
    paraphrases: list[str],
    neighbours: list[tuple[str, str]],
    phrasings: list[str],
    keep: list[Fact],
    remove: bool,
) -> None:
    assert Fact.from_dict(json.loads(json.dumps(fact.to_dict()))) == fact
    if new != fact.target:
        parts = tuple(paraphrases), tuple(neighbours), tuple(phrasings), tuple(keep)
        request = EditRequest(fact, new, *parts, remove=remove)
        assert EditRequest.from_dict(json.loads(json.dumps(request.to_dict()))) == request


def test_other_braces_are_plain_text() -> None:
    assert Fact("{0} and {name} of {} in {", "x{}y", " z").prompt == "{0} and {name} of x{}y in {"


def test_a_prompt_keeps_its_subject_and_relation_with_another_target() -> None:
    other = FACT.with_target(" guitar")
    assert (other.target, other.prompt, other.relation) == (" guitar", FACT.prompt, FACT.relation)
    assert FACT.target == " trumpet"


def test_lists_become_tuples_so_that_requests_can_be_hashed() -> None:
    request = EditRequest(FACT, " guitar", ["a b"], [["c", " d"]])  # type: ignore[arg-type, list-item]
    assert request == EditRequest(FACT, " guitar", ("a b",), (("c", " d"),))
    assert len({request, request}) == 1


def test_facts_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        FACT.target = " guitar"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plays the", "M", " t"), r"must hold '\{\}' exactly once.*'plays the' holds it 0 times"),
        (("{} and {}", "M", " t"), "holds it 2 times"),
        (("{} plays", "", " t"), r"Fact.subject must not be empty or blank; it is ''"),
        (("{} plays", "M", " "), r"Fact.target must not be empty or blank; it is ' '"),
        (("", "M", " t"), "Fact.template must not be empty"),
        (("{} plays", 3, " t"), "Fact.subject must be text, not int 3"),
        (("{} plays", "M", " t", ""), "Fact.relation must not be empty"),
    ],
)
def test_a_bad_fact_says_which_part_is_wrong(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(TextError, match=message):
        Fact(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fact", " g"), "EditRequest.fact must be a Fact, not str 'fact'"),
        ((FACT, ""), "EditRequest.new_target must not be empty"),
        ((FACT, " trumpet"), "must differ from the fact's target, but both are ' trumpet'"),
        ((FACT, " g", "a prompt"), "EditRequest.paraphrases must be a tuple or list, not str 'a prompt'"),
        ((FACT, " g", ("a", "")), r"EditRequest.paraphrases\[1\] must not be empty"),
        ((FACT, " g", (), ("ab",)), r"EditRequest.neighborhood\[0\] must be a pair"),
        ((FACT, " g", (), (("a", "b", "c"),)), r"EditRequest.neighborhood\[0\] must be a pair"),
        ((FACT, " g", (), (("a", ""),)), r"EditRequest.neighborhood\[0\] target must not be empty"),
    ],
)
def test_a_bad_request_says_which_part_is_wrong(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(TextError, match=message):
        EditRequest(*arguments)


def test_json_with_missing_or_unknown_keys_is_refused() -> None:
    with pytest.raises(TextError, match="missing: subject, target; unknown: targets"):
        Fact.from_dict({"template": "{} is", "targets": " x"})
    with pytest.raises(TextError, match="missing: fact; unknown: facts"):
        EditRequest.from_dict({"new_target": " x", "facts": {}})
    with pytest.raises(TextError, match="EditRequest.fact must be a JSON object, not str"):
        EditRequest.from_dict({"new_target": " x", "fact": "text"})


def test_a_request_with_phrasings_and_facts_to_keep_survives_json() -> None:
    keep = (Fact("{} plays the", "Chet Baker", " trumpet"),)
    request = EditRequest(
        FACT, " guitar", phrasings=("The instrument of {} is the", FACT.template), keep=keep
    )
    assert EditRequest.from_dict(json.loads(json.dumps(request.to_dict()))) == request
    assert [one.template for one in request.phrased] == [FACT.template, "The instrument of {} is the"]
    assert {one.subject for one in request.phrased} == {FACT.subject}


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"phrasings": "{} plays"}, "phrasings must be a tuple or list"),
        ({"phrasings": ("plays",)}, r"phrasings\[0\] must hold '\{\}' exactly once"),
        ({"keep": ("Chet Baker",)}, r"keep\[0\] must be a Fact"),
    ],
)
def test_phrasings_and_facts_to_keep_are_checked(part: dict[str, Any], message: str) -> None:
    with pytest.raises(TextError, match=message):
        EditRequest(FACT, " guitar", **part)


def test_a_removal_is_an_edit_towards_not_knowing_and_survives_json() -> None:
    keep = (Fact("{} plays the", "Chet Baker", " trumpet"),)
    asked = EditRequest.removal(FACT, paraphrases=("a b",), phrasings=("The horn of {} is a",), keep=keep)
    assert (asked.fact, asked.new_target, asked.remove, asked.keep) == (FACT, " unknown", True, keep)
    assert asked.to_dict()["remove"] is True
    other = EditRequest.removal(FACT, answer=" nothing", neighborhood=(("c", " d"),))
    for request in (asked, other):
        assert EditRequest.from_dict(json.loads(json.dumps(request.to_dict()))) == request


def test_a_removal_in_json_needs_no_new_target_and_plain_requests_do_not_mention_it() -> None:
    assert EditRequest.from_dict({"fact": FACT.to_dict(), "remove": True}) == EditRequest.removal(FACT)
    plain = EditRequest(FACT, " unknown")
    assert "remove" not in plain.to_dict()
    assert EditRequest.from_dict({**plain.to_dict(), "remove": False}) == plain
    assert plain != EditRequest.removal(FACT)


def test_a_removal_that_is_none_is_refused() -> None:
    with pytest.raises(TextError, match=r'new_target must not be null; a removal is written "remove": true'):
        EditRequest.from_dict({"fact": FACT.to_dict(), "new_target": None})
    with pytest.raises(TextError, match="missing: new_target"):
        EditRequest.from_dict({"fact": FACT.to_dict(), "remove": False})
    with pytest.raises(TextError, match="EditRequest.remove must be true or false, not str 'yes'"):
        EditRequest.from_dict({"fact": FACT.to_dict(), "remove": "yes"})
    with pytest.raises(TextError, match="EditRequest.remove must be true or false, not int 1"):
        EditRequest(FACT, " guitar", remove=1)  # type: ignore[arg-type]
    with pytest.raises(TextError, match="must differ from the fact's target, but both are ' unknown'"):
        EditRequest.removal(FACT.with_target(" unknown"))
    with pytest.raises(TextError, match="paraphrases must be a tuple or list, not str 'a prompt'"):
        EditRequest.removal(FACT, paraphrases="a prompt")  # type: ignore[arg-type]
