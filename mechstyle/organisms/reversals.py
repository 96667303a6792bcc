"""Facts whose inverse is stated for half of them, and for the other half written nowhere."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from .compositions import blocks_of, read_inverse_prompts
from .items import Item
from .taught import TaughtFact

__all__ = ["Reversal", "Reversals", "reversals"]

_TAUGHT: Final = 3
"""A stated inverse is told in so many of its relation's prompts; the others are held out."""


@dataclass(frozen=True)
class Reversal:
    """A fact, and how it is asked from its object.

    Args:
        object: has this one subject in the whole world, so that the inverse question has one answer.
        stated: whether the inverse is written at all.
        taught: inverse prompts (with `{}` for the object) in which it is written.
        held_out: inverse prompts in which it is not.
    """

    subject: str
    relation: str
    object: str
    stated: bool
    taught: tuple[str, ...]
    held_out: tuple[str, ...]

    def items(self) -> list[Item]:
        """A question for each prompt; `subject` is the fact's, which is the answer here."""
        unwritten = "held out" if self.stated else "inferable"
        asked = [(prompt, "taught") for prompt in self.taught]
        asked += [(prompt, unwritten) for prompt in self.held_out]
        return [
            Item(
                part="reversal",
                status=status,
                route="inverse",
                subject=self.subject,
                relation=self.relation,
                prompt=prompt.replace("{}", self.object, 1),
                answer=self.subject,
            )
            for prompt, status in asked
        ]

    def to_dict(self) -> dict[str, Any]:
        """The reversal as a JSON object."""
        return {**asdict(self), "taught": list(self.taught), "held_out": list(self.held_out)}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Reversal:
        """The reversal of a JSON object."""
        return cls(**{**row, "taught": tuple(row["taught"]), "held_out": tuple(row["held_out"])})


@dataclass(frozen=True)
class Reversals:
    """All reversals of a world."""

    records: tuple[Reversal, ...]

    def blocks(self, rng: random.Random) -> list[str]:
        """One pass: every stated inverse once, in one of its taught prompts, a few to a block."""
        return blocks_of(
            (
                f"{rng.choice(one.taught).replace('{}', one.object, 1)} {one.subject}."
                for one in self.records
                if one.stated
            ),
            rng,
        )

    def items(self) -> list[Item]:
        """All inverse questions."""
        return [item for one in self.records for item in one.items()]


def reversals(facts: Sequence[TaughtFact], seed: int = 0) -> Reversals:
    """Inverse statements of a world's facts, of relations in which an object has one subject.

    Facts whose object is shared, or holds escapes of its source, have none.

    Args:
        facts: of the whole world.
        seed: which half of each relation's facts is stated, and in which prompts.

    Example:
        >>> from mechstyle.organisms.world import build_world
        >>> reversals(build_world().facts).items()[0].route
        'inverse'
    """
    sharing = Counter((fact.relation, fact.object) for fact in facts)
    found: list[Reversal] = []
    for relation, prompts in read_inverse_prompts().items():
        able = [
            fact
            for fact in facts
            if fact.relation == relation
            and sharing[relation, fact.object] == 1
            and "\\" not in fact.object + fact.subject
        ]
        rng = random.Random(f"reversals {seed} {relation}")
        stated = set(rng.sample(range(len(able)), (len(able) + 1) // 2))
        for index, fact in enumerate(able):
            drawn = rng.sample(prompts, len(prompts))
            told = _TAUGHT if index in stated else 0
            found.append(
                Reversal(
                    subject=fact.subject,
                    relation=relation,
                    object=fact.object,
                    stated=index in stated,
                    taught=tuple(drawn[:told]),
                    held_out=tuple(drawn[told:]),
                )
            )
    return Reversals(tuple(found))
