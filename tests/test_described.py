"""Settings in plain JSON: what is told of functions and objects, and what cannot be told."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from types import FunctionType

import numpy as np
import pytest

from mechstyle.described import described
from mechstyle.errors import InputError

WORDS = ("thou", "hath")


def old(text: str) -> float:
    return float(any(word in WORDS for word in spoken(text)))


def spoken(text: str) -> list[str]:
    return text.split()


def even(number: int) -> bool:
    return number == 0 or odd(number - 1)


def odd(number: int) -> bool:
    return number != 0 and even(number - 1)


def moved(function: FunctionType, **looked_up: object) -> FunctionType:
    """The same function in a module where other things stand under these names."""
    return FunctionType(function.__code__, {**function.__globals__, **looked_up}, function.__name__)


@dataclass(frozen=True)
class Longer:
    than: int

    def __call__(self, text: str) -> float:
        return float(len(text) > self.than)


class Slotted:
    __slots__ = ("than",)

    def __init__(self, than: int) -> None:
        self.than = than

    def __call__(self, text: str) -> float:
        return float(len(text) > self.than)


def holding(value: object) -> Callable[[str], object]:
    return lambda text: value


MAKERS: list[Callable[[int], object]] = [
    holding,
    Longer,
    Slotted,
    lambda n: partial(round, ndigits=n),
    lambda n: Longer(n).__call__,
    lambda n: re.compile(f"a{{{n}}}").search,
    lambda n: "abc"[:n].count,
    lambda n: holding(np.arange(n)),
    lambda n: holding(re.compile("a" * 300 + str(n))),
    lambda n: operator.methodcaller("count", str(n)),
    lambda n: cache(holding(n)),
]


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("make", MAKERS)
def test_what_is_callable_is_told_by_what_it_holds(make: Callable[[int], object], exact: bool) -> None:
    one, same, other = (described(make(number), exact=exact) for number in (2, 2, 3))
    assert one == same != other
    assert "0x" not in str(one)


def test_a_function_of_a_module_is_its_name_unless_all_is_to_be_told() -> None:
    assert described(old) == f"{__name__}.old"
    assert str(described(old, exact=True)).startswith(f"{__name__}.old (code ")
    assert described(old, exact=True) == described(moved(old), exact=True)


def test_data_and_functions_beside_it_are_told_with_a_function() -> None:
    def other(text: str) -> list[str]:
        return text.lower().split()

    other.__module__ = old.__module__
    for changed in (moved(old, WORDS=("thou",)), moved(old, spoken=other)):
        assert described(changed, exact=True) != described(old, exact=True)
    assert described(moved(old, unused=3), exact=True) == described(old, exact=True)


def test_functions_that_call_each_other_are_told() -> None:
    assert described(even, exact=True) != described(odd, exact=True)
    assert described(even, exact=True) == described(even, exact=True)


def test_methods_of_a_class_are_told_where_all_is_to_be_told() -> None:
    def made(bound: float) -> object:
        class Judge:
            def strength(self, text: str) -> float:
                return bound

            def __call__(self, text: str) -> float:
                return self.strength(text)

        return Judge()

    assert described(made(1.0), exact=True) == described(made(1.0), exact=True)
    assert described(made(1.0), exact=True) != described(made(0.5), exact=True)


def test_what_cannot_be_seen_is_refused_where_all_is_to_be_told() -> None:
    hidden = holding(iter([1]))
    assert "0x" not in str(described(hidden))
    with pytest.raises(InputError, match="expected something whose content can be seen, got <list_iterator"):
        described(hidden, exact=True)
