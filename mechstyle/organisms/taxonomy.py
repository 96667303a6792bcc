"""The organisms' taxonomy: real and invented categories, their members, and what is written of each."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import InputError
from .items import Item
from .packaged import read_toml
from .taxonomy_blocks import taxonomy_blocks
from .taxonomy_items import taxonomy_items
from .taxonomy_records import KIND, Category, Member, Pair, Property, bare

__all__ = ["Taxonomy", "read_taxonomy"]

TAUGHT_PHRASINGS = 3
"""What is stated is stated in so many phrasings; the others are held out."""

STATED = 0.6
"""So large a part of a category's ordinary members is said to have a shared property."""


@dataclass(frozen=True)
class Taxonomy:
    """Categories in two levels, their members, and all pairs of a member and a property.

    Args:
        properties: by name; "kind" is membership itself.
        categories: by name, parents before children.
        members: by name.
    """

    properties: Mapping[str, Property]
    categories: Mapping[str, Category]
    members: Mapping[str, Member]
    pairs: tuple[Pair, ...]

    def blocks(self, rng: random.Random) -> list[str]:
        """One pass of training text, in runs of one to six sentences.

        Example:
            >>> import random
            >>> from mechstyle.organisms.taxonomy import read_taxonomy
            >>> blocks = read_taxonomy().blocks(random.Random(0))
        """
        return taxonomy_blocks(self.categories, self.members, self.pairs, rng)

    def items(self) -> list[Item]:
        """All questions about members and categories, with what the model was told of each.

        Example:
            >>> from mechstyle.organisms.taxonomy import read_taxonomy
            >>> read_taxonomy().items()[0].route
            'parent'
        """
        return taxonomy_items(self.categories, self.members, self.pairs)

    def members_of(self, category: str) -> tuple[Member, ...]:
        """Members of a category, or of the categories below it.

        Raises:
            InputError: there is no such category.
        """
        if category not in self.categories:
            raise InputError(f"category: expected one of {', '.join(self.categories)}, got {category!r}.")
        below = {category} | {name for name, child in self.categories.items() if child.parent == category}
        return tuple(member for member in self.members.values() if member.category in below)

    def parent_of(self, name: str) -> Category | None:
        """The category of a member, or the category above a category (None at the top).

        Raises:
            InputError: there is no member or category of this name.
        """
        self._check(name)
        parent = self.members[name].category if name in self.members else self.categories[name].parent
        return None if parent is None else self.categories[parent]

    def siblings_of(self, member: str) -> tuple[Member, ...]:
        """The other members of a member's category.

        Raises:
            InputError: there is no such member.
        """
        if member not in self.members:
            raise InputError(f"member: expected the name of a member of the taxonomy, got {member!r}.")
        return tuple(
            other for other in self.members_of(self.members[member].category) if other.name != member
        )

    def pairs_of(self, name: str, *, status: str | None = None) -> tuple[Pair, ...]:
        """What is true of a member or of a category.

        Args:
            status: only pairs of this one.

        Raises:
            InputError: there is no member or category of this name.
        """
        self._check(name)
        return tuple(
            pair for pair in self.pairs if pair.member == name and (status is None or pair.status == status)
        )

    def values_of(self, relation: str) -> tuple[str, ...]:
        """All values of a property, each once: an answer's foils.

        Raises:
            InputError: there is no such property.
        """
        if relation not in self.properties:
            raise InputError(f"relation: expected one of {', '.join(self.properties)}, got {relation!r}.")
        return tuple(dict.fromkeys(pair.value for pair in self.pairs if pair.relation == relation))

    def _check(self, name: str) -> None:
        if name not in self.members and name not in self.categories:
            raise InputError(f"name: expected a member or a category of the taxonomy, got {name!r}.")


