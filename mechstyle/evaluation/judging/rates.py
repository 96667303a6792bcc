"""How many texts have a label, by what a judge says and by what that is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mechstyle.errors import InputError, RangeError
from mechstyle.evaluation.judging.accuracy import Accuracy, Share, normal_quantile, wilson
from mechstyle.evaluation.judging.judge import Judge, Judged, Verdict, as_judged, require_label

__all__ = ["CorrectedRate", "JudgedRate", "corrected_rate", "judged_rate"]


@dataclass(frozen=True)
class CorrectedRate:
    """A rate freed of what the judge is known to mistake.

    Args:
        share: the rate with its interval, which holds the judge's uncertainty too; NaN when there is none.
        note: what it rests on, and why it was clipped or could not be found.
    """

    share: Share
    note: str


@dataclass(frozen=True)
class JudgedRate:
    """How many texts got the wanted label, with the judge's accuracy beside it.

    Args:
        share: of the judged texts, with Wilson's interval as of independent texts.
        unjudged: texts about which the judge could not tell; the share leaves them out.
        accuracy: of the judge; None when it was not measured.
        corrected: for a judge with two labels and a measured accuracy.
        cost: of all verdicts, in the unit of the judge's prices; None when that is not known.
        verdicts: one for each text.

    Example:
        >>> print(judged_rate(judge, texts, "positive"))  # doctest: +SKIP
        positive: 62.0% [52.2%, 70.9%] of 100 texts, judged by reviews (right on 77.6% ...)
    """

    wanted: str
    judge: str
    share: Share
    unjudged: int
    accuracy: Accuracy | None
    corrected: CorrectedRate | None
    cost: float | None
    verdicts: tuple[Verdict, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, without the verdicts."""
        return {
            "wanted": self.wanted,
            "judge": self.judge,
            "rate": self.share.to_dict(),
            "unjudged": self.unjudged,
            "accuracy": None if self.accuracy is None else self.accuracy.to_dict(),
            "corrected": None if self.corrected is None else self.corrected.share.to_dict(),
            "note": "" if self.corrected is None else self.corrected.note,
            "cost": self.cost,
        }

    def __str__(self) -> str:
        known = "accuracy not measured" if self.accuracy is None else str(self.accuracy)
        parts = [
            f"{self.wanted}: {_shown(self.share)} of {self.share.n} texts, judged by {self.judge} ({known})"
        ]
        if self.unjudged:
            parts.append(f"{self.unjudged} more not judged")
        if self.corrected is not None:
            parts.append(f"corrected {_shown(self.corrected.share)} ({self.corrected.note})")
        if self.cost != 0:
            parts.append("cost not known" if self.cost is None else f"cost {self.cost:.4f}")
        return "; ".join(parts)


def judged_rate(judge: Judge, texts: Sequence[str | Judged], wanted: str, *, ci: float = 0.95) -> JudgedRate:
    """Let a judge say how many texts have a label, and show how far that can be trusted.

    Args:
        texts: independent of each other; for several of one request use ``JudgedGenerations``.
        wanted: a label of the judge.
        ci: share of the intervals.

    Raises:
        InputError: no texts, or a label that the judge does not know.

    >>> judged_rate(TargetJudge(), [Judged(" guitar", new=" guitar", true=" horn")], "new").share.value
    1.0
    """
    listed = as_judged(texts)
    if not listed:
        raise InputError("texts: expected at least one text, got none.")
    require_label("wanted", wanted, judge.labels)
    verdicts = judge.judge(listed)
    said = [one.label for one in verdicts if one.label is not None]
    share = wilson(said.count(wanted), len(said), ci=ci)
    corrected = None
    if judge.accuracy is not None and len(judge.labels) == 2:
        known = judge.accuracy
        corrected = corrected_rate(share, known.sensitivity(wanted), known.specificity(wanted), ci=ci)
    costs = [one.cost for one in verdicts]
    cost = None if None in costs else math.fsum(one for one in costs if one is not None)
    unjudged = len(listed) - len(said)
    return JudgedRate(wanted, judge.name, share, unjudged, judge.accuracy, corrected, cost, tuple(verdicts))


def corrected_rate(rate: Share, sensitivity: Share, specificity: Share, *, ci: float = 0.95) -> CorrectedRate:
    """The true rate behind a judge's rate (Rogan & Gladen 1978).

    It is ``(rate + specificity - 1) / (sensitivity + specificity - 1)``, clipped to [0, 1]. It is right as
    far as the judge mistakes these texts as often as those that it was measured on. The interval, after Lang
    & Reiczigel (2014), takes in that the judge was measured on a sample.

    Args:
        rate: what the judge says, of ``rate.n`` texts.
        sensitivity: of the texts that have the label, the share that the judge gives it to.
        specificity: of the others, the share that it does not give it to.

    Raises:
        RangeError: ``ci`` is not between 0 and 1.

    >>> found = corrected_rate(wilson(50, 100), wilson(40, 50), wilson(45, 50)).share
    >>> round(found.value, 3)
    0.571
    """
    z = normal_quantile(ci) if 0 < ci < 1 else math.nan
    if math.isnan(z):
        raise RangeError(f"ci: expected a share between 0 and 1, such as 0.95, got {ci!r}.")
    none = Share(math.nan, math.nan, math.nan, rate.n)
    if not (rate.n and sensitivity.n and specificity.n):
        return CorrectedRate(none, "not corrected: nothing was judged, or one label was never measured")
    power = sensitivity.value + specificity.value - 1
    if power <= 0:
        return CorrectedRate(none, "not corrected: the judge is no better than chance")
    raw = (rate.value + specificity.value - 1) / power
    value = min(1.0, max(0.0, raw))
    low, high = _interval(rate, sensitivity, specificity, z)
    note = "if the judge errs here as where it was measured"
    if raw != value:
        note += f"; clipped from {raw:.3f}"
    return CorrectedRate(Share(value, min(value, low), max(value, high), rate.n), note)


def _interval(rate: Share, sensitivity: Share, specificity: Share, z: float) -> tuple[float, float]:
    """After Lang & Reiczigel: all three shares are moved off their edges, then linearised."""
    n = rate.n + z**2
    share = (rate.n * rate.value + z**2 / 2) / n
    sens, spec = ((one.n * one.value + 1) / (one.n + 2) for one in (sensitivity, specificity))
    power = sens + spec - 1
    if power <= 0:
        return 0.0, 1.0
    value = (share + spec - 1) / power
    of_sens, of_spec = sens * (1 - sens) / sensitivity.n, spec * (1 - spec) / specificity.n
    shift = 2 * z**2 * (value * of_sens - (1 - value) * of_spec)
    error = math.sqrt(share * (1 - share) / n + value**2 * of_sens + (1 - value) ** 2 * of_spec) / power
    low, high = (value + shift + sign * z * error for sign in (-1, 1))
    return min(1.0, max(0.0, low)), min(1.0, max(0.0, high))


def _shown(share: Share) -> str:
    return f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]"
