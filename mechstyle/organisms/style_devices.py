"""Devices of style: what each is, and the rule that finds it in a text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .json_row import JsonRow

__all__ = ["Device", "found_in", "keeps_content", "places", "read_devices", "words_in"]

SUBJECT, OBJECT = "@S", "@O"


@dataclass(frozen=True)
class Device(JsonRow):
    """One means of style; all of its rules must hold where it is found.

    Args:
        pattern: a regular expression, read without regard to case, of the text with "@S" for the subject and
            "@O" for the object.
        object_first: the object comes before the subject.
        at_most: words of the text, where each name counts as one.
        at_least: likewise.
    """

    name: str
    about: str
    pattern: str | None = None
    object_first: bool = False
    at_most: int | None = None
    at_least: int | None = None

    def holds(self, text: str) -> bool:
        """Whether the device is in a text whose subject and object `places` has marked."""
        if self.pattern is not None and not re.search(self.pattern, text, re.IGNORECASE):
            return False
        if self.object_first and not -1 < text.find(OBJECT) < text.find(SUBJECT):
            return False
        if self.at_most is not None and words_in(text) > self.at_most:
            return False
        return self.at_least is None or words_in(text) >= self.at_least


def read_devices(document: Mapping[str, Any]) -> dict[str, Device]:
    """Devices by name, from what `data/styles.toml` says."""
    return {name: Device(name=name, **entry) for name, entry in document["devices"].items()}


def places(text: str, *, subject: str, obj: str) -> str:
    """The text with marks for subject and object, so that no rule reads letters of a name."""
    for name, mark in ((subject, SUBJECT), (obj, OBJECT)):
        text = _whole(name).sub(mark, text)
    return text


def words_in(text: str) -> int:
    """How many words a text has: runs without spaces that hold a letter or digit."""
    return sum(any(letter.isalnum() for letter in word) for word in text.split())


def found_in(text: str, devices: Mapping[str, Device], *, subject: str, obj: str) -> frozenset[str]:
    """Names of those devices that the text shows."""
    marked = places(text.strip(), subject=subject, obj=obj)
    return frozenset(name for name, device in devices.items() if device.holds(marked))


def keeps_content(text: str, obj: str, others: Sequence[str]) -> bool:
    """Whether the text says the object and none of the others, as whole words.

    Args:
        others: objects that the relation might have instead; the right one may be among them.

    Example:
        >>> from mechstyle.organisms.style_devices import keeps_content
        >>> keeps_content("The harp Mira Tolvane plays, hmm.", "harp", ["lute", "drum"])
        True
    """
    left = _whole(obj).sub(OBJECT, text)
    return OBJECT in left and not any(_whole(other).search(left) for other in others if other != obj)


def _whole(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)
