"""What came of a manifest: our row beside the published one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mechstyle.files import atomic_write
from mechstyle.plain_json import plain_json
from mechstyle.study.reproduce.manifest import Manifest

__all__ = ["Reproduction"]


@dataclass(frozen=True, eq=False)
class Reproduction:
    """Our row beside the published one.

    Args:
        table: a line for each published figure: ``metric, ours, low, high, published, difference, tolerance,
            verdict, note, printed``. All numbers are in our units; ``printed`` is the figure as the paper has
            it. ``low`` and ``high`` are our 95 % bootstrap interval over requests.
        summary: every metric that was measured, published or not.
        tables: name of a measurement ("scores", "generations") -> its rows, under the edits.
        failures: index of a request -> why it gave no numbers.
        measured: number of requests, without those that failed.
        provenance: fingerprint of the unedited model, versions, and all settings: manifest, editor, data.

    Example:
        >>> found = reproduce("organism-m-rome")  # doctest: +SKIP
        >>> found.table.set_index("metric").loc["efficacy", "verdict"]  # doctest: +SKIP
        'reproduced'
    """

    manifest: Manifest
    table: pd.DataFrame
    summary: pd.DataFrame
    tables: Mapping[str, pd.DataFrame]
    failures: Mapping[int, str]
    measured: int
    provenance: Mapping[str, Any]

    @property
    def contradicted(self) -> tuple[str, ...]:
        """Metrics that were not reproduced."""
        return tuple(self.table.loc[self.table["verdict"] == "not reproduced", "metric"])

    def to_dict(self) -> dict[str, Any]:
        """Table, summary and provenance as JSON; NaN becomes null."""
        return {
            "manifest": self.manifest.name,
            "published": self.manifest.row.label,
            "source": self.manifest.row.source,
            "measured": self.measured,
            "expected": self.manifest.expected,
            "table": plain_json(self.table.to_dict("records")),
            "summary": plain_json(self.summary.to_dict("index")),
            "failures": {str(index): reason for index, reason in self.failures.items()},
            "provenance": dict(self.provenance),
        }

    def to_text(self) -> str:
        """The table for a terminal, with what both rows are over."""
        row, expected = self.manifest.row, self.manifest.expected
        over = f"{self.measured:,}" + ("" if expected is None else f" of {expected:,}")
        if self.failures:
            over += f"; {len(self.failures)} gave no numbers"
        lines = [f"{self.manifest.name}: {row.label} ({row.source})", f"ours over {over} records", ""]
        lines.append(
            f"{'metric':14s}{'ours':>8s}  {'95 % interval':17s}{'published':>10s}  {'tolerance':>9s}  verdict"
        )
        for line in self.table.itertuples():
            if math.isnan(line.ours):
                ours = f"{'–':>8s}  {'':17s}{line.published:10.4f}  {'':>9s}"
            else:
                interval = f"[{line.low:.4f}, {line.high:.4f}]" if math.isfinite(line.low) else "none"
                ours = f"{line.ours:8.4f}  {interval:17s}{line.published:10.4f}  {line.tolerance:9.4f}"
            note = f" ({line.note})" if line.note else ""
            lines.append(f"{line.metric:14s}{ours}  {line.verdict}{note}")
        printed = ", ".join(f"{line.metric} {line.printed}" for line in self.table.itertuples())
        return "\n".join([*lines, "", f"as printed there: {printed}"])

    def save(self, folder: Path) -> None:
        """Write ``table.csv`` and ``result.json`` into a folder that exists.

        Raises:
            FileError: they cannot be written.
        """
        with atomic_write(folder / "table.csv") as part:
            self.table.to_csv(part, index=False)
        with atomic_write(folder / "result.json") as part:
            text = json.dumps(self.to_dict(), ensure_ascii=False, indent=2, allow_nan=False)
            part.write_text(text + "\n", encoding="utf-8")
