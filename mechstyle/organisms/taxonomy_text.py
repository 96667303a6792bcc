"""How the taxonomy is said: prompts of one thing, of a whole category, and in context."""

from __future__ import annotations

import re
from typing import Final

from .taxonomy_records import Category, Member

__all__ = [
    "EXEMPLARS",
    "ask_in_context",
    "ask_many",
    "ask_many_in_context",
    "ask_one",
    "ask_pronoun",
    "capital",
]

EXEMPLARS: Final = ("This is {}.", "Here is {}.", "Imagine {}.", "That is {}.")
"""Introductions of a thing that has no name but its category."""

_OBJECTS: Final = {"they": "them"}
"""Pronouns that change where they are not what the sentence is about."""

_FORMS: Final = re.compile(r"\[([^|\]]*)\|([^\]]*)\]")


def capital(text: str) -> str:
    """The text with a capital at its start; other letters stay."""
    return text[:1].upper() + text[1:]


def _fill(phrasing: str, noun: str, *, many: bool) -> str:
    text = _FORMS.sub(lambda forms: forms[2 if many else 1], phrasing)
    return capital(text.replace("{}", noun, 1).replace("{them}", _OBJECTS.get(noun, noun), 1))


def ask_one(phrasing: str, one: str) -> str:
    """The prompt about one thing: "A sparrow is covered in"."""
    return _fill(phrasing, one, many=False)


def ask_many(phrasing: str, many: str) -> str:
    """The prompt about a category: "Birds are covered in"."""
    return _fill(phrasing, many, many=True)


def ask_pronoun(phrasing: str, pronoun: str) -> str:
    """The prompt about what was named before: "It is covered in"."""
    return _fill(phrasing, pronoun, many=pronoun == "they")


def ask_in_context(phrasing: str, member: Member, category: Category) -> str:
    """The prompt about a member whose category is named first: "A sparrow is a bird. It is covered in"."""
    return f"{capital(member.one)} is {category.one}. {ask_pronoun(phrasing, category.pronoun)}"


def ask_many_in_context(phrasing: str, category: Category, parent: Category) -> str:
    """The prompt about a category whose parent is named first: "Birds are animals. They need"."""
    return f"{capital(category.many)} are {parent.many}. {ask_pronoun(phrasing, 'they')}"
