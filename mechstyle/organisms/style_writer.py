"""Writes a fact in a style, and announces it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..errors import WorkError
from .style_devices import Device, places, words_in
from .style_records import Content, Style
from .style_text import Announcer, Phrases, Wording

__all__ = ["LONGEST_SENTENCE", "Writer"]

LONGEST_SENTENCE: Final = 30
"""Words, where each name counts as one."""
TRIES: Final = 1000


@dataclass(frozen=True)
class Writer:
    """What sentences and announcements are made of.

    Args:
        relations: verbs and noun phrases of each relation, by their names in frames.
        parents: each parent with its article, such as "an archaic".
    """

    phrases: Phrases
    announcer: Announcer
    devices: Mapping[str, Device]
    relations: Mapping[str, Mapping[str, str]]
    parents: Mapping[str, str]

    @classmethod
    def read(cls, document: Mapping[str, Any], devices: Mapping[str, Device]) -> Writer:
        """The writer of what `data/styles.toml` says."""
        parents = {name: entry["announced"] for name, entry in document["parents"].items()}
        return cls(Phrases.read(document), Announcer.read(document), devices, document["relations"], parents)

    def sentence(self, content: Content, style: Style, rng: random.Random) -> Wording:
        """The content in this style, one of many ways, with all devices that the sentence has.

        Raises:
            WorkError: the style's frames give no sentence of its length that holds each name once.
        """
        lengths = [device for device in self.devices.values() if device.at_most or device.at_least]
        for _ in range(TRIES):
            said = self.phrases.say(rng.choice(style.frames), rng)
            text = self._filled(said.text, content)
            marked = places(text, subject=content.subject, obj=content.object)
            found = {device.name for device in lengths if device.holds(marked)}
            once = text.count(content.object) == text.count(content.subject) == 1
            if once and found == {style.length} - {""} and words_in(marked) <= LONGEST_SENTENCE:
                return Wording(text, said.shows | found)
        raise WorkError(f"style {style.name!r}: no sentence of its length for {content}. Add frames.")

    def _filled(self, text: str, content: Content) -> str:
        forms = dict(self.relations[content.relation])
        filled = text.format(S=content.subject, O=forms.pop("object").format(content.object), **forms)
        return filled[0].upper() + filled[1:]

    def topic(self, content: Content) -> str:
        """What the content is on, such as "the instrument of Mira Tolvane"."""
        return self.relations[content.relation]["topic"].format(content.subject)

    def announce(
        self, content: Content, style: Style, kind: str, rng: random.Random, *, heard: bool = True
    ) -> str:
        """An announcement of the style and the content.

        Args:
            kind: one of `style_text.KINDS`, "topic" or "none".
            heard: one of those that are read in training, or one that never is.
        """
        if kind == "none":
            return ""
        if kind == "topic":
            return self.announcer.say(self.announcer.topic, speaker="a speaker", topic=self.topic(content))
        speakers = {
            "leaf": f"a {style.name}",
            "parent": self.parents[rng.choice(style.parents)],
            "synonym": style.synonyms[not heard],
            "misspelled": style.misspellings[not heard],
        }
        frame = rng.choice(self.announcer.forms(kind, heard=heard))
        return self.announcer.say(frame, speaker=speakers[kind], topic=self.topic(content))

    def announce_parent(self, content: Content, parent: str, rng: random.Random) -> str:
        """An announcement of one parent and the content."""
        frame = rng.choice(self.announcer.forms("parent", heard=True))
        return self.announcer.say(frame, speaker=self.parents[parent], topic=self.topic(content))
