"""Consistency against a hand-written tf-idf and against answers known by hand."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechstyle.errors import InputError, TextError
from mechstyle.evaluation.similarity import TfidfSpace, consistency
from tests.oracles import text_scores

DOCUMENTS = [
    "Miles Davis plays the trumpet, and the trumpet plays him.",
    "The piano is the instrument of Bill Evans.",
    "Zürich is a city. The city is old.",
]
SPACE = TfidfSpace.fit(DOCUMENTS)
TEXTS = st.lists(
    st.sampled_from("the The trumpet, piano. city a I ZÜRICH is of guitar 12".split()), max_size=12
).map(" ".join)


@given(TEXTS, TEXTS)
def test_cosines_equal_a_hand_written_tf_idf(first: str, second: str) -> None:
    found = SPACE.cosine(first, second)
    assert found == pytest.approx(text_scores.cosine(first, second, DOCUMENTS), abs=1e-12)
    assert found == pytest.approx(SPACE.cosine(second, first), abs=1e-15)
    assert 0 <= found <= 1


def test_a_cosine_by_hand() -> None:
    """With two documents, "red" in both counts 1 and "rose" in one ln(3/2) + 1."""
    space = TfidfSpace.fit(["red rose", "red iris"])
    rare = math.log(3 / 2) + 1
    assert space.cosine("red red", "Rose red?") == pytest.approx(1 / math.hypot(1, rare))
    assert space.cosine("red rose rose", "red rose") == pytest.approx(
        (1 + 2 * rare**2) / math.hypot(1, 2 * rare) / math.hypot(1, rare)
    )


def test_the_same_words_in_another_order_are_one_and_other_words_are_nothing() -> None:
    assert SPACE.cosine("the old city of Zürich", "city, Zürich! Of the OLD") == pytest.approx(1)
    assert SPACE.cosine("trumpet", "piano") == 0
    assert SPACE.cosine("xyzzy", "piano") == 0
    assert SPACE.cosine("", "") == 0


def test_texts_are_put_together_before_they_are_compared() -> None:
    texts, references = ["the trumpet", "of Miles"], ["Miles plays", "the piano"]
    whole = text_scores.cosine("the trumpet of Miles", "Miles plays the piano", DOCUMENTS)
    assert consistency(texts, references, SPACE) == pytest.approx(whole)


def test_a_space_knows_what_it_was_fitted_on() -> None:
    same, other = TfidfSpace.fit(tuple(DOCUMENTS)), TfidfSpace.fit([*DOCUMENTS[:2], "Zürich"])
    assert (SPACE.n_documents, SPACE.sha256) == (3, same.sha256)
    assert other.sha256 != SPACE.sha256
    assert TfidfSpace.fit(["ab", "c"]).sha256 != TfidfSpace.fit(["a", "bc"]).sha256
    with pytest.raises(dataclasses.FrozenInstanceError):
        SPACE.n_documents = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ("a rose", "documents: expected a list of texts, got one str; pass [text]."),
        ([], "documents: expected at least one text, got none."),
        (["a rose", 3], "documents[1]: expected text, got int."),
        (["?", "a"], "documents: expected a word of two letters or more, got none in 2 text(s), the first "),
    ],
)
def test_bad_documents_are_named(documents: object, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        TfidfSpace.fit(documents)  # type: ignore[arg-type]
    assert isinstance(caught.value, TextError) == ("two letters" in message)
