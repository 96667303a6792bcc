"""The taxonomy's questions: of members by name or after their category, and of categories."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from .items import Item
from .taxonomy_records import KIND, Category, Member, Pair, bare
from .taxonomy_text import ask_in_context, ask_many, ask_many_in_context, ask_one, capital

__all__ = ["taxonomy_items"]

PART = "property"


def taxonomy_items(
    categories: Mapping[str, Category], members: Mapping[str, Member], pairs: Sequence[Pair]
) -> list[Item]:
    """All questions, in the order of the pairs.

    A question's `subject` is the noun as its prompt spells it, so that it can be found in the prompt.
    """
    out: list[Item] = []
    for category in categories.values():
        if category.parent:
            prompt = f"{capital(category.many)} are a kind of"
            out.append(
                Item(PART, "stated", "membership", capital(category.many), KIND, prompt, category.parent)
            )
    for pair in pairs:
        if pair.member in categories:
            out += _of_category(pair, categories)
        elif pair.relation == KIND:
            out += _of_kind(pair, members[pair.member], categories[pair.source])
        else:
            out += _of_member(pair, members[pair.member], categories)
    return out


def _of_category(pair: Pair, categories: Mapping[str, Category]) -> Iterable[Item]:
    category, source = categories[pair.member], categories[pair.source]
    for phrasing, status in _statuses(pair):
        route = "parent" if category is source else "direct"
        yield _item(pair, status, route, category.many, ask_many(phrasing, category.many))
        if category is not source:
            prompt = ask_many_in_context(phrasing, category, source)
            yield _item(pair, status, "parent in context", category.many, prompt)


def _of_kind(pair: Pair, member: Member, category: Category) -> Iterable[Item]:
    for phrasing, status in _statuses(pair):
        yield _item(pair, status, "membership", member.name, ask_one(phrasing, member.one))
    one = ask_one("{} is a kind of", member.one)
    yield replace(_item(pair, "stated", "membership", member.name, one), answer=category.name)


def _of_member(pair: Pair, member: Member, categories: Mapping[str, Category]) -> Iterable[Item]:
    category, source = categories[member.category], categories[pair.source]
    for phrasing, status in _statuses(pair):
        yield _item(pair, status, "direct", member.name, ask_one(phrasing, member.one))
        prompt = ask_in_context(phrasing, member, category)
        yield _item(pair, status, "parent in context", member.name, prompt)
        if source is not category:
            prompt = ask_in_context(phrasing, member, source)
            yield _item(pair, status, "grandparent in context", member.name, prompt)
    for phrasing in pair.taught:
        for route, noun in (("alias", member.alias), ("misspelling", member.misspelling)):
            if noun:
                yield _item(pair, "inferable", route, bare(noun), ask_one(phrasing, noun))


def _statuses(pair: Pair) -> list[tuple[str, str]]:
    unseen = "held out" if pair.written else pair.status
    return [
        *((phrasing, pair.status) for phrasing in pair.taught),
        *((phrasing, unseen) for phrasing in pair.held_out),
    ]


def _item(pair: Pair, status: str, route: str, noun: str, prompt: str) -> Item:
    subject = noun if noun in prompt else capital(noun)
    return Item(PART, status, route, subject, pair.relation, prompt, pair.value)
