"""``mechstyle evaluate --suite``: everything that is measured, of several edits side by side."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechstyle.cli.output import emit
from mechstyle.errors import FileError, InputError

if TYPE_CHECKING:
    import pandas as pd

    from mechstyle.cases import Case
    from mechstyle.evaluation.edits import Edits
    from mechstyle.evaluation.suite_result import SuiteResult
    from mechstyle.facts import EditRequest

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
    seed: int | None,
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
    if seed is not None:
        asked = asked.seeded(seed)
    given = None if requests is None else read_cases(requests)
    loaded = {name: _loaded(path) for name, path in named.items()}
    place = output_folder(out)
    hooked = load_model(model)
    organism = organisms.with_fingerprint(fingerprint(hooked))
    if given is None and loaded:
        given = _own_cases(loaded, organism, seed=asked.run.seed)
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
    files = sorted((one for one in path.iterdir() if one.suffix == SUFFIX), key=_in_numbers)
    if not files:
        raise FileError(
            f"--edits {path}: the folder holds no *{SUFFIX}; it should hold an edit for each request, which "
            "are taken in the order of their names."
        )
    return [load_edit(file) for file in files]


def _in_numbers(path: Path) -> list[tuple[int, str]]:
    """To sort 2 before 10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path.stem)]


def _own_cases(edits: Mapping[str, Edits], organism: str | None, *, seed: int) -> list[Case]:
    """The requests that the edits were made for; of an embedded model with what its world says of them."""
    from mechstyle import organisms
    from mechstyle.cases import cases_of
    from mechstyle.evaluation.edits import is_one, listed_edits

    first: tuple[str, list[EditRequest]] | None = None
    for name, one in edits.items():
        listed = listed_edits(one, 1 if is_one(one) else len(one))  # type: ignore[arg-type]
        own = [request for edit in listed for request in edit.requests]
        if not own or (not is_one(one) and len(own) != len(listed)):
            raise InputError(f"--edits {name}: does not say what it was made for; give --requests FILE too.")
        first = first or (name, own)
        if {_wish(request) for request in own} != {_wish(request) for request in first[1]}:
            raise InputError(
                f"--edits {name}: made for other requests than {first[0]}; give --requests FILE, which all "
                "of them are scored on."
            )
    assert first is not None
    return cases_of(first[1]) if organism is None else organisms.cases_for(organism, first[1], seed=seed)


def _wish(request: EditRequest) -> tuple[str, str]:
    return request.fact.prompt, request.new_target


def _lines(found: SuiteResult) -> list[str]:
    """What is printed: a line a metric, a column an edit."""
    summary = found.summary()
    lines = []
    for table, rows in summary.groupby("table", sort=False):
        chosen = rows[rows["metric"].isin(SHOWN)] if table == "scores" else rows
        lines.append(f"{table}:")
        for metric, each in chosen.groupby("metric", sort=False):
            if each["value"].isna().all() and not each["failed"].any():
                continue  # nothing of this kind was asked
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
