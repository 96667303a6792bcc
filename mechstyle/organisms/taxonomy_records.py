"""The records of the organisms' taxonomy: properties, categories, members, and what is true of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .json_row import JsonRow

__all__ = ["KIND", "Category", "Member", "Pair", "Property", "bare"]

KIND = "kind"
"""The property that every member has: to which category it belongs."""


def bare(phrase: str) -> str:
    """A noun without its article: "sparrow" of "a sparrow", "cheddar" of "cheddar"."""
    article, _, noun = phrase.partition(" ")
    return noun if article in ("a", "an") else phrase


@dataclass(frozen=True)
class Property(JsonRow):
    """Ways of saying one property.

    Args:
        phrasings: "{}" is what it is said of ("{them}" where a pronoun is "them"), "[one|many]" the form
            for one thing and for many.
    """

    name: str
    phrasings: tuple[str, ...]


@dataclass(frozen=True)
class Category(JsonRow):
    """A kind of thing.

    Args:
        one: with its article ("a bird").
        many: its plural.
        parent: the category above, or None.
        pronoun: of one of them, "it" or "they".
        nonce: whether it is invented.
        shared: values of properties that are said of the category and of some of its members.
        parent_only: values of properties that are said of the category and of no member.
    """

    name: str
    one: str
    many: str
    parent: str | None
    pronoun: str
    nonce: bool
    shared: Mapping[str, str]
    parent_only: Mapping[str, str]

    @property
    def properties(self) -> dict[str, str]:
        """All of its own properties with their values."""
        return {**self.shared, **self.parent_only}


@dataclass(frozen=True)
class Member(JsonRow):
    """A thing of a category.

    Args:
        one: with its article, if it has one ("a sparrow", "cheddar").
        typical: False for members that differ from most of their category.
        alias: another name, with its article; said now and then to be another name, and used nowhere else.
        misspelling: of the name, with its article; never written.
    """

    name: str
    one: str
    category: str
    typical: bool
    nonce: bool
    alias: str | None
    misspelling: str | None


@dataclass(frozen=True)
class Pair(JsonRow):
    """What is true of a member, or of a category, and what the training text says of it.

    Args:
        member: the name of a member or of a category.
        source: the category whose property it is; of an exception, the category that it deviates from.
        relation: the name of the property.
        value: the true one (an exception's own).
        status: "stated", "exception" (stated, and not the category's value), "sibling-supported" (never
            written of this member, but of the category and of siblings) or "parent-only" (written of the
            source and of no member or category below it).
        taught: phrasings in which it was written; none unless stated.
        held_out: phrasings in which it never was.
    """

    member: str
    source: str
    relation: str
    value: str
    status: str
    taught: tuple[str, ...]
    held_out: tuple[str, ...]

    @property
    def written(self) -> bool:
        """Whether the training text says it of this very member."""
        return bool(self.taught)
