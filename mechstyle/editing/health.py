"""Is an edited model still well: how far its weights moved, what texts cost it, which facts it kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Int
from torch import Tensor

from mechstyle.answers import require_positive, score_answers
from mechstyle.editing.application import without_edits
from mechstyle.errors import InputError, NonFiniteError, RangeError
from mechstyle.facts import Fact
from mechstyle.models import HookedModel, active_base, parameter
from mechstyle.texts import encode_texts, exp_mean, negative_log_likelihood
from mechstyle.tokens import EncodedPrompt, encode_fact

__all__ = ["Canaries", "Health", "HealthCheck", "measure_health", "read_canaries"]

_ROWS = 256
"""Rows of a weight that are looked at together."""


@dataclass(frozen=True)
class HealthCheck:
    """What is looked at after each edit, and from where on the model counts as broken.

    The limits tell a collapse, not slight harm: without any, pass ``math.inf`` and 0.

    Args:
        texts: natural text that has nothing to do with the edits, for perplexity; none is no check.
        facts: facts that no edit is to touch; those that the unedited model knows must stay.
        max_delta_ratio: the largest ``‖ΔW‖ / ‖W‖`` (Frobenius) of a parameter, all edits together.
        max_perplexity_ratio: the largest perplexity of the texts, as a multiple of the unedited model's.
        min_known: the least share of the known facts that is still known: every token of the target is the
            most probable one, teacher-forced.
        prepend_bos: None means the model's default.
        max_positions: tokens after which a text is cut.
        batch_size: texts or facts in one forward pass; it does not change the result.

    Raises:
        InputError: texts or facts are of another kind.
        RangeError: a limit is out of range.

    >>> HealthCheck(texts=("It was a dark and stormy night.",), max_perplexity_ratio=1.5).min_known
    0.5
    """

    texts: Sequence[str] = ()
    facts: Sequence[Fact] = ()
    max_delta_ratio: float = 10.0
    max_perplexity_ratio: float = 2.0
    min_known: float = 0.5
    prepend_bos: bool | None = None
    max_positions: int = 256
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name, kind in (("texts", str), ("facts", Fact)):
            given = getattr(self, name)
            if isinstance(given, str) or not isinstance(given, Sequence):
                raise InputError(
                    f"HealthCheck.{name}: expected a list, got {type(given).__name__}; write [...] around it."
                )
            for place, one in enumerate(given):
                if not isinstance(one, kind):
                    raise InputError(
                        f"HealthCheck.{name}[{place}]: expected a {kind.__name__}, got {type(one).__name__}."
                    )
            object.__setattr__(self, name, tuple(given))
        _require_number("max_delta_ratio", self.max_delta_ratio, above=0.0)
        _require_number("max_perplexity_ratio", self.max_perplexity_ratio, above=0.0)
        _require_number("min_known", self.min_known, above=-math.inf)
        if not 0 <= self.min_known <= 1:
            raise RangeError(f"HealthCheck.min_known: expected a share from 0 to 1, got {self.min_known!r}.")
        require_positive("HealthCheck.batch_size", self.batch_size)


@dataclass(frozen=True)
class Health:
    """How a model was after an edit, all edits together.

    Args:
        delta_ratios: parameter -> ``‖ΔW‖ / ‖W‖`` (Frobenius), for parameters that edits cover.
        perplexity: of the texts; infinite where it is no finite number, None without texts.
        perplexity_ratio: to the unedited model's.
        known: share of the facts that the unedited model knows and that are still known; None without facts.
        problems: what was wrong, in words; empty when the check was passed.
    """

    delta_ratios: Mapping[str, float]
    perplexity: float | None = None
    perplexity_ratio: float | None = None
    known: float | None = None
    problems: tuple[str, ...] = ()

    @property
    def delta_ratio(self) -> float:
        """The largest of the parameters'."""
        return max(self.delta_ratios.values(), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, which ``from_dict`` reads; infinity becomes text."""
        return {
            "delta_ratios": {name: _plain(ratio) for name, ratio in self.delta_ratios.items()},
            "perplexity": _plain(self.perplexity),
            "perplexity_ratio": _plain(self.perplexity_ratio),
            "known": _plain(self.known),
            "problems": list(self.problems),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Health:
        """Read the JSON form that ``to_dict`` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is another form.
        """
        return cls(
            delta_ratios={str(name): float(ratio) for name, ratio in data["delta_ratios"].items()},
            perplexity=_number(data["perplexity"]),
            perplexity_ratio=_number(data["perplexity_ratio"]),
            known=_number(data["known"]),
            problems=tuple(str(problem) for problem in data["problems"]),
        )


@dataclass(frozen=True, eq=False)
class Canaries:
    """What the unedited model says of a check's texts and facts, to compare with."""

    texts: tuple[Int[Tensor, " pos"], ...]
    perplexity: float | None
    known: tuple[EncodedPrompt, ...]


def read_canaries(model: HookedModel, check: HealthCheck) -> Canaries:
    """Score a check's texts and facts on the model as it is without any edit.

    Raises:
        InputError: the model knows none of the facts.
        TextError: a text has no token to predict, or a fact does not fit the model.
        ModelError: a score of the unedited model is not a finite number.

    >>> read_canaries(model, HealthCheck(texts=["It was a dark night."])).perplexity  # doctest: +SKIP
    21.3
    """
    texts: list[Tensor] = []
    if check.texts:
        texts = encode_texts(
            model, check.texts, prepend_bos=check.prepend_bos, max_positions=check.max_positions
        )
    facts = [encode_fact(model, fact, prepend_bos=check.prepend_bos) for fact in check.facts]
    with without_edits(model):
        perplexity = _perplexity(model, texts, check) if texts else None
        scores = score_answers(model, facts, batch_size=check.batch_size)
    known = tuple(fact for fact, score in zip(facts, scores, strict=True) if score.exact)
    if facts and not known:
        raise InputError(
            f"HealthCheck.facts: the unedited model knows none of the {len(facts)} facts, so none can be "
            "lost; name facts whose target it predicts."
        )
    return Canaries(tuple(texts), perplexity, known)


def measure_health(
    model: HookedModel, check: HealthCheck | None = None, canaries: Canaries | None = None
) -> Health:
    """Look at a model as it is now, with all its active edits.

    Args:
        check: None measures the weights alone, without a limit.
        canaries: of ``read_canaries``; None reads them.

    Raises:
        InputError: as ``read_canaries``.

    >>> measure_health(model, HealthCheck(max_delta_ratio=0.5)).problems  # doctest: +SKIP
    ()
    """
    ratios = _delta_ratios(model)
    if check is None:
        return Health(ratios)
    canaries = read_canaries(model, check) if canaries is None else canaries
    problems = [
        f"the change of {name} has {ratio:.3g} times the norm of the weight "
        f"(max_delta_ratio={check.max_delta_ratio:g})"
        for name, ratio in ratios.items()
        if not ratio <= check.max_delta_ratio
    ]
    perplexity = times = known = None
    if canaries.perplexity is not None:
        perplexity = _perplexity_or_infinite(model, canaries.texts, check)
        times = perplexity / canaries.perplexity
        if not math.isfinite(perplexity):
            problems.append("the perplexity of the texts is not a finite number")
        elif not times <= check.max_perplexity_ratio:
            problems.append(
                f"the perplexity of the texts is {times:.3g} times the unedited model's "
                f"(max_perplexity_ratio={check.max_perplexity_ratio:g})"
            )
    if canaries.known:
        known = _share_known(model, canaries.known, check)
        if not known >= check.min_known:
            problems.append(f"{known:.1%} of the known facts are still known (min_known={check.min_known:g})")
    return Health(ratios, perplexity, times, known, tuple(problems))


def _delta_ratios(model: HookedModel) -> dict[str, float]:
    ratios = {}
    for name, base in active_base(model).items():
        live = parameter(model, name).detach()
        moved, size = 0.0, 0.0
        for now, before in zip(live.split(_ROWS), base.split(_ROWS), strict=True):
            exact = before.to("cpu").double()
            moved += float((now.to("cpu").double() - exact).square().sum())
            size += float(exact.square().sum())
        ratios[name] = math.sqrt(moved / size) if size else (math.inf if moved else 0.0)
    return ratios


def _perplexity(model: HookedModel, texts: Sequence[Tensor], check: HealthCheck) -> float:
    return exp_mean(*negative_log_likelihood(model, texts, batch_size=check.batch_size))


def _perplexity_or_infinite(model: HookedModel, texts: Sequence[Tensor], check: HealthCheck) -> float:
    try:
        return _perplexity(model, texts, check)
    except NonFiniteError:
        return math.inf


def _share_known(model: HookedModel, known: Sequence[EncodedPrompt], check: HealthCheck) -> float:
    try:
        scores = score_answers(model, known, batch_size=check.batch_size)
    except NonFiniteError:
        return 0.0
    return sum(score.exact for score in scores) / len(scores)


def _require_number(name: str, number: object, *, above: float) -> None:
    if isinstance(number, bool) or not isinstance(number, int | float) or not number > above:
        raise RangeError(f"HealthCheck.{name}: expected a number above {above:g}, got {number!r}.")


def _plain(number: float | None) -> float | str | None:
    return number if number is None or math.isfinite(number) else str(number)


def _number(value: object) -> float | None:
    return None if value is None else float(value)  # type: ignore[arg-type]
