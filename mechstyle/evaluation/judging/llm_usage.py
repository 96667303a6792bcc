"""What a judge that is paid by the token has used and cost, and where it has to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from mechstyle.errors import RangeError, WorkError
from mechstyle.evaluation.judging.llm_cache import Answer

__all__ = ["Meter", "Prices", "Usage", "require_prices"]

Prices: TypeAlias = tuple[float, float]
"""What a million tokens cost, those sent and those received."""

_MILLION: Final = 1_000_000
_AROUND: Final = 100
"""More tokens than a server puts around one message."""


@dataclass(frozen=True)
class Usage:
    """What a judge has used.

    Args:
        calls: answers that came from the server.
        cached: answers that were on disk.
        unjudged: answers without one of the labels.
        retries: calls made again, because the server was busy, broken or silent.
        tokens_in: sent, as the server counts.
        tokens_out: received, as the server counts.
        estimated: calls for which the server did not say what it counted, or gave no answer in time. Their
            cost is the most that it can have been.
        cost: in the unit of the prices; None without prices.
    """

    calls: int = 0
    cached: int = 0
    unjudged: int = 0
    retries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    estimated: int = 0
    cost: float | None = None

    def __str__(self) -> str:
        cost = "no prices given" if self.cost is None else f"cost {self.cost:.4f}"
        if self.cost is not None and self.estimated:
            cost += f" at most ({self.estimated} calls estimated)"
        return (
            f"{self.calls} calls ({self.retries} retries, {self.cached} answers from the cache, "
            f"{self.unjudged} unjudged), {self.tokens_in} tokens sent and {self.tokens_out} received, {cost}"
        )


class Meter:
    """Adds up what a judge uses; it counts on when the judge is copied with another accuracy.

    Args:
        prices: None where nothing is known of them.
        max_cost: no call is made that could bring the cost above it.
        max_tokens: received at most for one call.

    >>> Meter((1.0, 2.0), None, 100).most("Is it?")
    0.000306
    """

    def __init__(self, prices: Prices | None, max_cost: float | None, max_tokens: int | None) -> None:
        self._prices, self._max_cost, self._max_tokens = prices, max_cost, max_tokens
        self.usage = Usage(cost=None if prices is None else 0.0)

    def most(self, question: str) -> float:
        """The most that a call can cost: no token is shorter than a byte."""
        return self._cost(len(question.encode()) + _AROUND, self._max_tokens or 0)

    def require_room(self, question: str) -> None:
        """Stop before a call that could exceed the limit.

        Raises:
            WorkError: it could.
        """
        spent, most = self.usage.cost or 0.0, self.most(question)
        if self._max_cost is not None and spent + most > self._max_cost:
            raise WorkError(
                f"max_cost: {spent:.6g} of {self._max_cost:.6g} is spent, and the next call can cost up to "
                f"{most:.6g}. The {self.usage.calls} answers so far are in the cache and cost nothing "
                "in the next run; raise max_cost to go on."
            )

    def answered(self, question: str, answer: Answer) -> float | None:
        """Count an answer of the server; returns what it cost, None without prices."""
        known = answer.tokens_in is not None and answer.tokens_out is not None
        sent, received = answer.tokens_in or 0, answer.tokens_out or 0
        cost = self._cost(sent, received) if known else self.most(question)
        self._add(calls=1, tokens_in=sent, tokens_out=received, estimated=int(not known), cost=cost)
        return None if self._prices is None else cost

    def broke_off(self, question: str) -> None:
        """Count a call that was given up: the server may have done, and charged, its work."""
        self._add(estimated=1, cost=self.most(question))

    def count(self, *, cached: int = 0, unjudged: int = 0, retries: int = 0) -> None:
        """Count what costs nothing."""
        self._add(cached=cached, unjudged=unjudged, retries=retries)

    def _add(self, *, cost: float = 0.0, **counts: int) -> None:
        old = self.usage
        sums = {name: getattr(old, name) + number for name, number in counts.items()}
        self.usage = replace(old, **sums, cost=None if old.cost is None else old.cost + cost)

    def _cost(self, sent: int, received: int) -> float:
        if self._prices is None:
            return 0.0
        return (sent * self._prices[0] + received * self._prices[1]) / _MILLION


def require_prices(prices: object, max_cost: float | None, max_tokens: object) -> None:
    """Make sure that costs can be added up, and limited if that is wanted.

    Raises:
        RangeError: the prices are no pair of numbers, or a limit has nothing to count with.

    >>> require_prices((0.15, 0.6), 1.0, 100)
    """
    if prices is not None and not (
        isinstance(prices, (tuple, list)) and len(prices) == 2 and all(map(_is_amount, prices))
    ):
        raise RangeError(
            "prices: expected the cost of a million tokens, (sent, received), such as (0.15, 0.6), "
            f"got {prices!r}."
        )
    if max_cost is None:
        return
    if not _is_amount(max_cost):
        raise RangeError(f"max_cost: expected an amount in the unit of the prices, got {max_cost!r}.")
    if prices is None:
        raise RangeError(f"max_cost: {max_cost!r} cannot be kept without prices=(sent, received).")
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int):
        raise RangeError(
            "max_cost: cannot be kept when an answer has no longest length; put max_tokens into parameters."
        )


def _is_amount(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf
