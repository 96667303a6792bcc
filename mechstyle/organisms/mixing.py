"""Training documents: blocks of all parts of the world, mixed with each other and with prose."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from .world import World

__all__ = ["documents"]


def documents(world: World, prose: Sequence[str], *, seed: int, prose_rate: float = 0.3) -> Iterator[str]:
    """Endless documents of one to four blocks, with prose before, between or after them.

    Every pass through the world tells each subject's facts once, see `World.blocks`.

    Args:
        prose_rate: chance that a document holds a passage of prose (0.3 makes about a fifth of the tokens).
    """
    rng = random.Random(seed)
    while True:
        blocks = world.blocks(rng)
        position = 0
        while position < len(blocks):
            count = rng.choice((1, 2, 2, 3, 4))
            chosen = blocks[position : position + count]
            position += count
            if rng.random() < prose_rate:
                chosen.insert(rng.randrange(len(chosen) + 1), rng.choice(prose))
            yield " ".join(chosen)
