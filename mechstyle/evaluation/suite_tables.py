"""From the pieces of work that were done to a table a measure, and one of what failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pandas as pd

from mechstyle.evaluation.measure import Measure
from mechstyle.evaluation.units import Group, Store

__all__ = ["UNEDITED", "tables_of"]

UNEDITED: Final = "unedited"
"""The name of the model as it came, beside the names of edits."""


def tables_of(
    measures: Sequence[Measure], groups: Sequence[Group], store: Store
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """A table for each measure, and one of what failed.

    >>> tables, failures = tables_of(measures, groups, store)  # doctest: +SKIP
    """
    rows: dict[str, list[dict[str, Any]]] = {measure.name: [] for measure in measures}
    failures = []
    for group in groups:
        edit = UNEDITED if group.name is None else group.name
        head = {"edit": edit, "stage": "before" if group.name is None else "after"}
        for unit in group.units:
            measure, done = measures[unit.measure], store.find(group, unit)
            assert done is not None
            own = {} if measure.about == "requests" or group.request is None else {"request": group.request}
            rows[measure.name] += [{**head, **row, **own} for row in done.rows]
            for case, reason in done.failures:
                request = group.request if case is None else case
                failures.append({"edit": edit, "table": measure.name, "request": request, "reason": reason})
    tables = {name: pd.DataFrame(each, columns=None if each else ["edit"]) for name, each in rows.items()}
    return tables, pd.DataFrame(failures, columns=["edit", "table", "request", "reason"])