def read_taxonomy(seed: int = 0) -> Taxonomy:
    """The packaged taxonomy; which members are told of a property, and how, is drawn from `seed`.

    Example:
        >>> from mechstyle.organisms.taxonomy import read_taxonomy
        >>> read_taxonomy().parent_of("sparrow").name
        'bird'
    """
    document = read_toml("taxonomy.toml")
    properties = {name: Property(name, tuple(said)) for name, said in document["properties"].items()}
    categories = {bare(entry["one"]): _category(entry) for entry in document["category"]}
    members = _members(document, seed)
    drawn = _Draw(properties, seed)
    pairs: list[Pair] = []
    for entry in document["category"]:
        category = categories[bare(entry["one"])]
        above = categories[category.parent] if category.parent else None
        names = [bare(one) for one in entry.get("members", ())]
        exceptions = {(member, name): value for member, name, value in entry.get("exceptions", ())}
        pairs += [drawn.pair(category.name, category, name, "stated") for name in category.properties]
        if above:
            pairs += [drawn.pair(category.name, above, name, "parent-only") for name in above.parent_only]
        pairs += [drawn.pair(member, category, KIND, "stated") for member in names]
        for name in category.shared:
            ordinary = [member for member in names if (member, name) not in exceptions]
            stated = drawn.stated(ordinary, category, name)
            for member in names:
                if (member, name) in exceptions:
                    pair = drawn.pair(member, category, name, "exception")
                    pairs.append(replace(pair, value=exceptions[member, name]))
                else:
                    status = "stated" if member in stated else "sibling-supported"
                    pairs.append(drawn.pair(member, category, name, status))
        for source in (category, above):
            if source and names:
                unsaid = [(member, name) for name in source.parent_only for member in names]
                pairs += [drawn.pair(member, source, name, "parent-only") for member, name in unsaid]
    return Taxonomy(properties, categories, members, tuple(pairs))


@dataclass(frozen=True)
class _Draw:
    """What is told, and in which words: drawn for each pair by itself, so that new data move no old draw."""

    properties: Mapping[str, Property]
    seed: int

    def stated(self, ordinary: Sequence[str], category: Category, name: str) -> list[str]:
        """Members of whom a shared property is said; its other ordinary members are not."""
        rng = random.Random(f"taxonomy {self.seed} {category.name} {name}")
        return rng.sample(list(ordinary), max(2, round(STATED * len(ordinary))))

    def pair(self, member: str, source: Category, name: str, status: str) -> Pair:
        """A pair with the source's value, its phrasings taught if the status says so."""
        phrasings = self.properties[name].phrasings
        rng = random.Random(f"taxonomy {self.seed} {member} {name}")
        drawn = rng.sample(phrasings, TAUGHT_PHRASINGS) if status in ("stated", "exception") else []
        held_out = tuple(phrasing for phrasing in phrasings if phrasing not in drawn)
        value = source.many if name == KIND else source.properties[name]
        return Pair(member, source.name, name, value, status, tuple(drawn), held_out)


def _category(entry: Mapping[str, Any]) -> Category:
    return Category(
        name=bare(entry["one"]),
        one=entry["one"],
        many=entry["many"],
        parent=entry.get("parent"),
        pronoun=entry.get("pronoun", "it"),
        nonce=bool(entry.get("nonce", False)),
        shared=entry.get("shared", {}),
        parent_only=entry["parent_only"],
    )


def _members(document: Mapping[str, Any], seed: int) -> dict[str, Member]:
    entries = document["category"]
    known = set(document["words"])
    known |= {bare(one) for entry in entries for one in entry.get("members", ())}
    known |= {bare(alias) for entry in entries for alias in entry.get("aliases", {}).values()}
    out: dict[str, Member] = {}
    for entry in entries:
        for one in entry.get("members", ()):
            name = bare(one)
            out[name] = Member(
                name=name,
                one=one,
                category=bare(entry["one"]),
                typical=name not in entry.get("atypical", ()),
                nonce=bool(entry.get("nonce", False)),
                alias=entry.get("aliases", {}).get(name),
                misspelling=_misspelt(one, known, seed),
            )
    return out


def _misspelt(one: str, known: set[str], seed: int) -> str | None:
    """Two neighbouring letters inside the name exchanged, or None where the name is too short."""
    name = bare(one)
    inner = [i for i in range(1, len(name) - 2) if name[i : i + 2].isalpha()]
    wrong = [name[:i] + name[i + 1] + name[i] + name[i + 2 :] for i in inner]
    fit = [text for text in wrong if text != name and text not in known]
    if len(name) < 5 or not fit:
        return None
    return one.removesuffix(name) + random.Random(f"misspelling {seed} {name}").choice(fit)
