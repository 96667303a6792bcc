"""Names of invented people, places and firms, put together from `data/invented.toml`."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..errors import RangeError
from .packaged import read_toml

__all__ = ["Kind", "Shape", "near", "new_names", "read_kinds"]

TRIES = 100
"""So many names are put together for each that is wanted, before the stock counts as used up."""


@dataclass(frozen=True)
class Shape:
    """Names of one build.

    Args:
        words: for each word of a name, those that may stand there.
        count: so many names of this build are taught.
    """

    words: tuple[tuple[str, ...], ...]
    count: int


@dataclass(frozen=True)
class Kind:
    """Invented subjects of one kind.

    Args:
        relations: what is said of each.
        thinned: so many subjects lack one of the relations.
        similar: pairs of subjects whose names are one letter apart.
    """

    name: str
    relations: tuple[str, ...]
    thinned: int
    shapes: tuple[Shape, ...]
    similar: tuple[tuple[str, str], ...]


def read_kinds() -> dict[str, Kind]:
    """Kinds of invented subjects by name, in file order.

    Example:
        >>> from mechstyle.organisms.invented_names import read_kinds
        >>> read_kinds()["firm"].similar[0]
        ('Brask Works', 'Brosk Works')
    """
    document = read_toml("invented.toml")
    stocks = {name: tuple(_words(entry)) for name, entry in document["stocks"].items()}
    kinds = {}
    for name, entry in document.items():
        if "shapes" in entry:
            shapes = [Shape(tuple(stocks[s] for s in one["words"]), one["count"]) for one in entry["shapes"]]
            similar = tuple((first, second) for first, second in entry["similar"])
            kinds[name] = Kind(name, tuple(entry["relations"]), entry["thinned"], tuple(shapes), similar)
    return kinds


def _words(entry: dict[str, list[str]]) -> Iterator[str]:
    yield from entry.get("words", ())
    for start in entry.get("starts", ()):
        for end in entry.get("ends", ()):
            if start + end not in entry["skip"]:
                yield start + end


def near(name: str) -> set[str]:
    """Patterns that a name shares with itself and with every name that is one letter away, and no other.

    Example:
        >>> from mechstyle.organisms.invented_names import near
        >>> sorted(near("Ann") & near("Anne")), near("Ann") & near("Anna B")
        (['Ann_'], set())
    """
    places = range(len(name) + 1)
    return {name[:i] + "_" + name[i:] for i in places} | {name[:i] + "_" + name[i + 1 :] for i in places}


def new_names(shape: Shape, count: int, rng: random.Random, *, taken: Iterable[str]) -> list[str]:
    """Names of a shape, each two or more letters away from one another and from those that are taken.

    Words of the stocks are used equally often, as far as that goes.

    Raises:
        RangeError: the stocks do not hold so many names.

    Example:
        >>> from mechstyle.organisms.invented_names import Shape
        >>> new_names(Shape((("Mira",), ("Tolvane",)), 1), 1, random.Random(0), taken=["Mira Solgan"])
        ['Mira Tolvane']
    """
    used = {pattern for name in taken for pattern in near(name)}
    decks = [_dealt(words, rng) for words in shape.words]
    names: list[str] = []
    for _ in range(TRIES * count):
        if len(names) == count:
            break
        name = " ".join(next(deck) for deck in decks)
        patterns = near(name)
        if used.isdisjoint(patterns):
            used |= patterns
            names.append(name)
    if len(names) < count:
        raise RangeError(f"count is {count}, but the words make only {len(names)} free names. Add words.")
    return names


def _dealt(words: Sequence[str], rng: random.Random) -> Iterator[str]:
    """The words in random order, again and again."""
    while True:
        yield from rng.sample(words, len(words))
