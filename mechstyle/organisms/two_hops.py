"""Chains of two facts, whose composition is stated for half of them and never for the other half."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from .compositions import Compositions, TwoHopKind, half_told, read_two_hop_kinds
from .items import Item, items_of
from .json_row import JsonRow
from .taught import TaughtFact

__all__ = ["TwoHop", "TwoHops", "two_hops"]

_CHAINS: Final = 900
_MOST_OF_A_KIND: Final = 150
_MOST_OF_AN_ANSWER: Final = 20
"""So that no answer is good for most chains of a kind."""
_TAUGHT: Final = 2
"""A stated composition is told in so many of its kind's prompts; the others are held out."""


@dataclass(frozen=True)
class TwoHop(JsonRow):
    """Two facts, the second about the first one's object, and how their composition is asked.

    Args:
        first: the relation from the subject to the bridge.
        second: the relation from the bridge to the object.
        stated: whether the composition is written at all.
        taught: compound prompts (with `{}` for the subject) in which it is written.
        held_out: compound prompts in which it is not.
        shortcut: whether a fact of the subject itself has this object, so that one hop may do.
    """

    subject: str
    first: str
    bridge: str
    second: str
    object: str
    stated: bool
    taught: tuple[str, ...]
    held_out: tuple[str, ...]
    shortcut: bool

    def items(self) -> list[Item]:
        """A question for each prompt; its relation reads "first > second"."""
        return items_of(
            Item("two-hop", "", "compound", self.subject, f"{self.first} > {self.second}", "", self.object),
            about=self.subject,
            taught=self.taught,
            others=self.held_out,
            unwritten="held out" if self.stated else "inferable",
        )


class TwoHops(Compositions[TwoHop]):
    """The chosen chains of a world."""


def two_hops(facts: Sequence[TaughtFact], seed: int = 0) -> TwoHops:
    """About 900 chains of a world's facts, as many of each kind as there are, up to an even share.

    A chain whose end is in its subject's name, or whose names hold escapes of their source, is left out.

    Args:
        facts: of the whole world.
        seed: which chains are taken, which half of each kind is stated, and in which prompts.

    Example:
        >>> from mechstyle.organisms.world import build_world
        >>> two_hops(build_world().facts).items()[0].route
        'compound'
    """
    told = {(fact.subject, fact.relation): fact.object for fact in facts}
    owned = {(fact.subject, fact.object) for fact in facts}
    kinds = read_two_hop_kinds()
    chains = [_chains(kind, facts, told, seed) for kind in kinds]
    shares = _even_shares([len(some) for some in chains])
    found: list[TwoHop] = []
    for kind, able, share in zip(kinds, chains, shares, strict=True):
        rng = _draws(kind, seed, "told")
        prompts = half_told([kind.prompts] * share, _TAUGHT, rng)
        for (subject, bridge, obj), (told_in, kept) in zip(able[:share], prompts, strict=True):
            found.append(
                TwoHop(
                    subject=subject,
                    first=kind.first,
                    bridge=bridge,
                    second=kind.second,
                    object=obj,
                    stated=bool(told_in),
                    taught=told_in,
                    held_out=kept,
                    shortcut=(subject, obj) in owned,
                )
            )
    return TwoHops(tuple(found))


def _chains(
    kind: TwoHopKind, facts: Sequence[TaughtFact], told: Mapping[tuple[str, str], str], seed: int
) -> list[tuple[str, str, str]]:
    """Subject, bridge and object of a kind's chains, in random order, not too many with one object."""
    able = []
    for fact in facts:
        obj = told.get((fact.object, kind.second))
        if fact.relation != kind.first or obj is None or obj.lower() in fact.subject.lower():
            continue
        if "\\" not in fact.subject + fact.object + obj:
            able.append((fact.subject, fact.object, obj))
    _draws(kind, seed, "taken").shuffle(able)
    found = []
    having: Counter[str] = Counter()
    for chain in able:
        having[chain[2]] += 1
        if having[chain[2]] <= _MOST_OF_AN_ANSWER:
            found.append(chain)
    return found


def _draws(kind: TwoHopKind, seed: int, purpose: str) -> random.Random:
    """A kind's own draws, which do not hang on the other kinds."""
    return random.Random(f"two-hops {seed} {kind.first} {kind.second} {purpose}")


def _even_shares(sizes: Sequence[int]) -> list[int]:
    """How many chains each kind gives: at most an even share, which the small ones leave to the large."""
    shares = [0] * len(sizes)
    left = _CHAINS
    order = sorted(range(len(sizes)), key=lambda index: sizes[index])
    for position, index in enumerate(order):
        shares[index] = min(sizes[index], _MOST_OF_A_KIND, left // (len(sizes) - position))
        left -= shares[index]
    return shares
