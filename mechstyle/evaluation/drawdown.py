"""Edit success and drawdown: accuracy where an edit should be felt, accuracy lost where it should not."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd

from mechstyle.cases import SCOPES
from mechstyle.errors import InputError
from mechstyle.evaluation.differences import paired_differences
from mechstyle.evaluation.intervals import ACCURACY
from mechstyle.evaluation.measure import Metric
from mechstyle.evaluation.summaries import summarise_rows

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
        over all rows of the stage.

    Raises:
        InputError: a column, a stage or the rows of a scope in one stage are not there; an unknown scope.
        RangeError: as ``summarise_rows``.

    >>> success_and_drawdown(accuracy_rows(scores.rows))[["scope", "metric", "value"]]  # doctest: +SKIP
    """
    _check(rows)
    if "edit" not in rows.columns or rows["edit"].isna().all():
        return pd.DataFrame(_of_edit(rows, "", ci=ci, resamples=resamples, seed=seed))
    found = []
    for edit in rows["edit"].dropna().unique():
        own = rows["edit"] == edit
        if not (own & (rows["stage"] == "after")).any():
            continue
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
        for stage, part in (("before", before), ("after", after)):
            if part.empty:
                raise InputError(
                    f"rows: expected rows of scope {scope!r}{whose} in both stages, "
                    f"got none of stage {stage!r}."
                )
        metric = OF_SCOPE[scope]
        means = [
            float(summarise_rows(part, [metric], ci=ci, resamples=1).loc[metric.name, "value"])
            for part in (before, after)
        ]
        if metric == SUCCESS:
            table = summarise_rows(after, [metric], ci=ci, resamples=resamples, seed=seed)
        else:
            table = paired_differences(before, after, [metric], ci=ci, resamples=resamples, seed=seed)
        row = table.loc[metric.name].to_dict()
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


def _check(rows: pd.DataFrame) -> None:
    _require_columns(rows, NEEDED)
    stages = set(rows["stage"])
    if stages != {"before", "after"}:
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
