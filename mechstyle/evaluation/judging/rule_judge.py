"""Judges by rules: detectors of labels, and which of an edit's two targets a text says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, get_args

from mechstyle.described import described
from mechstyle.errors import InputError, RangeError, TextError
from mechstyle.evaluation.judging.accuracy import Accuracy
from mechstyle.evaluation.judging.judge import Judged, Verdict, as_judged, measure_accuracy

__all__ = ["Detector", "RuleJudge", "TargetJudge", "Where", "labelled_targets"]

Detector: TypeAlias = Callable[[str], float] | str
"""A function text -> how strongly it has a label, from 0 (not at all) to 1, or a regular expression."""

Where = Literal["start", "anywhere"]
_NEITHER: Final = "neither"
_EXAMPLES: Final = files("mechstyle.evaluation.judging") / "examples" / "targets.jsonl"


@dataclass(frozen=True, eq=False)
class RuleJudge:
    """Gives the label whose detector is the strongest.

    Where two are equally strong, it cannot tell. This is where a model organism's detectors of its styles go.

    Args:
        name: of the judge.
        detectors: label -> a function of the text, or a regular expression (``re.search``).
        otherwise: label of texts in which nothing is detected; None when the judge cannot tell then.
        accuracy: as ``measured_on`` finds it.

    Raises:
        InputError: no detectors, or something else than a function or a regular expression; or what a
            function holds cannot be seen, so that its rows in a folder could not be told from another's.

    Example:
        >>> judge = RuleJudge("old words", {"old": r"\\b(thou|hath|unto)\\b"}, otherwise="new")
        >>> [verdict.label for verdict in judge.judge(["And he said unto her,", "He told her"])]
        ['old', 'new']
    """

    name: str
    detectors: Mapping[str, Detector]
    otherwise: str | None = _NEITHER
    accuracy: Accuracy | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.detectors, Mapping) or not self.detectors:
            raise InputError(f"detectors: expected a mapping label -> detector, got {self.detectors!r}.")
        for label, detector in self.detectors.items():
            _require_detector(label, detector)
        if self.otherwise in self.detectors:
            raise InputError(f"otherwise: {self.otherwise!r} has a detector of its own; name another label.")
        object.__setattr__(self, "detectors", MappingProxyType(dict(self.detectors)))

    @property
    def labels(self) -> tuple[str, ...]:
        """Those with a detector, and what is said where none finds anything."""
        return (*self.detectors, *(() if self.otherwise is None else (self.otherwise,)))

    def settings(self) -> dict[str, Any]:
        """The detectors: regular expressions, and functions by their names and a hash of what they do."""
        return {
            "judge": self.name,
            "detectors": {label: described(one, exact=True) for label, one in self.detectors.items()},
            "otherwise": self.otherwise,
            "accuracy": None if self.accuracy is None else self.accuracy.to_dict(),
        }

    def judge(self, texts: Sequence[str | Judged]) -> list[Verdict]:
        """A verdict for each text; its score is the detector's strength.

        Raises:
            RangeError: a detector's answer is not between 0 and 1.
        """
        return [self._verdict(one.text) for one in as_judged(texts)]

    def measured_on(self, texts: Sequence[str | Judged], labels: Sequence[str]) -> RuleJudge:
        """The same judge with its accuracy on texts whose labels are known.

        Raises:
            InputError: the lists differ in length or are empty, or a label is not the judge's.
        """
        return replace(self, accuracy=measure_accuracy(self, texts, labels))

    def _verdict(self, text: str) -> Verdict:
        found = {label: _strength(label, detector, text) for label, detector in self.detectors.items()}
        most = max(found.values())
        if most == 0:
            return Verdict(self.otherwise, None if self.otherwise is None else 1.0, self.name)
        best = [label for label, strength in found.items() if strength == most]
        return Verdict(best[0], most, self.name) if len(best) == 1 else Verdict(None, None, self.name)


@dataclass(frozen=True)
class TargetJudge:
    """Says which of an edit's two targets a text gives: "new", "true", "both" or "neither".

    A target is said where its words stand with no letter or digit on either side. A target inside the other
    one ("York" in "New York") is not said there. Rules know no negation and no synonyms: "not the guitar"
    says guitar. How often that misleads is what the accuracy tells.

    Args:
        where: at the "start" of the text, behind spaces and punctuation at most, or "anywhere".
        ignore_case: "Guitar" says "guitar".
        accuracy: as ``measured_on`` finds it.

    Raises:
        InputError: ``where`` is something else.

    Example:
        >>> TargetJudge().judge([Judged(" guitar, well", new=" guitar", true=" horn")])[0].label
        'new'
    """

    where: Where = "start"
    ignore_case: bool = False
    accuracy: Accuracy | None = None

    def __post_init__(self) -> None:
        if self.where not in get_args(Where):
            raise InputError(
                f"where: expected {' or '.join(map(repr, get_args(Where)))}, got {self.where!r}."
            )

    @property
    def name(self) -> str:
        """Tells the two rules apart."""
        return f"target rules ({self.where})"

    @property
    def labels(self) -> tuple[str, ...]:
        """The four things that a text can do."""
        return ("new", "true", "both", _NEITHER)

    def settings(self) -> dict[str, Any]:
        """Which rule it is."""
        return {
            "judge": self.name,
            "where": self.where,
            "ignore_case": self.ignore_case,
            "accuracy": None if self.accuracy is None else self.accuracy.to_dict(),
        }

    def judge(self, texts: Sequence[str | Judged]) -> list[Verdict]:
        """A verdict for each text; rules are sure, so that each score is 1.

        Raises:
            TextError: a text comes without the two targets.
        """
        return [
            Verdict(self._label(index, one), 1.0, self.name) for index, one in enumerate(as_judged(texts))
        ]

    def measured_on(self, texts: Sequence[Judged], labels: Sequence[str]) -> TargetJudge:
        """The same judge with its accuracy on texts of which is known what they say.

        Raises:
            InputError: the lists differ in length or are empty, or a label is not the judge's.
        """
        return replace(self, accuracy=measure_accuracy(self, texts, labels))

    def _label(self, index: int, judged: Judged) -> str:
        if judged.new is None or judged.true is None:
            raise TextError(
                f"texts[{index}]: the rules ask which target it says; pass Judged(text, new=..., true=...)."
            )
        new, true = (self._spans(judged.text, target) for target in (judged.new, judged.true))
        says_new, says_true = _outside(new, true), _outside(true, new)
        if says_new and says_true:
            return "both"
        return "new" if says_new else "true" if says_true else _NEITHER

    def _spans(self, text: str, target: str) -> list[tuple[int, int]]:
        """Where a target stands; a break between its words may be any white space."""
        words = r"\s+".join(map(re.escape, target.split()))
        flags = re.IGNORECASE if self.ignore_case else re.NOFLAG
        spans = [found.span() for found in re.finditer(rf"(?<!\w){words}(?!\w)", text, flags)]
        if self.where == "anywhere":
            return spans
        return [span for span in spans if not re.search(r"\w", text[: span[0]])]


def labelled_targets() -> tuple[list[Judged], list[str]]:
    """Continuations written by hand, and which target each one means; ``measured_on`` takes them.

    They hold what rules stumble on, more often than models write it: denials, synonyms, longer names. So a
    judge's accuracy on them compares judges; label some of your own model's texts to know it there.

    >>> texts, labels = labelled_targets()
    >>> texts[0].text, labels[0]
    (' guitar, and he plays it well.', 'new')
    """
    rows = [json.loads(line) for line in _EXAMPLES.read_text(encoding="utf-8").splitlines()]
    labels = [row.pop("label") for row in rows]
    return [Judged(**row) for row in rows], labels


def _outside(own: Sequence[tuple[int, int]], other: Sequence[tuple[int, int]]) -> bool:
    """Whether a target stands somewhere that is not within a longer one."""
    return any(
        not any(start <= one and two <= end and two - one < end - start for start, end in other)
        for one, two in own
    )


def _require_detector(label: object, detector: object) -> None:
    if not isinstance(label, str) or not label.strip():
        raise InputError(f"detectors: expected labels that are not blank, got {label!r}.")
    if isinstance(detector, str):
        try:
            re.compile(detector)
        except re.error as error:
            raise InputError(f"detectors[{label!r}]: no regular expression: {error}; mend it.") from error
    elif not callable(detector):
        raise InputError(
            f"detectors[{label!r}]: expected a function of a text or a regular expression, got {detector!r}."
        )
    try:
        described(detector, exact=True)
    except InputError as error:
        raise InputError(
            f"detectors[{label!r}]: a judge is kept apart from others by what its detectors do, which cannot "
            f"be told here: {error} Give a named function of a module, which makes or loads what it needs."
        ) from error


def _strength(label: str, detector: Detector, text: str) -> float:
    if isinstance(detector, str):
        return float(re.search(detector, text) is not None)
    strength = float(detector(text))
    if not 0 <= strength <= 1:
        raise RangeError(
            f"detectors[{label!r}]: expected a strength from 0 to 1, got {strength!r} for {text[:60]!r}."
        )
    return strength
