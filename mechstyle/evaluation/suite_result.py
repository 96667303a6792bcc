"""What a suite found: a tidy table a measure, its metrics edit beside edit, and what failed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from mechstyle.cases import Case
from mechstyle.errors import InputError
from mechstyle.evaluation.differences import compare
from mechstyle.evaluation.drawdown import success_and_drawdown
from mechstyle.evaluation.measure import Measure
from mechstyle.evaluation.scores import Scores
from mechstyle.evaluation.suite_tables import UNEDITED
from mechstyle.evaluation.summaries import by_relation, summarise_rows
from mechstyle.files import atomic_write
from mechstyle.outputs import output_folder
from mechstyle.plain_json import plain_json

__all__ = ["SuiteResult"]

SCORES: Final = "scores"
QUESTIONS: Final = "questions"
FAILURES: Final = "failures"
DRAWN_DOWN: Final = (SCORES, QUESTIONS)
SUMMARY: Final = (
    "table", "metric", "edit", "value", "low", "high", "n", "unit", "failed", "measure", "better", "note",
)  # fmt: skip
COMPARISON: Final = (
    "table", "metric", "edit", "value", "low", "high", "n", "unit", "difference", "difference_low",
    "difference_high", "paired_value", "paired_reference", "p", "p_holm", "n_paired", "failed", "measure",
    "better", "note",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class SuiteResult:
    """What ``run_suite`` found.

    Args:
        cases: in the order of the column ``request``.
        tables: name of a measure -> its rows under every edit: ``edit`` ("unedited": the model as it came),
            ``stage`` ("before", "after"), ``item`` (what was asked) and the measure's own columns.
        failures: ``edit, table, request, reason`` of every piece of work that gave no finite numbers. These
            requests are missing from the tables, and so flatter the edit: summaries count them in ``failed``.
        measures: as given.
        edits: names of the edits.
        provenance: fingerprint of the unedited model, versions, settings.
    """

    cases: tuple[Case, ...]
    tables: Mapping[str, pd.DataFrame]
    failures: pd.DataFrame
    measures: tuple[Measure, ...]
    edits: tuple[str, ...]
    provenance: Mapping[str, Any]

    def rows(self, table: str, edit: str) -> pd.DataFrame:
        """The rows of one measure under one edit.

        Raises:
            InputError: there is no such table or edit.
        """
        self._require_edit("edit", edit)
        if table not in self.tables:
            raise InputError(f"table: expected one of {', '.join(self.tables)}, got {table!r}.")
        whole = self.tables[table]
        return whole[whole["edit"] == edit].reset_index(drop=True)

    def summary(self, ci: float = 0.95, *, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
        """Every metric of every measure under every edit, with bootstrap intervals.

        Columns ``table, metric, edit, value, low, high, n, unit, failed, measure, better, note``. Resampled
        are requests, or items such as texts where nothing is asked about requests.

        Raises:
            RangeError: ``ci`` or ``resamples`` is out of range.

        >>> found.summary().query("metric == 'efficacy'")  # doctest: +SKIP
        """
        return self._of_each(
            lambda measure, tables: pd.concat(
                [
                    _noted(
                        measure, summarise_rows(rows, measure.metrics, ci=ci, resamples=resamples, seed=seed)
                    )
                    .reset_index()
                    .assign(edit=edit)
                    for edit, rows in tables.items()
                ]
            ),
            SUMMARY,
        )

    def compare(
        self,
        reference: str = UNEDITED,
        *,
        ci: float = 0.95,
        resamples: int = 1000,
        permutations: int = 9999,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Every edit's difference to one of them, paired by request or item, with intervals and p-values.

        Args:
            reference: name of an edit, or "unedited".

        Returns:
            columns as of ``mechstyle.evaluation.compare``, with ``table``, ``failed`` and ``better``.

        Raises:
            InputError: there is no such edit.

        >>> found.compare("ft").query("metric == 'score'")[["edit", "difference"]]  # doctest: +SKIP
        """
        self._require_edit("reference", reference)
        return self._of_each(
            lambda measure, tables: (
                compare(
                    tables,
                    measure.metrics,
                    reference=reference,
                    ci=ci,
                    resamples=resamples,
                    permutations=permutations,
                    seed=seed,
                )
                if reference in tables
                else None
            ),
            COMPARISON,
        )

    def drawdown(self, ci: float = 0.95, *, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
        """Edit success in each scope, and drawdown out of scope, by token accuracy (Mitchell et al. 2022).

        Over requests' own prompts and, where they were asked, all fair questions; but out of scope not over
        those whose answer is the new target itself (CounterFact's attribute prompts): there an edit that
        spills over gains what it loses elsewhere. Columns as of ``success_and_drawdown``, with ``edit`` and
        ``failed``, the requests that gave no finite numbers and are missing.

        Raises:
            InputError: neither scores nor questions were measured, or there are no edits.
        """
        parts = [
            _accuracies(self.tables[name], self.cases)
            for name in (SCORES, QUESTIONS)
            if len(self.tables.get(name, ()))
        ]
        if not parts or not self.edits:
            raise InputError("drawdown: expected scores or questions of at least one edit.")
        rows = pd.concat(parts, ignore_index=True)
        before = rows[rows["edit"] == UNEDITED]
        found = []
        for edit in self.edits:
            both = pd.concat([before, rows[rows["edit"] == edit]], ignore_index=True)
            table = success_and_drawdown(both.drop(columns="edit"), ci=ci, resamples=resamples, seed=seed)
            lost = self.failures[(self.failures["edit"] == edit) & self.failures["table"].isin(DRAWN_DOWN)]
            found.append(table.assign(edit=edit, failed=lost["request"].nunique()))
        return pd.concat(found, ignore_index=True)

    def by_relation(
        self, edit: str, *, ci: float = 0.95, resamples: int = 1000, seed: int = 0
    ) -> pd.DataFrame:
        """The metrics of requests' own prompts under an edit, relation by relation.

        Raises:
            InputError: there is no such edit, or scores were not measured.
        """
        measure = next((one for one in self.measures if one.name == SCORES), None)
        if measure is None:
            raise InputError("by_relation: expected scores, but they are not among the measures.")
        rows = self.rows(SCORES, edit)
        return by_relation(rows, measure.metrics, ci=ci, resamples=resamples, seed=seed)

    def scores(self, edit: str | None = None) -> Scores:
        """The scores of requests' own prompts before and under one edit, as ``evaluate`` gives them.

        Args:
            edit: None gives those of the unedited model alone.

        Raises:
            InputError: there is no such edit, or scores were not measured.
        """
        names = [UNEDITED] if edit is None else [UNEDITED, edit]
        rows = pd.concat([self.rows(SCORES, name) for name in names], ignore_index=True)
        return Scores(rows.drop(columns="edit"), None, self.provenance)

    def to_dict(self, *, seed: int = 0) -> dict[str, Any]:
        """Summary, differences, drawdown, failures and provenance as JSON; NaN and infinity become null."""
        whole = {
            "bootstrap_seed": seed,
            "cases": len(self.cases),
            "summary": self.summary(seed=seed).to_dict("records"),
            "compared_with_unedited": self.compare(seed=seed).to_dict("records") if self.edits else [],
            "drawdown": self.drawdown(seed=seed).to_dict("records") if self.has_drawdown else [],
            "failures": self.failures.to_dict("records"),
            "provenance": dict(self.provenance),
        }
        plain: dict[str, Any] = plain_json(whole)
        return plain

    def save(self, folder: str | os.PathLike[str], *, seed: int = 0) -> dict[str, Path]:
        """Write results.json, summary.csv, comparison.csv, failures.csv and a CSV a table, each whole.

        Raises:
            FileError: a file cannot be written.
        """
        place = output_folder(folder)
        written = {"results": place / "results.json"}
        text = json.dumps(self.to_dict(seed=seed), indent=1, ensure_ascii=False, allow_nan=False)
        with atomic_write(written["results"]) as part:
            part.write_text(text + "\n", encoding="utf-8")
        frames = {"summary": self.summary(seed=seed), FAILURES: self.failures, **self.tables}
        if self.edits:
            frames["comparison"] = self.compare(seed=seed)
        for name, frame in frames.items():
            written[name] = place / f"{name}.csv"
            with atomic_write(written[name]) as part:
                frame.to_csv(part, index=False)
        return written

    @property
    def has_drawdown(self) -> bool:
        """Whether there is anything to measure drawdown by."""
        return bool(self.edits) and any(len(self.tables.get(name, ())) for name in DRAWN_DOWN)

    def _require_edit(self, argument: str, edit: str) -> None:
        if edit not in (UNEDITED, *self.edits):
            raise InputError(
                f"{argument}: expected one of {', '.join((UNEDITED, *self.edits))}, got {edit!r}."
            )

    def _of_each(
        self,
        sum_up: Callable[[Measure, dict[str, pd.DataFrame]], pd.DataFrame | None],
        columns: Sequence[str],
    ) -> pd.DataFrame:
        """One table out of those of all measures, with what failed."""
        found = []
        for measure in self.measures:
            each = {edit: self.rows(measure.name, edit) for edit in (UNEDITED, *self.edits)}
            tables = {edit: rows for edit, rows in each.items() if len(rows)}
            table = sum_up(measure, tables) if tables else None
            if table is not None:
                table = pd.concat([table, *(_nothing(measure, one) for one in each if one not in tables)])
                better = {metric.name: metric.better for metric in measure.metrics}
                found.append(table.assign(table=measure.name, better=table["metric"].map(better)))
        whole = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=list(columns))
        failed = self.failures.groupby(["table", "edit"])["request"].size().to_dict()
        keys = zip(whole["table"], whole["edit"], strict=True)
        return whole.assign(failed=[failed.get(key, 0) for key in keys]).reindex(columns=list(columns))


