"""The taxonomy's training text: runs of sentences about a category, any one of it, or a member."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .taxonomy_records import KIND, Category, Member, Pair
from .taxonomy_text import EXEMPLARS, ask_in_context, ask_many, ask_one, ask_pronoun, capital

__all__ = ["taxonomy_blocks"]

DIRECT = 0.4
"""Chance that a pass holds a given sentence that states a property of a member by name."""

CONTEXT = 0.45
"""Chance that a pass states a given property of a member after its category."""

AGAIN = 0.4
"""Chance that a category's property is told again by "they", and that a pass tells another name."""

LONGEST = 4
"""A run about one thing holds about so many sentences."""


def taxonomy_blocks(
    categories: Mapping[str, Category],
    members: Mapping[str, Member],
    pairs: Sequence[Pair],
    rng: random.Random,
) -> list[str]:
    """One pass of the text, its blocks in random order.

    Whatever is not stated of a member is nowhere said of it: a pronoun follows a member's name only where
    the pair is stated.
    """
    told: dict[str, list[Pair]] = {name: [] for name in (*categories, *members)}
    for pair in pairs:
        if pair.written:
            told[pair.member].append(pair)
    out: list[str] = []
    for category in categories.values():
        out += _category(category, categories, told[category.name], rng)
        out += _any_one(category, told[category.name], rng)
    for member in members.values():
        out += _member(member, categories[member.category], told[member.name], rng)
    rng.shuffle(out)
    return out


def _category(
    category: Category, categories: Mapping[str, Category], told: Sequence[Pair], rng: random.Random
) -> list[str]:
    """Of all of them: by name ("Birds are ..."), and some again by "they"."""
    parent = categories[category.parent].many if category.parent else None
    named = [f"{ask_many(rng.choice(pair.taught), category.many)} {pair.value}." for pair in told]
    rng.shuffle(named)
    if parent:
        named.insert(0, f"{capital(category.many)} are a kind of {category.parent}.")
    again = [pair for pair in rng.sample(list(told), len(told)) if rng.random() < AGAIN]
    opening = f"{capital(category.many)} are {parent}." if parent else f"Think of {category.many}."
    they = [f"{ask_pronoun(rng.choice(pair.taught), 'they')} {pair.value}." for pair in again]
    return _runs(named, rng) + [" ".join((opening, *run)) for run in _parts(they, rng)]


def _any_one(category: Category, told: Sequence[Pair], rng: random.Random) -> list[str]:
    """Of one without a name: "This is a bird. It is ...", in all phrasings."""
    order = rng.sample(list(told), len(told))
    sentences = [
        f"{ask_pronoun(rng.choice((*pair.taught, *pair.held_out)), category.pronoun)} {pair.value}."
        for pair in order
    ]
    return [" ".join((rng.choice(EXEMPLARS).format(category.one), *run)) for run in _parts(sentences, rng)]


def _member(member: Member, category: Category, told: Sequence[Pair], rng: random.Random) -> list[str]:
    """Of a member: by name, after its category, its category alone and, now and then, its other name."""
    name = capital(member.one)
    kind = [pair for pair in told if pair.relation == KIND]
    belongs = [f"{ask_one(phrasing, member.one)} {pair.value}." for pair in kind for phrasing in pair.taught]
    belongs += [f"{name} is a kind of {category.name}.", f"Among the {category.many} is {member.one}."]
    units = [_Unit(rng.choice(belongs), (KIND,), 1)]
    for pair in told:
        if pair.relation == KIND:
            continue
        for phrasing in pair.taught:
            if rng.random() < DIRECT:
                text = f"{ask_one(phrasing, member.one)} {pair.value}."
                units.append(_Unit(text, (pair.relation,), 1))
        if rng.random() < CONTEXT:
            text = f"{ask_in_context(rng.choice(pair.taught), member, category)} {pair.value}."
            units.append(_Unit(text, (KIND, pair.relation), 2))
    if member.alias and rng.random() < AGAIN:
        said = (
            f"{name} is also called {member.alias}.",
            f"{capital(member.alias)} is the same as {member.one}.",
        )
        units.append(_Unit(rng.choice(said), ("alias",), 1))
    rng.shuffle(units)
    return _apart(units)


@dataclass(frozen=True)
class _Unit:
    """One or two sentences that stay together, with what they tell."""

    text: str
    tells: tuple[str, ...]
    sentences: int


def _apart(units: Sequence[_Unit]) -> list[str]:
    """Runs in which nothing is told twice: else the second time were copied and not remembered."""
    runs: list[list[_Unit]] = []
    for unit in units:
        for run in runs:
            told = [name for other in run for name in other.tells]
            length = sum(other.sentences for other in run) + unit.sentences
            if length <= LONGEST and not any(name in told for name in unit.tells):
                run.append(unit)
                break
        else:
            runs.append([unit])
    return [" ".join(unit.text for unit in run) for run in runs]


def _parts(sentences: Sequence[str], rng: random.Random) -> list[list[str]]:
    """The sentences in runs of two or more, as far as there are two."""
    out: list[list[str]] = []
    start = 0
    while start < len(sentences):
        size = rng.randint(2, LONGEST)
        if len(sentences) - start - size == 1:
            size += 1
        out.append(list(sentences[start : start + size]))
        start += size
    return out


def _runs(sentences: Sequence[str], rng: random.Random) -> list[str]:
    return [" ".join(run) for run in _parts(sentences, rng)]
