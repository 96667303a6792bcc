"""Two tables on the rows that both have: what a paired comparison is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int
from numpy.typing import NDArray

from mechstyle.errors import InputError
from mechstyle.evaluation.clusters import Clusters, RowValues, Unit, clusters_of, row_values, sum_up
from mechstyle.evaluation.measure import Metric

__all__ = ["Pairs", "pairs_of"]

Indices = Int[NDArray[np.int64], " row"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Two tables on the rows that both have.

    Args:
        clusters: axes unit, side, metric.
        unit: what a pair is of.
        left_out: for each metric, what has no partner; empty where all have one.
        left_out_of_first: the same of the first table alone.
    """

    clusters: Clusters
    unit: Unit
    left_out: tuple[str, ...]
    left_out_of_first: tuple[str, ...]


def pairs_of(rows_a: pd.DataFrame, rows_b: pd.DataFrame, metrics: Sequence[Metric]) -> Pairs:
    """Pair rows by ``item``, and by ``request`` and ``kind`` where both tables have them.

    Where one table alone has requests, the other one's rows stand beside those of each request. Where an item
    comes several times, the first is paired with the first, and so on. A row counts for a metric if it has a
    partner and both have a value.

    Raises:
        InputError: rows without ``item``, or some with a request and some without; a metric's column is not
            there.

    >>> rows = pd.DataFrame({"item": ["a", "b"], "success": [1, 0]})
    >>> pairs_of(rows, rows.iloc[:1], [Metric("rate", "success", "share")]).left_out
    ('left out: 1 row without a partner',)
    """
    sides = rows_a, rows_b
    units = [clusters_of(rows)[1] for rows in sides]
    merged = _merged(rows_a, rows_b, units)
    codes, _ = clusters_of(merged)
    pieces, left_out, of_first = [], [], []
    for metric in metrics:
        values = [row_values(rows, metric) for rows in sides]
        taken = [_taken(one, merged[f"row_{side}"].to_numpy()) for side, one in enumerate(values)]
        paired = taken[0].known & taken[1].known
        pieces.append([RowValues(one.top, one.bottom, paired, paired) for one in taken])
        alone = [
            one.known & ~np.isin(np.arange(len(one.known)), merged.loc[paired, f"row_{side}"])
            for side, one in enumerate(values)
        ]
        left_out.append(_left_out(sides, units, alone, merged[paired]))
        of_first.append(_left_out(sides[:1], units[:1], alone[:1], merged[paired]))
    sums = [sum_up(metrics, [piece[side] for piece in pieces], codes) for side in (0, 1)]
    top, bottom = (
        np.stack(axes, axis=1) for axes in zip(*((one.top, one.bottom) for one in sums), strict=True)
    )
    unit: Unit = "request" if "request" in units else "item"
    return Pairs(Clusters(top, bottom), unit, tuple(left_out), tuple(of_first))


def _merged(rows_a: pd.DataFrame, rows_b: pd.DataFrame, units: Sequence[Unit]) -> pd.DataFrame:
    """Positions ``row_0`` and ``row_1`` of partners, with their ``request`` where a table has requests."""
    if rows_a.empty or rows_b.empty:
        return pd.DataFrame({"row_0": np.arange(0), "row_1": np.arange(0)})
    both = [
        name
        for name, there in (
            ("request", units[0] == units[1] == "request"),
            ("kind", "kind" in rows_a.columns and "kind" in rows_b.columns),
        )
        if there
    ]
    keys = ["item", *both]
    tables = []
    for side, rows in enumerate((rows_a, rows_b)):
        if "item" not in rows.columns:
            raise InputError(
                "rows: expected a column 'item' that says what was asked, to pair the rows by; "
                f"got {', '.join(map(str, rows.columns))}."
            )
        own = list(dict.fromkeys([*keys, "request"] if units[side] == "request" else keys))
        turn = rows.groupby(own, dropna=False).cumcount().to_numpy()
        tables.append(rows[own].assign(turn=turn, **{f"row_{side}": np.arange(len(rows))}))
    return tables[0].merge(tables[1], on=[*keys, "turn"])


def _taken(values: RowValues, index: Indices) -> RowValues:
    return RowValues(values.top[index], values.bottom[index], values.known[index], values.of_kind[index])


def _left_out(
    sides: Sequence[pd.DataFrame],
    units: Sequence[Unit],
    alone: Sequence[NDArray[np.bool_]],
    paired: pd.DataFrame,
) -> str:
    """How many rows have no partner, and how many whole requests."""
    n_rows = sum(int(rows.sum()) for rows in alone)
    if not n_rows:
        return ""
    requests: set[object] = set()
    for rows, unit, mask in zip(sides, units, alone, strict=True):
        if unit == "request":
            requests |= set(rows["request"].to_numpy()[mask])
    if "request" in paired.columns:
        requests -= set(paired["request"])
    parts = [f"{len(requests)} {'request' if len(requests) == 1 else 'requests'}"] if requests else []
    parts.append(f"{n_rows} {'row' if n_rows == 1 else 'rows'}")
    return f"left out: {' and '.join(parts)} without a partner"
