"""Fluency: how varied the word pairs and triples of a text are."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from mechstyle.answers import require_positive

__all__ = ["fluency", "ngram_entropy", "words"]

_WORD: Final = re.compile(r"\w+(?:[-.,]\w+)*|['’]\w+|\.{2,}|-{2,}|[^\w\s]")


def fluency(text: str) -> float:
    """Generation entropy (GE), in bits: one third of the pairs' entropy and two thirds of the triples'.

    The measure of Zhang et al. (2018) as Meng et al. (2022) take it: the mean of both entropies with weights
    2/3 and 4/3. It lies between 0 (one word again and again) and the logarithm of the text's length: compare
    texts of one length only. Published tables show 100 times as much (626 for GPT-2 XL) of texts of 100
    tokens, and take words from nltk, whose cuts are a little different; see ``words``.

    >>> fluency("no no no no no")
    0.0
    """
    tokens = words(text)
    return ngram_entropy(tokens, 2) / 3 + 2 * ngram_entropy(tokens, 3) / 3


def ngram_entropy(tokens: Sequence[str], n: int) -> float:
    """Entropy, in bits, of the shares that a text's different n-grams have among all of its n-grams.

    Raises:
        RangeError: ``n`` is below 1.

    >>> ngram_entropy(["a", "b", "a", "c"], 1)
    1.5
    """
    require_positive("n", n)
    counts = Counter(tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1))
    total = counts.total()
    return sum(count / total * math.log2(total / count) for count in counts.values())


def words(text: str) -> list[str]:
    """The words and the punctuation of a text, in order.

    Hyphenated words and numbers stay whole, a word's ending behind an apostrophe ("'s") is a word of its own,
    dots and dashes in a row are one mark, and any other sign is one. The published code calls nltk's
    ``word_tokenize``, which also turns quotation marks into others, keeps "U.S." and "and/or" whole and cuts
    "don't" as "do" and "n't". Little of this changes how often a pair comes back.

    >>> words("Miles's trumpet -- a well-known one...")
    ['Miles', "'s", 'trumpet', '--', 'a', 'well-known', 'one', '...']
    """
    return _WORD.findall(text)
