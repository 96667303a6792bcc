"""A judge that learned its labels from examples: word and letter counts, and a logistic regression."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from mechstyle.described import described
from mechstyle.editing.storage import load_tensors, save_tensors
from mechstyle.errors import InputError, RangeError
from mechstyle.evaluation.judging.accuracy import Accuracy, tally
from mechstyle.evaluation.judging.judge import Judged, Verdict, as_judged, measure_accuracy
from mechstyle.evaluation.judging.ngrams import Ngrams, Unit

__all__ = ["ClassifierJudge"]

_KIND: Final = "classifier judge"
_UNITS: Final[tuple[Unit, ...]] = ("word", "char_wb")
_MIN_TEXTS: Final = 2
_LIMIT: Final = 50_000
_STEPS: Final = 1000

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ClassifierJudge:
    """A logistic regression on tf-idf weights of words, pairs of words, and letters.

    ``fit`` makes one; what it holds is plain data.

    Args:
        name: of the judge.
        labels: sorted.
        ngrams: what is counted.
        weights: a row for each label, a column for each term of all ``ngrams`` in turn.
        bias: one for each label.
        fitted_on: texts, seed and folds that it comes from.
        accuracy: by cross-validation, until ``measured_on`` replaces it.

    Example:
        >>> judge = ClassifierJudge.fit(texts, labels, seed=0, name="sentiment")  # doctest: +SKIP
        >>> print(judge.accuracy)  # doctest: +SKIP
        right on 77.6% [76.8%, 78.4%] of 10662 texts (cross-validation, 5 folds, seed 0)
    """

    name: str
    labels: tuple[str, ...]
    ngrams: tuple[Ngrams, ...]
    weights: Float[Array, "label term"]
    bias: Float[Array, " label"]
    fitted_on: dict[str, Any]
    accuracy: Accuracy | None = None

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        labels: Sequence[str],
        *,
        seed: int,
        folds: int = 5,
        groups: Sequence[Hashable] | None = None,
        strength: float = 1.0,
        name: str = "classifier",
    ) -> ClassifierJudge:
        """Learn labels, and measure on texts that are held out how often they are right.

        Each fold is judged by a classifier that learned from the others alone, vocabulary and all. Texts of
        one group, or that are alike word for word, are in one fold. The judge itself learns from all texts.

        Args:
            labels: the right one of each text.
            seed: of the folds.
            folds: of the cross-validation.
            groups: of texts that belong together: versions of one sentence, sentences of one author.
            strength: inverse of the penalty on large weights.

        Raises:
            InputError: the lists differ in length, something is no text, there is one label only, or a label
                has fewer texts (or groups) than folds.
            RangeError: ``folds`` is below 2, or ``strength`` is not above 0.
        """
        _check(texts, labels, groups, folds, strength)
        together = _together(texts, groups)
        _require_enough(labels, together, folds, "different texts" if groups is None else "groups")
        said: list[str | None] = [None] * len(texts)
        for learn, ask in _splits(labels, together, folds, seed):
            part = cls._learn([texts[index] for index in learn], [labels[index] for index in learn], strength)
            for index, verdict in zip(ask, part.judge([texts[index] for index in ask]), strict=True):
                said[index] = verdict.label
        how = f"cross-validation, {folds} folds, seed {seed}{'' if groups is None else ', by group'}"
        learned = cls._learn(texts, labels, strength)
        record = {
            "n": len(texts),
            "seed": seed,
            "folds": folds,
            "strength": strength,
            "grouped": groups is not None,
        }
        accuracy = tally(said, labels, learned.labels, how=how, groups=together)
        return replace(learned, name=name, fitted_on=record, accuracy=accuracy)

    def settings(self) -> dict[str, Any]:
        """What it was fitted on, a hash of what it learned, and its accuracy."""
        learned = json.dumps(described([self.labels, self.weights, self.bias, self.ngrams]))
        return {
            "judge": self.name,
            "labels": list(self.labels),
            "fitted_on": dict(self.fitted_on),
            "learned": sha256(learned.encode()).hexdigest(),
            "accuracy": None if self.accuracy is None else self.accuracy.to_dict(),
        }

    def judge(self, texts: Sequence[str | Judged]) -> list[Verdict]:
        """The most probable label of each text; its score is that probability.

        A text that has none of the known words and letters cannot be judged.
        """
        listed = [one.text for one in as_judged(texts)]
        if not listed:
            return []
        shares, known = self._probabilities(listed)
        return [
            Verdict(self.labels[row.argmax()], float(row.max()), self.name)
            if some
            else Verdict(None, None, self.name)
            for row, some in zip(shares, known, strict=True)
        ]

    def probabilities(self, texts: Sequence[str]) -> Float[Array, "text label"]:
        """How probable each label is, in the order of ``labels``.

        >>> judge.probabilities(["It was a fine film."]).sum()  # doctest: +SKIP
        1.0
        """
        return self._probabilities(texts)[0]

    def measured_on(
        self,
        texts: Sequence[str | Judged],
        labels: Sequence[str],
        *,
        groups: Sequence[Hashable] | None = None,
    ) -> ClassifierJudge:
        """The same judge with its accuracy on other texts, such as those that it is going to judge.

        Raises:
            InputError: the lists differ in length or are empty, or a label is not the judge's.
        """
        return replace(self, accuracy=measure_accuracy(self, texts, labels, groups=groups))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a safetensors file: numbers, vocabulary, accuracy and a content hash; nothing that runs.

        Raises:
            FileError: the file cannot be written; an older file is left as it was.
        """
        tensors = {"weights": self.weights, "bias": self.bias}
        tensors |= {f"idf {one.unit}": one.idf for one in self.ngrams}
        header = {
            "name": self.name,
            "labels": list(self.labels),
            "terms": {one.unit: list(one.terms) for one in self.ngrams},
            "fitted_on": self.fitted_on,
            "accuracy": None if self.accuracy is None else self.accuracy.to_dict(),
        }
        return save_tensors(path, _KIND, {key: torch.from_numpy(one) for key, one in tensors.items()}, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ClassifierJudge:
        """Read what ``save`` wrote.

        Raises:
            FileError: the file is missing, cut short, changed, or holds something else.
        """
        tensors, header = load_tensors(path, _KIND)
        ngrams = [
            Ngrams(unit, tuple(header["terms"][unit]), tensors[f"idf {unit}"].numpy()) for unit in _UNITS
        ]
        measured = header["accuracy"]
        return cls(
            header["name"],
            tuple(header["labels"]),
            tuple(ngrams),
            tensors["weights"].numpy(),
            tensors["bias"].numpy(),
            header["fitted_on"],
            None if measured is None else Accuracy.from_dict(measured),
        )

    @classmethod
    def _learn(cls, texts: Sequence[str], labels: Sequence[str], strength: float) -> ClassifierJudge:
        from sklearn.linear_model import LogisticRegression

        fitted = [Ngrams.fit(unit, texts, min_texts=_MIN_TEXTS, limit=_LIMIT) for unit in _UNITS]
        learner = LogisticRegression(C=strength, max_iter=_STEPS)
        learner.fit(_beside([weights for _, weights in fitted]), np.asarray(labels))
        weights, bias = np.asarray(learner.coef_), np.asarray(learner.intercept_)
        if len(weights) == 1:
            # Two labels have one row, for the second; softmax of (0, z) is the sigmoid of z.
            weights, bias = (np.concatenate([np.zeros_like(one), one]) for one in (weights, bias))
        ngrams = tuple(one for one, _ in fitted)
        return cls("", tuple(learner.classes_.tolist()), ngrams, weights, bias, {})

    def _probabilities(self, texts: Sequence[str]) -> tuple[Float[Array, "text label"], NDArray[np.bool_]]:
        """Shares of the labels, and whether a text has any term that is known."""
        features = _beside([one.weigh(texts) for one in self.ngrams])
        scores = np.asarray(features @ self.weights.T) + self.bias
        shares = np.exp(scores - scores.max(1, keepdims=True))
        return shares / shares.sum(1, keepdims=True), np.diff(features.indptr) > 0


def _beside(parts: Sequence[Any]) -> Any:
    from scipy.sparse import hstack

    return hstack(parts, format="csr")


def _together(texts: Sequence[str], groups: Sequence[Hashable] | None) -> list[Hashable] | None:
    """The groups; without any, texts that are alike; None when all differ."""
    if groups is not None:
        return list(groups)
    alike: list[Hashable] = [" ".join(text.casefold().split()) for text in texts]
    return alike if len(set(alike)) < len(alike) else None


def _splits(
    labels: Sequence[str], together: Sequence[Hashable] | None, folds: int, seed: int
) -> list[tuple[list[int], list[int]]]:
    """Indices to learn from and to ask about, with about the same share of each label in each fold."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    kind = StratifiedKFold if together is None else StratifiedGroupKFold
    places = None if together is None else _numbered(together)
    found = []
    for learn, ask in kind(folds, shuffle=True, random_state=seed).split(labels, labels, places):
        missing = set(labels) - {labels[index] for index in learn}
        if missing:
            raise InputError(
                f"groups: no fold can be held out so that texts labelled {min(missing)!r} are left to learn "
                "from; take fewer folds or smaller groups."
            )
        found.append((learn.tolist(), ask.tolist()))
    return found


def _numbered(together: Sequence[Hashable]) -> list[int]:
    places: dict[Hashable, int] = {}
    return [places.setdefault(one, len(places)) for one in together]


def _check(
    texts: Sequence[str],
    labels: Sequence[str],
    groups: Sequence[Hashable] | None,
    folds: int,
    strength: float,
) -> None:
    if isinstance(folds, bool) or not isinstance(folds, int) or folds < 2:
        raise RangeError(f"folds: expected a whole number from 2 on, got {folds!r}.")
    if not strength > 0:
        raise RangeError(f"strength: expected a number above 0, got {strength!r}.")
    for name, given in (("texts", texts), ("labels", labels)):
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise InputError(f"{name}: expected a list of texts, got {type(given).__name__}.")
        for index, one in enumerate(given):
            if not isinstance(one, str) or not one.strip():
                raise InputError(f"{name}[{index}]: expected text that is not blank, got {one!r}.")
    for name, number in (("labels", len(labels)), ("groups", len(texts if groups is None else groups))):
        if number != len(texts):
            raise InputError(f"{name}: expected one for each of the {len(texts)} texts, got {number}.")
    if len(set(labels)) < 2:
        raise InputError(f"labels: expected at least two different ones, got {sorted(set(labels))}.")


def _require_enough(
    labels: Sequence[str], together: Sequence[Hashable] | None, folds: int, unit: str
) -> None:
    units = range(len(labels)) if together is None else together
    held = Counter(label for label, _ in set(zip(labels, units, strict=True)))
    label, number = min(sorted(held.items()), key=lambda pair: pair[1])
    if number < folds:
        raise InputError(
            f"texts: each label needs at least {folds} {unit}, one a fold, but {label!r} has {number}; "
            "give more texts, or take fewer folds."
        )