def _noted(measure: Measure, table: pd.DataFrame) -> pd.DataFrame:
    """With a note where all else was measured under each request's edit: edits vary, its items do not."""
    if measure.about == "requests":
        return table
    over_edits = "over edits: the items are the same under each"
    notes = [
        "; ".join(filter(None, (note, over_edits if unit == "request" else "")))
        for note, unit in zip(table["note"], table["unit"], strict=True)
    ]
    return table.assign(note=notes)


def _nothing(measure: Measure, edit: str) -> pd.DataFrame:
    """What is said of an edit that has no rows in a table: every metric, and no number."""
    nothing = {"edit": edit, "n": 0, "note": "no rows under this edit"}
    rows = [{**nothing, "metric": one.name, "measure": one.measure} for one in measure.metrics]
    return pd.DataFrame(rows)


def _accuracies(table: pd.DataFrame, cases: Sequence[Case]) -> pd.DataFrame:
    """Token accuracies of what is wanted in each scope, as ``SuiteResult.drawdown`` takes them."""
    if "fair" in table.columns:
        new = table["request"].map(lambda request: cases[int(request)].request.new_target)
        spilled = table["scope"].isin(("near", "far")) & (table["answer"] == new)
        fair = table[table["fair"].astype(bool) & ~spilled]
        accuracy = fair["accuracy"]
    else:
        fair = table
        accuracy = fair["accuracy_new"].where(fair["scope"] == "in", fair["accuracy_true"])
    return fair[["edit", "stage", "request", "item", "scope"]].assign(accuracy=accuracy.astype(float))
