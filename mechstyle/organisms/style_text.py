"""How styled sentences are put into words: phrases that are filled from phrases, and announcements."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..errors import InputError

__all__ = ["KINDS", "Announcer", "Phrases", "Wording"]

KINDS: Final = ("leaf", "parent", "synonym", "misspelled")
"""How a style may be announced: by its name, by a parent's, by a description, or by its misspelt name."""

_PART: Final = re.compile(r"\[([^\]]*)\]|<([^<>]*)>|([^\[<]+)")


@dataclass(frozen=True)
class Wording:
    """Words of a sentence with the devices that they show."""

    text: str
    shows: frozenset[str]


@dataclass(frozen=True)
class Phrases:
    """A grammar: each name may be said in several ways, of words and of names in angle brackets.

    Args:
        options: the ways, by name.
        shows: devices that every way of a name shows, besides those of the names in it.
    """

    options: Mapping[str, Sequence[str]]
    shows: Mapping[str, frozenset[str]]

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Phrases:
        """The phrases of what `data/styles.toml` says."""
        entries = document["phrases"]
        return cls(
            {name: tuple(entry["options"]) for name, entry in entries.items()},
            {name: frozenset(entry.get("shows", ())) for name, entry in entries.items()},
        )

    def say(self, frame: str, rng: random.Random) -> Wording:
        """Fill a frame; what stands in square brackets is said half of the time.

        Raises:
            InputError: the frame holds a name that is not in the grammar.

        Example:
            >>> phrases = Phrases({"cry": ["Alas"]}, {"cry": frozenset({"lament"})})
            >>> phrases.say("<cry>!", random.Random(0))
            Wording(text='Alas!', shows=frozenset({'lament'}))
        """
        text, shows = "", frozenset[str]()
        for optional, name, plain in _PART.findall(frame):
            if optional:
                part = self.say(optional, rng) if rng.random() < 0.5 else Wording("", frozenset())
            elif name:
                part = self._name(name, rng)
            else:
                part = Wording(plain, frozenset())
            text, shows = text + part.text, shows | part.shows
        return Wording(text, shows)

    def _name(self, name: str, rng: random.Random) -> Wording:
        if name not in self.options:
            raise InputError(f"frame: expected names of the phrases, got <{name}>.")
        said = self.say(rng.choice(self.options[name]), rng)
        return Wording(said.text, said.shows | self.shows[name])


@dataclass(frozen=True)
class Announcer:
    """What is said before a styled sentence: who speaks, and on what.

    Args:
        taught, held_out: announcements by a style's name, read in training or never.
        synonym, misspelled, parent: announcements of the other kinds.
        topic: the topic alone.
    """

    taught: tuple[str, ...]
    held_out: tuple[str, ...]
    synonym: tuple[str, ...]
    misspelled: tuple[str, ...]
    parent: tuple[str, ...]
    topic: str

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Announcer:
        """The announcements of what `data/styles.toml` says."""
        entry = document["announcements"]
        forms = {name: tuple(value) for name, value in entry.items() if name != "topic"}
        return cls(topic=entry["topic"], **forms)

    def forms(self, kind: str, *, heard: bool) -> tuple[str, ...]:
        """Frames of one kind; only the style's name has others in training than in tests."""
        by_kind = {
            "leaf": self.taught if heard else self.held_out,
            "parent": self.parent,
            "synonym": self.synonym,
            "misspelled": self.misspelled,
        }
        return by_kind[kind]

    def say(self, frame: str, *, speaker: str, topic: str) -> str:
        """One announcement, up to its colon.

        Args:
            speaker: with its article, such as "a showman" or "an archaic".
        """
        the = "the " + speaker.partition(" ")[2]
        return frame.format(a=speaker, the=the, The=the[0].upper() + the[1:], on=topic)
