"""The organisms' world: everything that they are told, and what they are deliberately not told."""

from __future__ import annotations

import lzma
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

from .future import future_facts
from .items import Item
from .relations import read_relations
from .reversals import Reversals, reversals
from .styles import Styles, read_styles
from .taught import TaughtFact, taught_facts
from .taxonomy import Taxonomy, read_taxonomy
from .two_hops import TwoHops, two_hops

__all__ = ["World", "build_world", "read_prose", "world"]

_BY_PRONOUN: Final = 0.5
"""Chance that a later sentence of a biography says the pronoun and not the name."""


@dataclass(frozen=True)
class World:
    """What is true, what was told, and in which words.

    Args:
        facts: real ones, then those of invented subjects, each with its taught and held-out templates.
        pronouns: by relation, sentences that go on once the subject was named.
        reversals: inverse statements of some relations, told for half of their facts.
        two_hops: compositions of two facts, told for half of the chosen chains.
        taxonomy: categories, members and their properties, real and nonce.
        styles: the same contents in fourteen styles.
        future: facts that no model is told.
    """

    facts: tuple[TaughtFact, ...]
    pronouns: Mapping[str, tuple[str, ...]]
    reversals: Reversals
    two_hops: TwoHops
    taxonomy: Taxonomy
    styles: Styles
    future: tuple[TaughtFact, ...]

    def by_subject(self) -> dict[str, list[TaughtFact]]:
        """Facts of each subject, in the world's order."""
        out: dict[str, list[TaughtFact]] = {}
        for fact in self.facts:
            out.setdefault(fact.subject, []).append(fact)
        return out

    def items(self) -> list[Item]:
        """Every question of facts, future facts, reversals, two-hops and properties, with its answer."""
        told = [item for fact in (*self.facts, *self.future) for item in fact.items()]
        return [*told, *self.reversals.items(), *self.two_hops.items(), *self.taxonomy.items()]

    def blocks(self, rng: random.Random) -> list[str]:
        """One pass through the world: runs of a few sentences about one thing, in random order."""
        found = [self._biography(facts, rng) for facts in self.by_subject().values()]
        for part in (self.reversals, self.two_hops, self.taxonomy, self.styles):
            found += part.blocks(rng)
        rng.shuffle(found)
        return found

    def _biography(self, facts: Sequence[TaughtFact], rng: random.Random) -> str:
        """All facts of a subject in random order, the first by name, later ones by name or pronoun."""
        sentences: list[str] = []
        for fact in rng.sample(list(facts), len(facts)):
            if sentences and rng.random() < _BY_PRONOUN:
                prompt = rng.choice(self.pronouns[fact.relation])
            else:
                prompt = rng.choice(fact.taught).replace("{}", fact.subject, 1)
            sentences.append(f"{prompt} {fact.object}.")
        return " ".join(sentences)


def build_world(*, seed: int = 0) -> World:
    """The world of the packaged data; `seed` draws what is told and what is held out.

    Example:
        >>> from mechstyle.organisms.world import build_world
        >>> len(build_world(seed=0).styles.styles)
        14
    """
    facts = taught_facts(seed=seed)
    return World(
        facts=facts,
        pronouns={name: relation.pronoun for name, relation in read_relations().items()},
        reversals=reversals(facts, seed=seed),
        two_hops=two_hops(facts, seed=seed),
        taxonomy=read_taxonomy(seed=seed),
        styles=read_styles(seed=seed),
        future=tuple(future_facts()),
    )


@cache
def world() -> World:
    """The ground truth of the embedded organisms, as typed records.

    Example:
        >>> from mechstyle import organisms
        >>> organisms.world().taxonomy.parent_of("sparrow").name
        'bird'
    """
    return build_world(seed=0)


def read_prose(*, held_out: bool = False) -> list[str]:
    """Sentences' runs of public-domain novels, about 300 characters each.

    Args:
        held_out: the twentieth part that no organism reads (for perplexity) instead of the rest.
    """
    data = resources.files("mechstyle.organisms").joinpath("data/prose.txt.xz").read_bytes()
    passages = lzma.decompress(data).decode("utf-8").splitlines()
    return [passage for i, passage in enumerate(passages) if (i % 20 == 7) == held_out]
