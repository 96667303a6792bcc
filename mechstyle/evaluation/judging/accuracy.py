"""How often a judge is right, measured where the truth is known."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

from mechstyle.errors import InputError, RangeError

__all__ = ["Accuracy", "Share", "normal_quantile", "tally", "wilson"]


class Share(NamedTuple):
    """A share of ``n`` texts with its interval; NaN where there are none."""

    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float | int | None]:
        """The JSON form; JSON knows no NaN."""
        return {name: None if value != value else value for name, value in self._asdict().items()}


@dataclass(frozen=True)
class Accuracy:
    """What a judge said about texts whose label is known, counted.

    Args:
        labels: of the judge.
        counts: a row for each true label, a column for each label that was said, and a last column for texts
            that the judge could not judge.
        how: how it was measured: "cross-validation, 5 folds", "60 labelled texts".
        design: how much wider than that of as many independent texts the variance of the share of right
            verdicts is, because texts come in groups; 1 when they do not.
        ci: share of the intervals (Wilson 1927).

    Raises:
        InputError: the counts do not fit the labels, or nothing was counted.

    Example:
        >>> Accuracy(("no", "yes"), ((8, 2, 0), (1, 9, 0)), "20 labelled texts").share.value
        0.85
    """

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    how: str
    design: float = 1.0
    ci: float = 0.95

    def __post_init__(self) -> None:
        n = len(self.labels)
        if len(self.counts) != n or any(len(row) != n + 1 for row in self.counts):
            raise InputError(f"Accuracy.counts: expected {n} rows of {n + 1} numbers, got {self.counts!r}.")
        if self.n < 1 or min(map(min, self.counts)) < 0:
            raise InputError(f"Accuracy.counts: expected numbers of texts, not only 0, got {self.counts!r}.")
        if not self.design >= 1:
            raise RangeError(f"Accuracy.design: expected 1 or more, got {self.design!r}.")
        _require_share("Accuracy.ci", self.ci)

    @property
    def n(self) -> int:
        """Texts that it was measured on."""
        return sum(map(sum, self.counts))

    @property
    def unjudged(self) -> int:
        """Texts that the judge could not judge; the accuracy counts them as wrong."""
        return sum(row[-1] for row in self.counts)

    @property
    def share(self) -> Share:
        """The accuracy: right verdicts of all texts."""
        right = sum(row[index] for index, row in enumerate(self.counts))
        return wilson(right, self.n, ci=self.ci, design=self.design)

    @property
    def baseline(self) -> float:
        """What a judge would reach that always says the most frequent label."""
        return max(map(sum, self.counts)) / self.n

    def sensitivity(self, label: str) -> Share:
        """Of the judged texts that have the label, the share that it is given to."""
        row = self.counts[self._index(label)]
        return wilson(row[self._index(label)], sum(row[:-1]), ci=self.ci, design=self.design)

    def specificity(self, label: str) -> Share:
        """Of the judged texts that do not have the label, the share that it is not given to."""
        at = self._index(label)
        others = [row for index, row in enumerate(self.counts) if index != at]
        n = sum(sum(row[:-1]) for row in others)
        return wilson(n - sum(row[at] for row in others), n, ci=self.ci, design=self.design)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: the counts, and the figures that follow from them."""
        return {
            "accuracy": self.share.to_dict(),
            "baseline": self.baseline,
            "sensitivity": {label: self.sensitivity(label).to_dict() for label in self.labels},
            "specificity": {label: self.specificity(label).to_dict() for label in self.labels},
            "unjudged": self.unjudged,
            "labels": list(self.labels),
            "counts": [list(row) for row in self.counts],
            "how": self.how,
            "design": self.design,
            "ci": self.ci,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Accuracy:
        """Read the JSON form; the figures follow from the counts.

        Raises:
            InputError: a part is missing.
        """
        try:
            labels, counts = tuple(data["labels"]), tuple(tuple(row) for row in data["counts"])
            return cls(labels, counts, data["how"], data["design"], data["ci"])
        except (KeyError, TypeError) as error:
            raise InputError(f"Accuracy: expected what to_dict wrote, got {data!r}.") from error

    def __str__(self) -> str:
        value, low, high, n = self.share
        return f"right on {value:.1%} [{low:.1%}, {high:.1%}] of {n} texts ({self.how})"

    def _index(self, label: str) -> int:
        if label not in self.labels:
            raise InputError(f"label: expected one of {', '.join(self.labels)}, got {label!r}.")
        return self.labels.index(label)


def tally(
    said: Sequence[str | None],
    truth: Sequence[str],
    labels: Sequence[str],
    *,
    how: str,
    groups: Sequence[Hashable] | None = None,
) -> Accuracy:
    """Count verdicts against the truth.

    Args:
        said: a label for each text; None where the judge could not tell.
        truth: the right label of each text.
        groups: of texts that are alike, so that a judge tends to be right about all or none of a group.

    Raises:
        InputError: the lists differ in length or are empty, or a label is unknown.

    >>> tally(["yes", "no", None], ["yes", "yes", "no"], ["no", "yes"], how="3 texts").counts
    ((0, 0, 1), (1, 1, 0))
    """
    n = len(truth)
    if not n or len(said) != n or (groups is not None and len(groups) != n):
        raise InputError(
            f"labels: expected one for each text, and at least one, got {n} labels for {len(said)} texts"
            + (f" in {len(groups)} listed groups." if groups is not None else ".")
        )
    for name, given in (("labels", truth), ("said", [one for one in said if one is not None])):
        if strange := sorted({str(one) for one in given if one not in labels}):
            raise InputError(f"{name}: expected the judge's own, {', '.join(labels)}, got {strange[0]!r}.")
    places = {label: index for index, label in enumerate(labels)}
    counts = [[0] * (len(labels) + 1) for _ in labels]
    for one, right in zip(said, truth, strict=True):
        counts[places[right]][len(labels) if one is None else places[one]] += 1
    design = 1.0
    if groups is not None:
        design = _design([one == right for one, right in zip(said, truth, strict=True)], groups)
    return Accuracy(tuple(labels), tuple(tuple(row) for row in counts), how, design)


def wilson(count: int, n: int, *, ci: float = 0.95, design: float = 1.0) -> Share:
    """A share with Wilson's score interval (1927), NaN of no texts.

    Args:
        design: the interval is that of ``n / design`` independent texts.

    Raises:
        RangeError: ``ci`` is not between 0 and 1.

    >>> [round(edge, 3) for edge in wilson(9, 10)[:3]]
    [0.9, 0.596, 0.982]
    """
    _require_share("ci", ci)
    if n == 0:
        return Share(math.nan, math.nan, math.nan, 0)
    share, size, z = count / n, n / design, normal_quantile(ci)
    centre = (share + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z / (1 + z**2 / size) * math.sqrt(share * (1 - share) / size + z**2 / (4 * size**2))
    # At the edges both are equal but for rounding, which must not leave the share outside.
    return Share(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)), n)


def normal_quantile(ci: float) -> float:
    """How many standard deviations on each side hold a share of a normal distribution.

    >>> round(normal_quantile(0.95), 2)
    1.96
    """
    return NormalDist().inv_cdf((1 + ci) / 2)


def _design(right: Sequence[bool], groups: Sequence[Hashable]) -> float:
    """Variance of a share of grouped texts over that of as many independent ones (Kish's design effect)."""
    n = len(right)
    share = sum(right) / n
    if share in (0, 1):
        return 1.0
    sums: dict[Hashable, float] = {}
    for one, group in zip(right, groups, strict=True):
        sums[group] = sums.get(group, 0.0) + one - share
    return max(1.0, sum(value**2 for value in sums.values()) / (n * share * (1 - share)))


def _require_share(name: str, value: float) -> None:
    if isinstance(value, bool) or not 0 < value < 1:
        raise RangeError(f"{name}: expected a share between 0 and 1, such as 0.95, got {value!r}.")
