"""Texts as weighted counts of words and letters, plain data that needs no fitted object to be used again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from mechstyle.errors import InputError

__all__ = ["Ngrams", "Unit"]

Unit = Literal["word", "char_wb"]
_RANGES: Final[dict[Unit, tuple[int, int]]] = {"word": (1, 2), "char_wb": (3, 5)}


@dataclass(frozen=True, eq=False)
class Ngrams:
    """Words and pairs of words ("word"), or three to five letters of a word ("char_wb"), weighted by tf-idf.

    A count ``c`` weighs ``(1 + log c) idf`` with ``idf = 1 + log((1 + texts) / (1 + texts with it))``; each
    text's weights have Euclidean length 1.

    Args:
        terms: the vocabulary.
        idf: a weight for each term.

    >>> ngrams, weights = Ngrams.fit("word", ["a fine film", "a dull film"], min_texts=1, limit=10)
    >>> ngrams.terms[:3], weights.shape
    (('a', 'a dull', 'a fine'), (2, 8))
    """

    unit: Unit
    terms: tuple[str, ...]
    idf: Float[NDArray[np.float64], " term"]

    @classmethod
    def fit(cls, unit: Unit, texts: Sequence[str], *, min_texts: int, limit: int) -> tuple[Ngrams, Any]:
        """Take the terms that at least ``min_texts`` texts have, the ``limit`` most frequent ones.

        Returns:
            them, and the texts' weights as ``weigh`` gives them.

        Raises:
            InputError: there are none.
        """
        counter = _counter(unit, min_df=min_texts, max_features=limit)
        try:
            counts = counter.fit_transform(texts)
        except ValueError as error:
            raise InputError(
                f"texts: no {'word' if unit == 'word' else 'letters'} in them that {min_texts} texts share "
                f"({error}); give more texts."
            ) from error
        holding = np.asarray((counts > 0).sum(0), dtype=np.float64).ravel()
        idf = 1 + np.log((1 + len(texts)) / (1 + holding))
        found = cls(unit, tuple(counter.get_feature_names_out().tolist()), idf)
        return found, found._weighted(counts)

    def weigh(self, texts: Sequence[str]) -> Any:
        """The texts' weights, a scipy CSR matrix [text, term]; zeros where a text has none of the terms."""
        return self._weighted(_counter(self.unit, vocabulary=self.terms).transform(texts))

    def _weighted(self, counts: Any) -> Any:
        from scipy.sparse import diags_array

        weights = counts.astype(np.float64)
        weights.data = (1 + np.log(weights.data)) * self.idf[weights.indices]
        length = np.sqrt(np.asarray(weights.multiply(weights).sum(1)).ravel())
        inverse = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0)
        return diags_array(inverse).tocsr() @ weights


def _counter(
    unit: Unit, *, vocabulary: Sequence[str] | None = None, min_df: int = 1, max_features: int | None = None
) -> Any:
    from sklearn.feature_extraction.text import CountVectorizer

    return CountVectorizer(
        analyzer=unit,
        ngram_range=_RANGES[unit],
        token_pattern=r"(?u)\b\w+\b" if unit == "word" else None,
        vocabulary=vocabulary,
        min_df=min_df,
        max_features=max_features,
    )
