"""Consistency: how much the words of a text are those of reference texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from sklearn.feature_extraction.text import TfidfVectorizer

from mechstyle.errors import InputError, TextError

__all__ = ["TfidfSpace", "consistency"]


@dataclass(frozen=True, eq=False)
class TfidfSpace:
    """Which words count, and how much: the rarer among the documents, the more.

    A text's coordinates are the counts of its words (of two letters or more, in lower case) times
    ``ln((1 + n) / (1 + df)) + 1``, at length 1: there are ``n`` documents, ``df`` of them with the word.
    Words of no document do not count.

    Args:
        n_documents: that the space was fitted on.
        sha256: of these documents, in their order.
        vectorizer: scikit-learn's, fitted.

    Example:
        >>> TfidfSpace.fit(["a red rose", "a blue iris"]).cosine("red and blue", "a red rose") > 0
        True
    """

    n_documents: int
    sha256: str
    vectorizer: TfidfVectorizer = field(repr=False)

    @classmethod
    def fit(cls, documents: Sequence[str]) -> TfidfSpace:
        """Count in how many documents each word is.

        Meng et al. (2022) take snippets of Wikipedia: the reference texts of their whole data set.

        Raises:
            InputError: one string instead of a list, or no documents.
            TextError: there is no word in them.
        """
        if isinstance(documents, str) or not isinstance(documents, Sequence):
            raise InputError(
                f"documents: expected a list of texts, got one {type(documents).__name__}; pass [text]."
            )
        if not documents:
            raise InputError("documents: expected at least one text, got none.")
        for index, one in enumerate(documents):
            if not isinstance(one, str):
                raise InputError(f"documents[{index}]: expected text, got {type(one).__name__}.")
        vectorizer = TfidfVectorizer()
        analyse = vectorizer.build_analyzer()
        if not any(analyse(one) for one in documents):
            raise TextError(
                f"documents: expected a word of two letters or more, got none in {len(documents)} text(s), "
                f"the first being {documents[0]!r}; pass the texts themselves."
            )
        mark = hashlib.sha256(json.dumps(list(documents)).encode()).hexdigest()
        return cls(len(documents), mark, vectorizer.fit(documents))

    def cosine(self, first: str, second: str) -> float:
        """Cosine of two texts, from 0 to 1; 0 when one of them has no word that counts.

        >>> TfidfSpace.fit(["a red rose"]).cosine("red", "blue")
        0.0
        """
        both = self.vectorizer.transform([first, second])
        return min(1.0, float(both[[0]].multiply(both[[1]]).sum()))


def consistency(texts: Sequence[str], references: Sequence[str], space: TfidfSpace) -> float:
    """Reference score (RS): the cosine between all texts together and all references together.

    The measure of Meng et al. (2022), whose tables show 100 times as much. There, a text without any word
    of the space has no score; here it has 0, so that a model that writes gibberish is not spared.

    Args:
        texts: generated ones; joined by spaces.
        references: what they should resemble; joined likewise.

    >>> space = TfidfSpace.fit(["a red rose", "a blue iris"])
    >>> round(consistency(["red", "rose"], ["a red rose"], space), 6)
    1.0
    """
    return space.cosine(" ".join(texts), " ".join(references))
