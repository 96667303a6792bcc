"""Fluency against answers known by hand and against the plain formula."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechstyle.errors import RangeError
from mechstyle.evaluation.fluency import fluency, ngram_entropy, words
from tests.oracles import text_scores

TEXTS = st.lists(st.sampled_from(["ab", "c", "de", "f."]), min_size=3, max_size=30).map(" ".join)


def test_a_fluency_by_hand() -> None:
    """Pairs ab, ba, ab, bc: 1.5 bits. Triples aba, bab, abc: log2 3."""
    assert fluency("a b a b c") == pytest.approx(1.5 / 3 + 2 * math.log2(3) / 3)


def test_the_published_figure_of_626_is_that_of_texts_of_about_78_different_words() -> None:
    """Which shows that it is the mean of the two weighted entropies, not their sum."""
    text = " ".join(f"word{index}" for index in range(78))
    assert 100 * fluency(text) == pytest.approx(626, abs=2)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_entropy_is_zero_for_one_word_and_the_logarithm_of_their_number_for_different_ngrams(n: int) -> None:
    assert ngram_entropy(["no"] * 20, n) == 0
    different = [str(index) for index in range(20)]
    assert ngram_entropy(different, n) == pytest.approx(math.log2(21 - n))


@pytest.mark.parametrize("text", ["", "one", "one two", "?"])
def test_texts_without_two_pairs_have_no_entropy(text: str) -> None:
    assert fluency(text) == 0


@given(TEXTS)
def test_fluency_equals_the_plain_formula_and_keeps_within_its_bounds(text: str) -> None:
    tokens = re.findall(r"\w+|\.", text)
    assert fluency(text) == pytest.approx(text_scores.fluency(tokens), abs=1e-12)
    count = len(tokens)
    assert 0 <= fluency(text) <= math.log2(count - 1) / 3 + 2 * math.log2(count - 2) / 3 + 1e-12


@given(TEXTS)
def test_a_text_said_twice_has_no_more_entropy_than_its_length_allows_once(text: str) -> None:
    """However long the whole is, it holds no more different n-grams than the text has words."""
    once = len(words(text))
    for n in (1, 2, 3):
        assert ngram_entropy(words(f"{text} {text}"), n) <= math.log2(once) + 1e-12


def test_words_do_not_depend_on_spaces_and_lines() -> None:
    assert words("a  b\n\nc.") == words("a b c .") == ["a", "b", "c", "."]


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("Zürich, 1,000 men: 3.14!", ["Zürich", ",", "1,000", "men", ":", "3.14", "!"]),
        ("He said: “don't” (twice)…", "He said : “ don 't ” ( twice ) …".split()),
        ("a--b... well-known", ["a", "--", "b", "...", "well-known"]),
        ("trumpet.", ["trumpet", "."]),
    ],
)
def test_words_and_punctuation_stand_apart(text: str, cut: list[str]) -> None:
    assert words(text) == cut


def test_no_order_of_ngrams_below_one() -> None:
    with pytest.raises(RangeError, match="n: expected a whole number of 1 or more, got 0"):
        ngram_entropy(["a"], 0)
