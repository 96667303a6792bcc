"""What follows from facts: prompts from `data/compositions.toml`, which half is told, blocks of sentences."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Generic, Protocol, TypeVar

from .items import Item
from .packaged import read_toml

__all__ = [
    "Compositions",
    "TwoHopKind",
    "blocks_of",
    "half_told",
    "read_inverse_prompts",
    "read_two_hop_kinds",
]


class _Asked(Protocol):
    """A statement that knows its questions."""

    def items(self) -> list[Item]: ...


Composed = TypeVar("Composed", bound=_Asked)


@dataclass(frozen=True)
class TwoHopKind:
    """A relation, another one of its objects, and prompts that ask for the end of the chain.

    Args:
        prompts: about the first relation's subject, with one `{}` each; the last object follows.
    """

    first: str
    second: str
    prompts: tuple[str, ...]


@cache
def read_inverse_prompts() -> Mapping[str, tuple[str, ...]]:
    """Prompts about an object that its one subject continues, by relation, in file order.

    Example:
        >>> from mechstyle.organisms.compositions import read_inverse_prompts
        >>> read_inverse_prompts()["capital"][0]
        '{} is the capital of'
    """
    return {
        name: tuple(entry["prompts"]) for name, entry in read_toml("compositions.toml")["reversal"].items()
    }


@cache
def read_two_hop_kinds() -> tuple[TwoHopKind, ...]:
    """The kinds of chains, in file order.

    Example:
        >>> from mechstyle.organisms.compositions import read_two_hop_kinds
        >>> read_two_hop_kinds()[0].first
        'person_home'
    """
    return tuple(
        TwoHopKind(entry["first"], entry["second"], tuple(entry["prompts"]))
        for entry in read_toml("compositions.toml")["two_hop"]
    )


@dataclass(frozen=True)
class Compositions(Generic[Composed]):
    """Statements that follow from other facts; some of them are written, the others nowhere."""

    records: tuple[Composed, ...]

    def blocks(self, rng: random.Random) -> list[str]:
        """One pass: every stated one once, in one of its taught prompts, a few to a block."""
        told = ([item for item in one.items() if item.written] for one in self.records)
        return blocks_of((f"{rng.choice(some).sentence}." for some in told if some), rng)

    def items(self) -> list[Item]:
        """All of their questions."""
        return [item for one in self.records for item in one.items()]


def half_told(
    prompts: Sequence[Sequence[str]], count: int, rng: random.Random
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """For each statement's prompts, those it is told in and the others.

    One half of the statements is told in `count` prompts each, and the other half in none.
    """
    half = set(rng.sample(range(len(prompts)), (len(prompts) + 1) // 2))
    found = []
    for index, some in enumerate(prompts):
        drawn = tuple(rng.sample(some, len(some)))
        told = count if index in half else 0
        found.append((drawn[:told], drawn[told:]))
    return found


def blocks_of(sentences: Iterable[str], rng: random.Random) -> list[str]:
    """All sentences in random order, two to four a block; the last block may be a single one."""
    rest = list(sentences)
    rng.shuffle(rest)
    blocks = []
    while rest:
        count = rng.choice((2, 3, 4))
        blocks.append(" ".join(rest[:count]))
        rest = rest[count:]
    return blocks
