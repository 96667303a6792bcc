"""One question of an organism's world, with its known answer and what the model was told of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from .json_row import JsonRow

__all__ = ["WRITTEN", "Item", "items_of"]

WRITTEN: Final = frozenset({"taught", "stated", "exception"})
"""Statuses whose sentence is in the training text; of all others it is nowhere in it."""


@dataclass(frozen=True)
class Item(JsonRow):
    """A prompt with its answer, and why a model may know it.

    Args:
        part: of the world: "fact", "reversal", "two-hop" or "property".
        status: "taught" (this very sentence was read), "held out" (the fact was read in other words),
            "stated", "sibling-supported", "parent-only" or "exception" (of properties), "inferable" (never
            written; follows from facts that were read), "future" (of a fact that no model was told).
        route: how it is asked, such as "direct", "parent in context" or "parent".
        prompt: without a space at its end.
        answer: without the space before it; a full stop follows it in texts.
    """

    part: str
    status: str
    route: str
    subject: str
    relation: str
    prompt: str
    answer: str

    @property
    def sentence(self) -> str:
        """Prompt and answer, without the full stop."""
        return f"{self.prompt} {self.answer}"

    @property
    def written(self) -> bool:
        """Whether its sentence is in the training text."""
        return self.status in WRITTEN


def items_of(
    template: Item, *, about: str, taught: Iterable[str], others: Iterable[str], unwritten: str
) -> list[Item]:
    """A question for each prompt of a fact, those that are written first.

    Args:
        template: what all of them share.
        about: stands in the prompts' `{}`.
        taught: prompts in which the fact is written.
        others: prompts in which it is not; their status is `unwritten`.

    Example:
        >>> shared = Item("fact", "", "direct", "Bo", "plays", "", "harp")
        >>> items_of(shared, about="Bo", taught=["{} plays the"], others=[], unwritten="held out")[0].sentence
        'Bo plays the harp'
    """
    asked = [(prompt, "taught") for prompt in taught]
    asked += [(prompt, unwritten) for prompt in others]
    return [
        replace(template, prompt=prompt.replace("{}", about, 1), status=status) for prompt, status in asked
    ]
