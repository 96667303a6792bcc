"""One question of an organism's world, with its known answer and what the model was told of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

__all__ = ["WRITTEN", "Item"]

WRITTEN: Final = frozenset({"taught", "stated", "exception"})
"""Statuses whose sentence is in the training text; of all others it is nowhere in it."""


@dataclass(frozen=True)
class Item:
    """A prompt with its answer, and why a model may know it.

    Args:
        part: of the world: "fact", "reversal", "two-hop", "property", "style".
        status: "taught" (this very sentence was read), "held out" (the fact was read in other words),
            "stated", "sibling-supported", "parent-only" or "exception" (of properties), "inferable" (follows
            from two facts that were read), "future" (of a fact that no model was told).
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

    def to_dict(self) -> dict[str, Any]:
        """The item as a JSON object."""
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Item:
        """The item of a JSON object."""
        return cls(**row)
