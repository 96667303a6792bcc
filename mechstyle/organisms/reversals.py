"""Facts whose inverse is stated for half of them, and for the other half written nowhere."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .compositions import Compositions, half_told, read_inverse_prompts
from .items import Item, items_of
from .json_row import JsonRow
from .taught import TaughtFact

__all__ = ["Reversal", "Reversals", "reversals"]

_TAUGHT: Final = 3
"""A stated inverse is told in so many of its relation's prompts; the others are held out."""


@dataclass(frozen=True)
class Reversal(JsonRow):
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
        return items_of(
            Item("reversal", "", "inverse", self.subject, self.relation, "", self.subject),
            about=self.object,
            taught=self.taught,
            others=self.held_out,
            unwritten="held out" if self.stated else "inferable",
        )


class Reversals(Compositions[Reversal]):
    """All reversals of a world."""


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
        for fact, (told, kept) in zip(able, half_told([prompts] * len(able), _TAUGHT, rng), strict=True):
            found.append(
                Reversal(
                    subject=fact.subject,
                    relation=relation,
                    object=fact.object,
                    stated=bool(told),
                    taught=told,
                    held_out=kept,
                )
            )
    return Reversals(tuple(found))
