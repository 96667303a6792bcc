"""What every measurement of an edit has in common: rows of a table, and the metrics that sum them up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from mechstyle.cases import Case
from mechstyle.evaluation.edits import AnyEdit
from mechstyle.models import HookedModel

__all__ = ["About", "AnyMetric", "Conditions", "Harmonic", "Measure", "Metric", "Reader", "Row"]

Row: TypeAlias = dict[str, Any]
"""One row of a tidy table, JSON values only. Always there: ``item``, what was asked, the same under every
edit, so that rows of two edits can be paired. Rows about requests have ``request`` too: the case's index."""

Reader: TypeAlias = Callable[[AnyEdit | None, Sequence[int]], list[Row]]
"""Reads the model as it now stands. The first argument is the edit that is active (None before any): an edit
beside the weights has a context, or answers of its own. The second one holds the indices of the cases to ask
about; measurements about the model as a whole pass it over."""

About = Literal["requests", "model"]


@dataclass(frozen=True)
class Conditions:
    """How a model is run, the same in every measurement of one evaluation.

    Args:
        prepend_bos: resolved: True or False.
        batch_size: sequences in one forward pass; it does not change what is found.
        seed: of whatever is drawn; a draw's own seed follows from it and from what the draw is for.
    """

    prepend_bos: bool
    batch_size: int = 32
    seed: int = 0


@dataclass(frozen=True)
class Metric:
    """One number out of many rows, with an interval over what was sampled.

    Rows of one request are summed up first, so that each request counts once; rows without a request count
    one by one. The value is the mean of ``column``, or with a ``weight`` the ratio of both columns' sums.

    Args:
        column: of the rows; missing values (None, NaN) do not count.
        measure: what kind of number it is: "probability comparison", "free generation", "perplexity".
        kind: of the rows that count, by their column ``kind``; None takes all.
        weight: column of the divisor.
        exponential: the value is exp of the ratio.
        better: what a good edit does to it; "same" is best left as it was.
    """

    name: str
    column: str
    measure: str
    kind: str | None = None
    weight: str | None = None
    exponential: bool = False
    better: Literal["higher", "lower", "same"] = "higher"


@dataclass(frozen=True)
class Harmonic:
    """The harmonic mean of several metrics, its interval from the resamples that they share.

    Args:
        parts: rates, whose rows need not be the same.
        measure: what kind of number it is.
        better: what a good edit does to it.
    """

    name: str
    parts: tuple[Metric, ...]
    measure: str
    better: Literal["higher", "lower", "same"] = "higher"


AnyMetric: TypeAlias = Metric | Harmonic
"""What a measure may sum its rows up by."""


class Measure(Protocol):
    """One kind of measurement, which a suite runs before an edit and under it."""

    @property
    def name(self) -> str:
        """The table's name."""

    @property
    def about(self) -> About:
        """What is asked about: each request under its own edit, or the model as a whole."""

    @property
    def metrics(self) -> tuple[AnyMetric, ...]:
        """How the rows are summed up."""

    def settings(self) -> dict[str, Any]:
        """What the numbers depend on, as JSON; it stands in every result."""

    def prepare(self, model: HookedModel, cases: Sequence[Case], conditions: Conditions) -> Reader:
        """Tokenise everything, so that nothing can go wrong with texts later, and read what is compared with.

        The model is unedited, or has the edits that all of the evaluation is on top of.
        """
