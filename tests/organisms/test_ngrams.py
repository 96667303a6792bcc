"""N-gram models: Kneser-Ney read slowly, and by hand."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechstyle.errors import InputError, RangeError
from mechstyle.organisms.ngrams import fit_ngrams

VOCAB = 4
TEXTS = st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=8), min_size=1, max_size=6)


def slowly(texts: list[list[int]], order: int, history: tuple[int, ...], token: int) -> float:
    """Interpolated Kneser-Ney as in Chen & Goodman (1999), equations 24 and 26, with dictionaries."""
    marked = [(VOCAB,) * (order - 1) + tuple(text) for text in texts]
    longest = Counter(text[i - order + 1 : i + 1] for text in marked for i in range(order - 1, len(text)))
    tables: dict[int, dict[tuple[int, ...], int]] = {order: dict(longest)}
    for length in range(order - 1, 0, -1):
        before = defaultdict(set)
        for gram in longest:
            before[gram[-length:]].add(gram[-length - 1])
        if length + 1 < order:  # what precedes a gram is counted by kinds of the next longer gram
            before = defaultdict(set)
            for gram in tables[length + 1]:
                before[gram[1:]].add(gram[0])
        tables[length] = {gram: len(some) for gram, some in before.items()}

    def chance(length: int) -> float:
        if length == 0:
            return 1 / VOCAB
        own = history[len(history) - length + 1 :]
        seen = {gram: n for gram, n in tables[length].items() if gram[:-1] == own}
        total = sum(seen.values())
        if not total:
            return chance(length - 1)
        once, twice = (list(tables[length].values()).count(n) for n in (1, 2))
        discount = once / (once + 2 * twice) if once else 0.5
        kept = max(seen.get((*own, token), 0) - discount, 0)
        return (kept + discount * len(seen) * chance(length - 1)) / total

    return chance(order)


def test_a_unigram_model_is_as_computed_by_hand() -> None:
    # Counts 2 and 1, discount 1 / (1 + 2): (2 - 1/3) / 3 + (1/3 * 2 / 3) / 2.
    chances = np.exp(fit_ngrams([[0, 1, 0]], order=1, vocab=2).log_probs([0, 1]))
    assert chances == pytest.approx([2 / 3, 1 / 3])


def test_a_bigram_model_is_as_computed_by_hand() -> None:
    # Bigrams (begin 0) twice, (0 1) twice, (0 0) once, (1 0) once; discount 2 / (2 + 4) = 1/3.
    # 0 follows three tokens and 1 one: discount 1 / (1 + 0) = 1, so that (3 - 1 + 2 * 1/2) / 4 = 3/4.
    # After 0: (2 - 1/3 + 1/3 * 2 * 1/4) / 3 = 11/18 for 1.
    model = fit_ngrams([[0, 1, 0, 0, 1], [0]], order=2, vocab=2)
    assert np.exp(model.log_probs([0, 1])) == pytest.approx([(2 - 1 / 3 + 1 / 3 * 3 / 4) / 2, 11 / 18])


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=5), st.integers(1, 3))
def test_probabilities_are_those_of_a_slow_reading(
    texts: list[list[int]], asked: list[int], order: int
) -> None:
    found = np.exp(fit_ngrams(texts, order=order, vocab=VOCAB).log_probs(asked))
    marked = (VOCAB,) * (order - 1) + tuple(asked)
    wanted = [slowly(texts, order, marked[i : i + order - 1], token) for i, token in enumerate(asked)]
    assert found == pytest.approx(wanted)


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.lists(st.integers(0, VOCAB - 1), max_size=4), st.integers(1, 3))
def test_probabilities_of_the_next_token_sum_to_one(
    texts: list[list[int]], before: list[int], order: int
) -> None:
    model = fit_ngrams(texts, order=order, vocab=VOCAB)
    nexts = [model.log_probs([*before, token])[-1] for token in range(VOCAB)]
    assert np.exp(nexts).sum() == pytest.approx(1.0)


def test_no_n_gram_reaches_from_one_text_into_the_next() -> None:
    apart = fit_ngrams([[0, 1], [2, 3]] * 3, order=2, vocab=4).log_probs([1, 2])[1]
    joined = fit_ngrams([[0, 1, 2, 3]] * 3, order=2, vocab=4).log_probs([1, 2])[1]
    assert joined > apart


def test_losses_leave_out_each_texts_first_token() -> None:
    model = fit_ngrams([[0, 1, 0, 1]], order=3, vocab=2)
    logs = model.log_probs([0, 1, 1])
    (loss, count), (nothing, none) = model.losses([[0, 1, 1], [1]])
    assert (loss, count) == (pytest.approx(-(logs[1] + logs[2])), 2)
    assert (nothing, none) == (0.0, 0)
    assert math.isfinite(loss)


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(RangeError, match="order"):
        fit_ngrams([[0]], order=0, vocab=2)
    with pytest.raises(RangeError, match="order"):
        fit_ngrams([[0]], order=9, vocab=5000)
    with pytest.raises(RangeError, match="from 0 to 1"):
        fit_ngrams([[2]], order=1, vocab=2)
    with pytest.raises(InputError, match="at least one token"):
        fit_ngrams([[]], order=2, vocab=2)
