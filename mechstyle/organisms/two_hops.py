"""Chains of two facts, whose composition is stated for half of them and never for the other half."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from .compositions import TwoHopKind, blocks_of, read_two_hop_kinds
from .items import Item
from .taught import TaughtFact

__all__ = ["TwoHop", "TwoHops", "two_hops"]

_CHAINS: Final = 900
_MOST_OF_A_KIND: Final = 150
_MOST_OF_AN_ANSWER: Final = 20
"""So that no answer is good for most chains of a kind."""
_TAUGHT: Final = 2
"""A stated composition is told in so many of its kind's prompts; the others are held out."""


@dataclass(frozen=True)
class TwoHop:
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
        unwritten = "held out" if self.stated else "inferable"
        asked = [(prompt, "taught") for prompt in self.taught]
        asked += [(prompt, unwritten) for prompt in self.held_out]
        return [
            Item(
                part="two-hop",
                status=status,
                route="compound",
                subject=self.subject,
                relation=f"{self.first} > {self.second}",
                prompt=prompt.replace("{}", self.subject, 1),
                answer=self.object,
            )
            for prompt, status in asked
        ]

    def to_dict(self) -> dict[str, Any]:
        """The chain as a JSON object."""
        return {**asdict(self), "taught": list(self.taught), "held_out": list(self.held_out)}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> TwoHop:
        """The chain of a JSON object."""
        return cls(**{**row, "taught": tuple(row["taught"]), "held_out": tuple(row["held_out"])})


@dataclass(frozen=True)
class TwoHops:
    """The chosen chains of a world."""

    records: tuple[TwoHop, ...]

    def blocks(self, rng: random.Random) -> list[str]:
        """One pass: every stated composition once, in one of its taught prompts, a few to a block."""
        return blocks_of(
            (
                f"{rng.choice(one.taught).replace('{}', one.subject, 1)} {one.object}."
                for one in self.records
                if one.stated
            ),
            rng,
        )

    def items(self) -> list[Item]:
        """All compound questions."""
        return [item for one in self.records for item in one.items()]


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
        stated = set(rng.sample(range(share), (share + 1) // 2))
        for index, (subject, bridge, obj) in enumerate(able[:share]):
            drawn = rng.sample(kind.prompts, len(kind.prompts))
            count = _TAUGHT if index in stated else 0
            found.append(
                TwoHop(
                    subject=subject,
                    first=kind.first,
                    bridge=bridge,
                    second=kind.second,
                    object=obj,
                    stated=index in stated,
                    taught=tuple(drawn[:count]),
                    held_out=tuple(drawn[count:]),
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
