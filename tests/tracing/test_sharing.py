"""Tokens share a batch where that is cheapest, by the cost written out here and all cuts tried."""

from __future__ import annotations

import math
from itertools import combinations, pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechstyle.tracing.sharing import share_suffixes

TINY = {"d_model": 32, "n_heads": 4, "d_head": 8, "d_mlp": 128, "gated_mlp": False}
GPT2_SMALL = {"d_model": 768, "n_heads": 12, "d_head": 64, "d_mlp": 3072, "gated_mlp": False}
SIX_BILLION = {"d_model": 4096, "n_heads": 16, "d_head": 256, "d_mlp": 16384, "gated_mlp": False}
GATED = {"d_model": 2048, "n_heads": 32, "d_head": 64, "d_mlp": 5632, "gated_mlp": True}
CALL = 4e8
"""Floating-point operations that a core could have done while a block is called."""


def config(shape: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(**shape)


def cost(groups: list[list[int]], cfg: Any, *, n_positions: int, rows: float, max_rows: int) -> float:
    """Floating-point operations of a block for these groups, its calls counted as such.

    Query, key, value and output matrices have d_model by (n_heads * d_head) weights each, the MLP's two or
    three d_model by d_mlp; a weight costs a multiplication and an addition. Half of the rows are there on
    average, since they join layer by layer.
    """
    weights = 4 * cfg.d_model * cfg.n_heads * cfg.d_head
    weights += (3 if cfg.gated_mlp else 2) * cfg.d_model * cfg.d_mlp
    total = 0.0
    for group in groups:
        here = len(group) * rows
        total += 2 * weights * (here / 2) * (n_positions - group[0]) + CALL * math.ceil(here / max_rows)
    return total


def all_cuts(tokens: list[int]) -> list[list[list[int]]]:
    """Every way to cut the tokens into neighbouring groups."""
    inner = range(1, len(tokens))
    ends = [[0, *cut, len(tokens)] for count in range(len(tokens)) for cut in combinations(inner, count)]
    return [[tokens[a:b] for a, b in pairwise(end)] for end in ends]


shapes = st.sampled_from([TINY, GPT2_SMALL, SIX_BILLION, GATED])
tokens_in_order = st.lists(st.integers(0, 11), unique=True, min_size=1, max_size=7).map(sorted)


@given(
    shape=shapes,
    tokens=tokens_in_order,
    after=st.integers(1, 5),
    rows=st.sampled_from([1.0, 3.5, 10.0, 120.0]),
    max_rows=st.sampled_from([1, 16, 100, 10**6]),
)
def test_the_groups_are_the_cheapest_of_all_cuts(
    shape: dict[str, Any], tokens: list[int], after: int, rows: float, max_rows: int
) -> None:
    cfg, n_positions = config(shape), tokens[-1] + after
    found = [
        list(group)
        for group in share_suffixes(
            cfg, tokens, n_positions=n_positions, rows_per_token=rows, max_rows=max_rows
        )
    ]
    assert [token for group in found for token in group] == tokens
    assert all(found)
    size = {"n_positions": n_positions, "rows": rows, "max_rows": max_rows}
    least = min(cost(cut, cfg, **size) for cut in all_cuts(tokens))
    assert cost(found, cfg, **size) == pytest.approx(least, rel=1e-9)


def test_all_cuts_are_tried() -> None:
    cuts = all_cuts([1, 4, 5, 9])
    assert len(cuts) == len({str(cut) for cut in cuts}) == 2**3
    assert [[1, 4, 5, 9]] in cuts
    assert [[1], [4], [5], [9]] in cuts


def groups_of(shape: dict[str, Any], *, n_positions: int = 12, rows: float = 120) -> list[list[int]]:
    tokens = list(range(2, n_positions))
    found = share_suffixes(
        config(shape), tokens, n_positions=n_positions, rows_per_token=rows, max_rows=10**6
    )
    return [list(group) for group in found]


def test_a_tiny_model_runs_all_tokens_at_once() -> None:
    assert groups_of(TINY) == [list(range(2, 12))]


def test_an_expensive_model_runs_each_token_alone() -> None:
    assert groups_of(SIX_BILLION) == [[token] for token in range(2, 12)]


def test_a_model_in_between_shares_some() -> None:
    found = groups_of(GPT2_SMALL, rows=10)
    assert 1 < len(found) < 10
    assert max(len(group) for group in found) > 1


def test_more_rows_never_make_more_sharing_worthwhile() -> None:
    counts = [len(groups_of(GPT2_SMALL, rows=rows)) for rows in (0.1, 1, 10, 100, 1000)]
    assert counts == sorted(counts)
    assert counts[0] == 1
    assert counts[-1] == 10


def test_a_batch_that_must_be_split_anyway_is_not_shared() -> None:
    tokens = [4, 5, 6, 7]
    cfg = config(TINY)
    one_call_each = share_suffixes(cfg, tokens, n_positions=9, rows_per_token=64, max_rows=64)
    assert [list(group) for group in one_call_each] == [[token] for token in tokens]


def test_nothing_to_share_gives_no_groups() -> None:
    assert share_suffixes(config(TINY), [], n_positions=5, rows_per_token=0.0, max_rows=8) == []
