"""How much of everything there is in a world."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from .taught import TaughtFact
from .world import World, read_prose

__all__ = ["MANY_FACTS", "Counts", "world_counts"]

Counts = dict[str, dict[str, int]]
"""Numbers by section and name."""

MANY_FACTS: Final = 4
"""A subject of so many facts or more is a many-fact subject."""


def world_counts(world: World) -> Counts:
    """Numbers of a world's records and questions, by part and by status, relation or kind.

    Example:
        >>> from mechstyle.organisms import world
        >>> from mechstyle.organisms.counts import world_counts
        >>> world_counts(world())["styles"]["contents"]
        300
    """
    invented = [fact for fact in world.facts if fact.invented]
    real = [fact for fact in world.facts if not fact.invented]
    items = world.items()
    return {
        "facts": _facts(world.facts, real, invented),
        "real facts by relation": _tally(fact.relation for fact in real),
        "invented facts by relation": _tally(fact.relation for fact in invented),
        "future facts by relation": _tally(fact.relation for fact in world.future),
        "reversals": _stated(one.stated for one in world.reversals.records),
        "reversals by relation": _tally(one.relation for one in world.reversals.records),
        "two-hops": _stated(one.stated for one in world.two_hops.records),
        "two-hops by kind": _tally(f"{one.first} > {one.second}" for one in world.two_hops.records),
        "taxonomy": _taxonomy(world),
        "pairs of real categories": _pairs(world, nonce=False),
        "pairs of nonce categories": _pairs(world, nonce=True),
        "styles": _styles(world),
        "questions": {
            f"{part}, {status}": n for (part, status), n in _pair_tally((i.part, i.status) for i in items)
        },
        "text": _text(world),
    }


def _facts(
    facts: Sequence[TaughtFact], real: Sequence[TaughtFact], invented: Sequence[TaughtFact]
) -> dict[str, int]:
    per_subject = Counter(fact.subject for fact in facts)
    return {
        "real": len(real),
        "invented": len(invented),
        "subjects": len(per_subject),
        "real subjects": len({fact.subject for fact in real}),
        "invented subjects": len({fact.subject for fact in invented}),
        f"subjects of {MANY_FACTS} or more facts": sum(n >= MANY_FACTS for n in per_subject.values()),
        "taught (fact, template) pairs": sum(len(fact.taught) for fact in facts),
        "held-out (fact, template) pairs": sum(len(fact.held_out) for fact in facts),
    }


def _stated(told: Iterable[bool]) -> dict[str, int]:
    tally = Counter(told)
    return {"stated": tally[True], "not stated": tally[False]}


def _taxonomy(world: World) -> dict[str, int]:
    categories, members = world.taxonomy.categories.values(), world.taxonomy.members.values()
    return {
        "properties": len(world.taxonomy.properties),
        "real categories": sum(not one.nonce for one in categories),
        "nonce categories": sum(one.nonce for one in categories),
        "real members": sum(not one.nonce for one in members),
        "nonce members": sum(one.nonce for one in members),
        "atypical members": sum(not one.typical for one in members),
        "members with an alias": sum(one.alias is not None for one in members),
        "members with a misspelling": sum(one.misspelling is not None for one in members),
    }


def _pairs(world: World, *, nonce: bool) -> dict[str, int]:
    categories = world.taxonomy.categories
    return _tally(pair.status for pair in world.taxonomy.pairs if categories[pair.source].nonce == nonce)


def _styles(world: World) -> dict[str, int]:
    styles = world.styles
    return {
        "styles": len(styles.styles),
        "parents": len({parent for style in styles.styles for parent in style.parents}),
        "devices": len(styles.devices),
        "contents": len(styles.contents),
        "taught (content, style) pairs": len(styles.taught()),
        "held-out (content, style) pairs": len(styles.held_out),
        "prompts": len(styles.prompts()),
    }


def _text(world: World) -> dict[str, int]:
    blocks = world.blocks(random.Random(0))
    return {
        "blocks in a pass": len(blocks),
        "words in a pass": sum(len(block.split()) for block in blocks),
        "prose passages": len(read_prose()),
        "held-out prose passages": len(read_prose(held_out=True)),
    }


def _tally(names: Iterable[str]) -> dict[str, int]:
    """How often each name comes, in the order of first comings."""
    return dict(Counter(names))


def _pair_tally(names: Iterable[tuple[str, str]]) -> Iterable[tuple[tuple[str, str], int]]:
    return Counter(names).items()
