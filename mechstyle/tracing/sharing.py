"""Which tokens' resumed runs share a batch: shorter suffixes may ride along with a longer one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["share_suffixes"]

CALL_FLOPS = 4e8
"""What calling a block costs besides its arithmetic, as arithmetic that a core could have done meanwhile."""


def share_suffixes(
    cfg: Any, tokens: Sequence[int], *, n_positions: int, rows_per_token: float, max_rows: int
) -> list[Sequence[int]]:
    """Cut neighbouring tokens into groups that are run from their first token on, at the least cost.

    A group runs more positions than its later tokens need, but calls each block once for all of them.

    Args:
        tokens: in rising order.
        rows_per_token: rows of one token's cells at the top layer.
        max_rows: rows in one batch; a group that needs more is called several times.

    Example:
        >>> share_suffixes(cfg, [4, 5, 6], n_positions=7, rows_per_token=1, max_rows=64)  # doctest: +SKIP
        [[4, 5, 6]]
    """
    call = CALL_FLOPS / _flops(cfg)

    def cost(first: int, stop: int) -> float:
        rows = (stop - first) * rows_per_token
        # Rows join layer by layer: on average half of them are there.
        return rows / 2 * (n_positions - tokens[first]) + call * math.ceil(rows / max_rows)

    best: list[tuple[float, int]] = [(0.0, 0)]
    for stop in range(1, len(tokens) + 1):
        best.append(min((best[first][0] + cost(first, stop), first) for first in range(stop)))
    groups, stop = [], len(tokens)
    while stop:
        groups.append(tokens[best[stop][1] : stop])
        stop = best[stop][1]
    return groups[::-1]


def _flops(cfg: Any) -> float:
    """Floating-point operations of one block for one position, attention scores left out."""
    matrices = 3 if cfg.gated_mlp else 2
    return float(2 * cfg.d_model * (4 * cfg.n_heads * cfg.d_head + matrices * cfg.d_mlp))
