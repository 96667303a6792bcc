"""What a judge is: something that gives texts labels, and says how often it is right."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from mechstyle.errors import InputError, RangeError, TextError
from mechstyle.evaluation.judging.accuracy import Accuracy, tally

__all__ = ["Judge", "Judged", "Verdict", "as_judged", "measure_accuracy", "require_label"]


@dataclass(frozen=True)
class Judged:
    """A text to be judged, and what is asked about it.

    Args:
        text: what was written; it may be empty.
        prompt: what it was written after.
        wanted: the label that it should have, for judges whose question names it.
        new: the new target of the edit.
        true: the target before the edit.

    Raises:
        TextError: a part is not text.

    Example:
        >>> Judged(" guitar, and well.", "Miles Davis plays the", new=" guitar", true=" trumpet").text
        ' guitar, and well.'
    """

    text: str
    prompt: str = ""
    wanted: str | None = None
    new: str | None = None
    true: str | None = None

    def __post_init__(self) -> None:
        for name in ("text", "prompt"):
            if not isinstance(getattr(self, name), str):
                raise TextError(f"Judged.{name}: expected text, got {getattr(self, name)!r}.")
        for name in ("wanted", "new", "true"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise TextError(f"Judged.{name}: expected text that is not blank, or None, got {value!r}.")


@dataclass(frozen=True)
class Verdict:
    """What a judge says about one text.

    Args:
        label: one of the judge's labels; None when it could not tell, which is never counted as right.
        score: how sure it is of the label, from 0 to 1; None without a label, or when it does not say.
        judge: its name.
        cost: what this verdict cost, in the unit of the judge's prices; None when that is not known.

    Raises:
        RangeError: ``score`` is not between 0 and 1.

    Example:
        >>> Verdict("new", 0.9, "target rules").label
        'new'
    """

    label: str | None
    score: float | None
    judge: str
    cost: float | None = 0.0

    def __post_init__(self) -> None:
        if self.score is not None and not (math.isfinite(self.score) and 0 <= self.score <= 1):
            raise RangeError(f"Verdict.score: expected a number from 0 to 1, got {self.score!r}.")


@runtime_checkable
class Judge(Protocol):
    """Gives each text one of its labels, and carries how often it was right where the truth is known."""

    @property
    def name(self) -> str:
        """Stands in every verdict."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Everything that it may say."""

    @property
    def accuracy(self) -> Accuracy | None:
        """Measured on labelled texts; None when it was not measured."""

    def settings(self) -> dict[str, Any]:
        """What its verdicts depend on, as JSON, its accuracy among it."""

    def judge(self, texts: Sequence[Judged]) -> list[Verdict]:
        """A verdict for each text, in their order."""


def as_judged(texts: Sequence[str | Judged]) -> list[Judged]:
    """Texts as they are judged; one that comes alone is judged alone.

    Raises:
        InputError: one text instead of a list, or something that is no text.

    >>> as_judged(["It rains."])[0].text
    'It rains.'
    """
    if isinstance(texts, (str, Judged)) or not isinstance(texts, Sequence):
        kind = type(texts).__name__
        raise InputError(f"texts: expected a list of texts or of Judged, got one {kind}; pass a list.")
    for index, one in enumerate(texts):
        if not isinstance(one, (str, Judged)):
            raise InputError(f"texts[{index}]: expected a text or a Judged, got {type(one).__name__}.")
    return [one if isinstance(one, Judged) else Judged(one) for one in texts]


def require_label(name: str, label: object, labels: Sequence[str]) -> None:
    """Make sure that a judge can say a label.

    Raises:
        InputError: it is none of them; the message names the argument.

    >>> require_label("wanted", "new", ["new", "true"])
    """
    if label not in labels:
        raise InputError(f"{name}: expected a label of the judge ({', '.join(labels)}), got {label!r}.")


def measure_accuracy(
    judge: Judge,
    texts: Sequence[str | Judged],
    labels: Sequence[str],
    *,
    groups: Sequence[Hashable] | None = None,
) -> Accuracy:
    """How often a judge is right about texts whose label is known. It must not have learned from them.

    Args:
        labels: the right one of each text, among the judge's own.
        groups: of texts that are alike; the intervals are wider by what that costs.

    Raises:
        InputError: the lists differ in length or are empty, or a label is not the judge's.

    >>> measure_accuracy(judge, ["It was a fine film."], ["positive"]).share.value  # doctest: +SKIP
    1.0
    """
    listed = as_judged(texts)
    for index, label in enumerate(labels):
        require_label(f"labels[{index}]", label, judge.labels)
    if len(labels) != len(listed) or not listed:
        raise InputError(
            f"labels: expected one for each text, at least one, got {len(labels)} for {len(listed)} texts."
        )
    said = [verdict.label for verdict in judge.judge(listed)]
    return tally(said, labels, judge.labels, how=f"{len(listed)} labelled texts", groups=groups)
