"""Edit success and drawdown: accuracy where an edit should be felt, accuracy lost where it should not."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd

from mechstyle.cases import SCOPES
from mechstyle.errors import InputError
from mechstyle.evaluation.clusters import clusters_of
from mechstyle.evaluation.differences import paired_differences
from mechstyle.evaluation.intervals import ACCURACY
from mechstyle.evaluation.measure import Metric
from mechstyle.evaluation.pairs import pairs_of
from mechstyle.evaluation.summaries import summarise_rows
from mechstyle.evaluation.summary_row import joined

__all__ = ["accuracy_rows", "success_and_drawdown"]

SUCCESS: Final = Metric("edit success", "accuracy", ACCURACY)
DRAWDOWN: Final = Metric("drawdown", "accuracy", f"{ACCURACY}, lost", better="lower")
OF_SCOPE: Final = {"in": SUCCESS, "hard in": SUCCESS, "near": DRAWDOWN, "far": DRAWDOWN}
NEEDED: Final = ("stage", "item", "scope", "accuracy")


def success_and_drawdown(
    rows: pd.DataFrame, *, ci: float = 0.95, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Edit success in scope and drawdown out of scope, scope by scope (Mitchell et al. 2022).

    Edit success is the accuracy on what the edit should change, with the edit. Drawdown is the accuracy
    before the edit less that with it, on the same questions about what should stay: 0 is best, and it is
    negative where an edit helps. A request's questions are averaged first.

    Args:
        rows: of both stages; columns ``stage`` ("before", "after"), ``item``, ``scope`` (one of
            ``cases.SCOPES``) and ``accuracy``: in scope of the answers wanted, out of scope of the own ones.
            With ``request`` intervals are over requests. With ``edit`` each edit has rows of its own; rows
            before that have no edit belong to all of them.
        ci: share of resamples inside each interval.
        seed: of the resampling.

    Returns:
        a row per edit (if there are any) and scope that was asked about; columns ``scope, metric, value, low,
        high, n, unit, before, after, measure, note``. ``before`` and ``after`` are the accuracies themselves,
        over all rows of the stage. ``note`` counts rows before that have none after ("left out"). A scope
        without rows after, since all its requests failed under the edit, is NaN with ``n`` 0 and says so; so
        is every scope where the whole stage is not there.

    Raises:
        InputError: a column, the stage "before", or its rows of a scope are not there; an unknown scope.
        RangeError: as ``summarise_rows``.

    >>> success_and_drawdown(accuracy_rows(scores.rows))[["scope", "metric", "value"]]  # doctest: +SKIP
    """
    _check(rows)
    if "edit" not in rows.columns or rows["edit"].isna().all():
        return pd.DataFrame(_of_edit(rows, "", ci=ci, resamples=resamples, seed=seed))
    found = []
    for edit in rows["edit"].dropna().unique():
        own = rows["edit"] == edit
        if not (own & (rows["stage"] == "before")).any():
            own |= rows["edit"].isna() & (rows["stage"] == "before")
        part = _of_edit(rows[own], f" of edit {edit!r}", ci=ci, resamples=resamples, seed=seed)
        found += [{"edit": edit, **row} for row in part]
    return pd.DataFrame(found)


def accuracy_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of scores as ``success_and_drawdown`` wants them.

    Args:
        rows: as in ``Scores.rows``: ``accuracy_new`` counts in scope, ``accuracy_true`` out of scope.

    Raises:
        InputError: a column is not there.

    >>> accuracy_rows(scores.rows).columns.tolist()  # doctest: +SKIP
    ['stage', 'request', 'kind', 'item', 'scope', 'accuracy']
    """
    _require_columns(rows, ("stage", "request", "kind", "prompt", "scope", "accuracy_new", "accuracy_true"))
    wanted = rows["scope"].map(OF_SCOPE.get) == SUCCESS
    accuracy = np.where(wanted, rows["accuracy_new"], rows["accuracy_true"])
    table = rows[["stage", "request", "kind"]].assign(
        item=rows["prompt"], scope=rows["scope"], accuracy=accuracy
    )
    return table.reset_index(drop=True)


def _of_edit(rows: pd.DataFrame, whose: str, *, ci: float, resamples: int, seed: int) -> list[dict[str, Any]]:
    """A row per scope."""
    found = []
    for scope in (scope for scope in SCOPES if (rows["scope"] == scope).any()):
        asked = rows[rows["scope"] == scope]
        before, after = (asked[asked["stage"] == stage] for stage in ("before", "after"))
        if before.empty:
            raise InputError(f"rows: expected rows of scope {scope!r}{whose} of stage 'before', got none.")
        metric = OF_SCOPE[scope]
        means = [
            float(summarise_rows(part, [metric], ci=ci, resamples=1).loc[metric.name, "value"])
            for part in (before, after)
        ]
        row = _of_scope(before, after, metric, ci=ci, resamples=resamples, seed=seed)
        found.append(
            {
                "scope": scope,
                "metric": metric.name,
                **{name: row[name] for name in ("value", "low", "high", "n", "unit")},
                "before": means[0],
                "after": means[1],
                "measure": row["measure"],
                "note": row["note"],
            }
        )
    return found


def _of_scope(
    before: pd.DataFrame, after: pd.DataFrame, metric: Metric, *, ci: float, resamples: int, seed: int
) -> dict[Any, Any]:
    """Success with the edit or what is lost by it, and how many rows are left out; NaN without rows after."""
    if metric == DRAWDOWN:
        table = paired_differences(before, after, [metric], ci=ci, resamples=resamples, seed=seed)
        left_out = ""
    else:
        table = summarise_rows(after, [metric], ci=ci, resamples=resamples, seed=seed)
        (left_out,) = pairs_of(before, after, [metric]).left_out_of_first
    row: dict[Any, Any] = table.loc[metric.name].to_dict()
    if after.empty:
        return row | {"unit": clusters_of(before)[1], "note": "no rows under the edit"}
    return row | {"note": joined(left_out, row["note"])}


def _check(rows: pd.DataFrame) -> None:
    _require_columns(rows, NEEDED)
    stages = set(rows["stage"])
    if not {"before"} <= stages <= {"before", "after"}:
        raise InputError(
            "rows: expected the stages 'before' and 'after', "
            f"got {', '.join(map(repr, sorted(map(str, stages)))) or 'none'}; "
            "drawdown is what is lost from one to the other."
        )
    if unknown := sorted({str(scope) for scope in rows["scope"]} - set(SCOPES)):
        raise InputError(f"rows: expected scopes among {', '.join(SCOPES)}, got {unknown[0]!r}.")


def _require_columns(rows: pd.DataFrame, needed: tuple[str, ...]) -> None:
    if missing := [name for name in needed if name not in rows.columns]:
        raise InputError(
            f"rows: expected the columns {', '.join(needed)}; {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not there."
        )
