from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from mechstyle.errors import InputError, TextError
from mechstyle.facts import EditRequest, Fact
from mechstyle.requests import (
    change_relation,
    check_requests,
    request_from_pair,
    requests_from_pairs,
    same_key,
    with_keep,
)

FACT = Fact("{} plays the", "Miles Davis", " trumpet", "plays instrument")
OTHER = Fact("{} plays the", "Bill Evans", " piano")
REQUEST = EditRequest(FACT, " guitar")


def test_another_relation_gets_the_object_and_the_old_one_may_be_removed() -> None:
    (moved,) = change_relation(FACT, "{} is afraid of the", target=" dark", relation="fears")
    assert moved == EditRequest(Fact("{} is afraid of the", "Miles Davis", " dark", "fears"), " trumpet")
    moved, removed = change_relation(FACT, "{} is afraid of the", remove_old=True, answer=" nothing")
    assert moved.fact.target == " unknown"
    assert removed == EditRequest.removal(FACT, answer=" nothing")
    assert check_requests([moved, removed]) == (moved, removed)
    assert same_key([moved, removed]) == ((0, 1),)
    for request in (moved, removed):
        assert EditRequest.from_dict(json.loads(json.dumps(request.to_dict()))) == request


def test_a_change_of_the_relation_to_itself_is_refused() -> None:
    with pytest.raises(TextError, match="template: expected another one than the fact's own"):
        change_relation(FACT, FACT.template)
    with pytest.raises(TextError, match="must hold '{}' exactly once"):
        change_relation(FACT, "plays the")
    with pytest.raises(TextError, match="must differ from the fact's target, but both are ' trumpet'"):
        change_relation(FACT, "{} fears the", target=" trumpet")


def test_pairs_become_requests_with_one_leading_space() -> None:
    rows = [
        ("{} plays the", "Miles Davis", "guitar"),
        ("{} plays the", "Bill Evans", "  guitar ", " piano"),
        {"template": "{} is in", "subject": "Rome", "new_target": "Spain", "target": "", "relation": "P17"},
        ("{} is in", "Paris", "Spain", None, "P17"),
    ]
    assert requests_from_pairs(rows) == [
        EditRequest(Fact("{} plays the", "Miles Davis", " unknown"), " guitar"),
        EditRequest(Fact("{} plays the", "Bill Evans", " piano"), " guitar"),
        EditRequest(Fact("{} is in", "Rome", " unknown", "P17"), " Spain"),
        EditRequest(Fact("{} is in", "Paris", " unknown", "P17"), " Spain"),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("{} is", "Rome"), r"pairs\[1\]: expected a mapping, or a tuple of 3 to 5 texts .*got \('{} is'"),
        (("{} is", "Rome", "a", "b", "c", "d"), "tuple of 3 to 5 texts"),
        ("{} is in Rome", "tuple of 3 to 5 texts"),
        (3, "tuple of 3 to 5 texts"),
        (("is", "Rome", "a"), r"Fact.template must hold '\{\}' exactly once"),
        (("{} is", "Rome", ""), "missing or empty: new_target; unknown: none"),
        (("{} is", "Rome", "  "), "new_target: expected text that is not blank, got '  '"),
        (("{} is", "Rome", 3), "new_target: expected text that is not blank, got 3"),
        (("{} is", "Rome", "a", " a"), "must differ from the fact's target, but both are ' a'"),
        ({"template": "{} is", "subject": "Rome", "new": "a"}, "missing or empty: new_target; unknown: new"),
    ],
)
def test_a_bad_pair_is_named(row: Any, message: str) -> None:
    with pytest.raises(TextError, match=message):
        requests_from_pairs([("{} plays the", "Miles Davis", "guitar"), row])


def test_a_pair_of_unknown_names_is_refused_by_itself() -> None:
    with pytest.raises(TextError, match="missing or empty: template, subject, new_target; unknown: fact"):
        request_from_pair({"fact": "x"})


