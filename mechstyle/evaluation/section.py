"""What the sections of a suite file have in common, and where they take what they do not say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from mechstyle import organisms
from mechstyle.cases import Case
from mechstyle.documents import text_stream
from mechstyle.errors import InputError
from mechstyle.evaluation.measure import Measure

__all__ = ["Section", "Sources"]


@dataclass(frozen=True)
class Sources:
    """Where sections take what they do not say themselves.

    Args:
        organism: the embedded model that is evaluated; None for any other.
        folder: of the suite file, in which its relative paths start.
        seed: of whatever is drawn.
    """

    organism: str | None
    folder: Path
    seed: int

    def texts(self, section: str, given: str | None, n: int) -> tuple[str, ...]:
        """The first texts of a source, or of the novels that an embedded model has not read.

        Raises:
            InputError: no source for a model that brings no texts.
            FileError: the source is missing, empty or not text.
        """
        if given is not None:
            found = text_stream(given if given.startswith("hub:") else self.folder / given)
            return tuple(islice(found, n))
        if self.organism is None:
            raise InputError(
                f"[{section}] text: the model brings no texts of its own; name text that no edit is about, "
                'such as text = "held_out.txt".'
            )
        return tuple(organisms.heldout_prose(self.organism)[:n])


class Section(BaseModel):
    """One section; what a file may not say in it is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def measure(self, cases: Sequence[Case], sources: Sources) -> Measure:
        """The measure that the section asks for."""
        raise NotImplementedError

    def extended(self, cases: Sequence[Case], sources: Sources) -> list[Case]:
        """The cases with what the section adds to them."""
        return list(cases)
