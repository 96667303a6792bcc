"""``mechstyle evaluate --suite``: everything that is measured, of several edits side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechstyle.cli.output import emit
from mechstyle.errors import FileError, InputError

if TYPE_CHECKING:
    import pandas as pd

    from mechstyle.evaluation.edits import Edits
    from mechstyle.evaluation.suite_result import SuiteResult

__all__ = ["evaluate_suite"]

SUFFIX = ".safetensors"
SHOWN = ("score", "efficacy", "paraphrase", "neighborhood")
"""Metrics of requests that are printed; of the other tables all are."""


def evaluate_suite(
    *,
    out: Path | None,
    model: str,
    suite: str | None,
    requests: Path | None,
    edits: Sequence[str],
    prepend_bos: bool | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run a suite and write its tables, figures and report into a folder."""
    if out is None:
        raise InputError("--out missing: a suite writes its tables and its report into a folder; name one.")
    named = _named(edits)
    from mechstyle import organisms
    from mechstyle.datasets import read_cases
    from mechstyle.evaluation.suite import run_suite
    from mechstyle.evaluation.suite_file import read_suite
    from mechstyle.models import fingerprint, load_model
    from mechstyle.outputs import output_folder
    from mechstyle.report.evaluation import write_evaluation_report
    from mechstyle.threads import few_threads

    asked = read_suite("scores" if suite is None else suite)
    given = None if requests is None else read_cases(requests)
    loaded = {name: _loaded(path) for name, path in named.items()}
    place = output_folder(out)
    hooked = load_model(model)
    organism = organisms.with_fingerprint(fingerprint(hooked))
    cases, measures = asked.prepared(asked.own_cases(organism) if given is None else given, organism)
    run = asked.run
    with few_threads(hooked):
        found = run_suite(
            hooked,
            cases,
            measures,
            edits=loaded,
            prepend_bos=run.prepend_bos if prepend_bos is None else prepend_bos,
            batch_size=run.batch_size,
            seed=run.seed,
            at_once=run.at_once,
            collateral_edits=run.collateral_edits or None,
            folder=place,
            progress=not quiet,
        )
    files = {name: str(path) for name, path in found.save(place).items()}
    files["report"] = str(place / "report.html")
    write_evaluation_report(files["report"], found)
    emit({**found.to_dict(), "files": files}, "\n".join([*_lines(found), files["report"]]), as_json=as_json)


def _named(edits: Sequence[str]) -> dict[str, Path]:
    """NAME=PATH, or a path whose name without its ending is the name."""
    found: dict[str, Path] = {}
    for given in edits:
        name, mark, path = given.partition("=")
        place = Path(path if mark else given)
        name = name if mark else place.stem
        if not name or not str(place):
            raise InputError(f"--edits: expected NAME=PATH, such as rome=rome.safetensors, got {given!r}.")
        if name in found:
            raise InputError(f"--edits: two are named {name!r}; name them apart: NAME=PATH.")
        found[name] = place
    return found


def _loaded(path: Path) -> Edits:
    """One edit from a file, or one for each request from a folder."""
    from mechstyle.editing.loading import load_edit

    if not path.is_dir():
        return load_edit(path)
    files = sorted(one for one in path.iterdir() if one.suffix == SUFFIX)
    if not files:
        raise FileError(
            f"--edits {path}: the folder holds no *{SUFFIX}; it should hold an edit for each request, which "
            "are taken in the order of their names."
        )
    return [load_edit(file) for file in files]


def _lines(found: SuiteResult) -> list[str]:
    """What is printed: a line a metric, a column an edit."""
    summary = found.summary()
    lines = []
    for table, rows in summary.groupby("table", sort=False):
        chosen = rows[rows["metric"].isin(SHOWN)] if table == "scores" else rows
        lines.append(f"{table}:")
        for metric, each in chosen.groupby("metric", sort=False):
            cells = [f"{row['edit']} {_cell(row)}" for _, row in each.iterrows()]
            lines.append(f"  {metric:28s} {'   '.join(cells)}")
    if len(found.failures):
        lines.append(
            f"failed: {len(found.failures)} pieces of work gave no finite numbers; see failures.csv."
        )
    return lines


def _cell(row: pd.Series[Any]) -> str:
    bounds = f" [{row['low']:.3g}, {row['high']:.3g}]" if math.isfinite(row["low"]) else ""
    return f"{row['value']:.3g}{bounds}"