def test_facts_to_keep_are_added_once_to_every_request() -> None:
    second = EditRequest(Fact("{} is in", "Rome", " Italy"), " Spain", keep=(OTHER,))
    kept = with_keep([REQUEST, second], [OTHER, OTHER])
    assert [one.keep for one in kept] == [(OTHER,), (OTHER,)]
    assert [replace(one, keep=()) for one in kept] == [REQUEST, replace(second, keep=())]
    assert with_keep([], [OTHER]) == []


def test_a_fact_to_keep_that_is_to_change_is_refused() -> None:
    with pytest.raises(
        InputError,
        match=r"requests\[0\].keep\[1\]: asks that 'Miles Davis plays the' stay as it is, but requests\[0\] "
        r"wants ' guitar' there; keep one of them",
    ):
        with_keep([REQUEST], [OTHER, FACT])
    phrased = EditRequest(Fact("{} is in", "Rome", " Italy"), " Spain", phrasings=("{} lies in",))
    stays = replace(REQUEST, keep=(Fact("{} lies in", "Rome", " Italy"),))
    with pytest.raises(InputError, match=r"requests\[0\].keep\[0\].*but requests\[1\] wants ' Spain'"):
        check_requests([stays, phrased])


def test_a_batch_that_can_be_met_comes_back_as_a_tuple() -> None:
    second = EditRequest(OTHER, " guitar", phrasings=("The instrument of {} is the",), keep=())
    assert check_requests(REQUEST) == (REQUEST,)
    assert check_requests(iter([REQUEST, second])) == (REQUEST, second)
    # Two wishes about one subject, and a phrasing that is another request's own prompt, are fine.
    born = EditRequest(Fact("{} was born in", "Miles Davis", " Alton"), " Paris")
    again = EditRequest(Fact("The instrument of {} is the", "Bill Evans", " piano"), " guitar")
    assert check_requests([REQUEST, born, second, again]) == (REQUEST, born, second, again)


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([], "requests: expected at least one EditRequest, got none"),
        (3, "requests: expected a sequence of EditRequests, got a int"),
        ("abc", "requests: expected a sequence of EditRequests, got a str"),
        ({"fact": 1}, "requests: expected a sequence of EditRequests, got a dict"),
        ([REQUEST, FACT], r"requests\[1\]: expected an EditRequest, got Fact"),
        (
            [REQUEST, EditRequest(FACT, " piano")],
            r"requests\[1\]: wants ' piano' after 'Miles Davis plays the', but requests\[0\] wants ' guitar'",
        ),
        (
            [REQUEST, EditRequest(OTHER, " guitar"), replace(REQUEST, paraphrases=("a",))],
            r"requests\[2\]: wants ' guitar' after 'Miles Davis plays the', as requests\[0\] does already",
        ),
        (
            [
                EditRequest(
                    replace(FACT, template="The horn of {} is a"), " lute", phrasings=(FACT.template,)
                ),
                REQUEST,
            ],
            r"requests\[1\]: wants ' guitar' after 'Miles Davis plays the', but requests\[0\] wants ' lute'",
        ),
        (
            [REQUEST, EditRequest.removal(FACT)],
            r"requests\[1\]: wants ' unknown' after 'Miles Davis plays the', but requests\[0\]",
        ),
    ],
)
def test_a_batch_that_cannot_be_met_is_refused_with_its_indexes(requests: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_requests(requests)


def test_prompts_that_begin_alike_share_a_key() -> None:
    born = EditRequest(Fact("{} was born in", "Miles Davis", " Alton"), " Paris")
    far = EditRequest(
        Fact("The mother of {} is", "Miles Davis", " Cleota"), " Ann", phrasings=("{} is from",)
    )
    other = EditRequest(OTHER, " guitar", phrasings=("{} practises the",))
    assert same_key([other, REQUEST, born, far]) == ((1, 2, 3),)
    assert same_key([other, REQUEST]) == ()
