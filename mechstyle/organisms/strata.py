"""A seeded sample with as many of each kind."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import TypeVar

__all__ = ["sample_each"]

T = TypeVar("T")


def sample_each(things: Sequence[T], kinds: Sequence[Hashable], count: int, rng: random.Random) -> list[T]:
    """So many things of each kind, or as many as there are, in their order.

    Args:
        kinds: of each thing.

    Example:
        >>> sample_each("abcde", [0, 0, 1, 1, 1], 2, random.Random(0))[:2]
        ['a', 'b']
    """
    strata: dict[Hashable, list[int]] = defaultdict(list)
    for place, kind in enumerate(kinds):
        strata[kind].append(place)
    chosen = [rng.sample(places, min(count, len(places))) for places in strata.values()]
    return [things[place] for place in sorted(place for places in chosen for place in places)]
