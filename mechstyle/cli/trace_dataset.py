"""``mechstyle trace --dataset``: many facts into a folder, with averages, what was left out and a report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechstyle.cli.output import emit, note
from mechstyle.cli.tables import write_summary, write_table
from mechstyle.errors import RangeError
from mechstyle.plain_json import plain_json

if TYPE_CHECKING:
    import pandas as pd

    from mechstyle.facts import Fact
    from mechstyle.tracing.trace import Trace
    from mechstyle.tracing.trace_set import TraceSet

__all__ = ["read_dataset", "trace_dataset"]


def read_dataset(path: Path, limit: int | None) -> list[Fact]:
    """The first facts of a file of any kind that is understood.

    Raises:
        FileError: the file cannot be read.
        RangeError: the limit is below 1.
    """
    from mechstyle.datasets import read_facts

    if limit is not None and limit < 1:
        raise RangeError(f"--limit: expected a whole number of at least 1, got {limit}.")
    return read_facts(path)[:limit]


def trace_dataset(
    name: str,
    facts: list[Fact],
    tracer: Callable[..., Trace],
    out: Path,
    *,
    skip_unknown: bool,
    seed: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Trace facts into a folder, average what is there of them, and say what was left out."""
    from mechstyle.models import load_model
    from mechstyle.outputs import output_folder
    from mechstyle.report.traces import write_trace_report
    from mechstyle.threads import few_threads
    from mechstyle.tracing.aggregate import total_effects
    from mechstyle.tracing.trace_facts import trace_facts

    place = output_folder(out)
    model = load_model(name)
    with few_threads(model):
        traces = trace_facts(
            model, facts, tracer=tracer, folder=place, skip_unknown=skip_unknown, progress=not quiet
        )
    averages, totals = traces.average(seed=seed), total_effects(traces, seed=seed)
    tables = {"average": averages, "totals": totals, "skipped": traces.skipped}
    files = {key: str(write_table(table, place / f"{key}.csv")) for key, table in tables.items()}
    files["report"] = str(place / "report.html")
    write_trace_report(files["report"], traces, average=averages, totals=totals)
    summary = plain_json(
        {
            "out": str(place),
            "model": name,
            "facts": len(facts),
            "traced": len(traces),
            "skipped": traces.skipped["reason"].value_counts().to_dict(),
            "totals": totals.to_dict("index"),
            "peaks": _peaks(averages),
            "suggested_layer": _suggested(traces, seed),
            "files": files,
        }
    )
    write_summary(summary, place / "summary.json")
    for reason, number in summary["skipped"].items():
        note(f"{number} of {len(facts)} facts left out: {reason}; {files['skipped']} names them.")
    emit(summary, "\n".join([*_lines(summary), files["report"]]), as_json=as_json)


def _peaks(averages: pd.DataFrame) -> list[dict[str, Any]]:
    """The cell of the largest mean effect of each kind; a head or neuron where the kind has such."""
    import pandas as pd

    from mechstyle.tracing.kinds import PARTS

    peaks = averages.loc[averages.groupby("kind", sort=False)["mean"].idxmax()].to_dict("records")
    return [
        {
            str(name): int(value) if name in PARTS else value
            for name, value in peak.items()
            if name not in PARTS or not pd.isna(value)
        }
        for peak in peaks
    ]


def _suggested(traces: TraceSet, seed: int) -> int | None:
    from mechstyle.tracing.aggregate import LAST_SUBJECT, suggest_layers

    there = any(LAST_SUBJECT in trace.data["role"].values for trace in traces)
    return suggest_layers(traces, seed=seed)[0].layer if there and "mlp" in traces[0].kinds else None


def _lines(summary: dict[str, Any]) -> list[str]:
    from mechstyle.tracing.kinds import PARTS

    total = summary["totals"]["total effect"]
    return [
        f"{summary['traced']} of {summary['facts']} facts traced; average total effect "
        f"{total['mean']:.3f}{_interval(total)}",
        *(
            f"{peak['kind']:5s} peaks at the {peak['role']}, layer {peak['layer']}"
            + "".join(f", {name} {peak[name]}" for name in PARTS if name in peak)
            + f": {peak['mean']:+.3f}{_interval(peak)}"
            for peak in summary["peaks"]
        ),
    ]


def _interval(row: dict[str, Any]) -> str:
    """Of one draw of one fact there is none."""
    return "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
