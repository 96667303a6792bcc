"""Records of the world's styles: what they are, what is told in them, and what is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .json_row import JsonRow

__all__ = ["Content", "Style", "StylePrompt", "StyledSentence", "read_style_records"]


@dataclass(frozen=True, order=True)
class Content(JsonRow):
    """A fact that is told in styles."""

    subject: str
    relation: str
    object: str


@dataclass(frozen=True)
class Style(JsonRow):
    """One style, as a composition of devices.

    Args:
        about: what it is like.
        parents: from the nearest to the most abstract.
        core: devices that each of its sentences has.
        optional: devices that some of them have besides.
        synonyms: descriptions of who speaks so; the first is read in training, the second never.
        misspellings: likewise.
        frames: how it says a fact, for `style_text.Phrases`.
        length: the device of length among the core ones, or "".
    """

    name: str
    about: str
    parents: tuple[str, ...]
    core: tuple[str, ...]
    optional: tuple[str, ...]
    synonyms: tuple[str, ...]
    misspellings: tuple[str, ...]
    frames: tuple[str, ...]
    length: str = ""


@dataclass(frozen=True)
class StyledSentence(JsonRow):
    """A fact in one style, with what is known of its words.

    Args:
        announcement: what is said before it, up to the colon, or "".
        kind: of the announcement: "leaf", "parent", "synonym", "misspelled", "topic" or "none".
        devices: all devices that it has, sorted.
    """

    text: str
    style: str
    announcement: str
    kind: str
    subject: str
    relation: str
    object: str
    devices: tuple[str, ...]

    @property
    def full(self) -> str:
        """Announcement and sentence."""
        return f"{self.announcement} {self.text}".lstrip()

    @property
    def content(self) -> Content:
        """What it says."""
        return Content(self.subject, self.relation, self.object)


@dataclass(frozen=True)
class StylePrompt(JsonRow):
    """An announcement that a model should go on from in its style, with the right fact.

    Args:
        prompt: up to its colon.
        style: a style, or where it is announced by a parent, the parent.
        status: "taught", or "held out" where this fact is nowhere told in this style (in none of a parent).
        announcement: "leaf", "parent", "synonym" or "misspelled".
        heard: announcements of this wording were read in training.
    """

    prompt: str
    style: str
    subject: str
    relation: str
    object: str
    status: str
    announcement: str
    heard: bool


def read_style_records(document: Mapping[str, Any]) -> list[Style]:
    """Styles of what `data/styles.toml` says."""
    styles = []
    for name, entry in document["styles"].items():
        parents = [entry["parent"]]
        while above := document["parents"][parents[-1]].get("parent"):
            parents.append(above)
        styles.append(
            Style(
                name=name,
                about=entry["about"],
                parents=tuple(parents),
                core=tuple(entry["core"]),
                optional=tuple(entry["optional"]),
                synonyms=tuple(entry["synonyms"]),
                misspellings=tuple(entry["misspellings"]),
                frames=tuple(entry["frames"]),
                length=entry.get("length", ""),
            )
        )
    return styles
