"""Measure a model and its edits by everything that was asked for, edit beside edit, resumably."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress

from mechstyle.answers import require_positive
from mechstyle.cases import Case, cases_of
from mechstyle.errors import InputError, NonFiniteError, RangeError, WorkError
from mechstyle.evaluation.edits import (
    Edits,
    check_edits,
    edit_record,
    is_one,
    listed_edits,
    require_own_requests,
)
from mechstyle.evaluation.measure import Conditions, Measure, Reader
from mechstyle.evaluation.suite_result import SuiteResult
from mechstyle.evaluation.suite_tables import UNEDITED, tables_of
from mechstyle.evaluation.units import Done, Group, Store, Unit, groups_of
from mechstyle.facts import EditRequest
from mechstyle.models import HookedModel, active_base, provenance, require_hooked, resolve_bos
from mechstyle.outputs import output_folder

__all__ = ["run_suite"]

AT_ONCE: Final = 16
PARTS: Final = ("name", "about", "metrics", "settings", "prepare")
"""Of a measure."""
RESERVED: Final = ("results", "summary", "comparison", "failures")
"""Names of a result's other files."""
NAME: Final = re.compile(r"[\w-]+")
COLLATERAL_EDITS: Final = 20


def run_suite(
    model: HookedModel,
    cases: Sequence[EditRequest | Case],
    measures: Sequence[Measure],
    *,
    edits: Mapping[str, Edits] | None = None,
    prepend_bos: bool | None = None,
    batch_size: int = 32,
    seed: int = 0,
    at_once: int = AT_ONCE,
    collateral_edits: int | None = COLLATERAL_EDITS,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> SuiteResult:
    """Measure a model as it is and under each of several edits, on the same cases with the same draws.

    Measures about requests ask each case under its edit; measures about the model ask about everything else,
    under each edit. The model is as it was afterwards, whatever happens. Where an edit has broken the model
    so that it gives no finite numbers, that is a failure of this edit, and the others are measured.

    Args:
        edits: by name, for comparison side by side: each as for ``evaluate``, one edit for all cases, or a
            list with one for each.
        at_once: cases that are asked about together where one model serves them all.
        collateral_edits: where each case has its own edit, measures about the model as a whole are made under
            so many of the first edits; None makes them under all.
        folder: one file a piece of work is written there. The same call goes on after a kill, with the same
            results; it loses the piece in flight at most: one case where each has its own edit, else
            ``at_once`` cases. A call with more edits or measures takes what is there already.
        progress: show a progress bar on stderr.

    Raises:
        InputError: no cases or measures, two measures of one name, edits that do not match the cases, or a
            folder for a model that carries hooks; nothing was run.
        TextError: a prompt or text cannot be tokenised as needed.
        RangeError: a number is out of range.
        ModelError: an edit belongs to another model.
        FileError: the folder cannot be written.

    Warns:
        BosMismatchWarning: an edit was made with another ``prepend_bos``.

    >>> found = run_suite(model, requests, [RequestScores()], edits={"rome": edits})  # doctest: +SKIP
    >>> found.summary()  # doctest: +SKIP
    """
    require_hooked(model)
    given = cases_of(cases)
    measures, edits = _checked(measures), _named(edits)
    require_positive("at_once", at_once)
    if collateral_edits is not None and (isinstance(collateral_edits, bool) or collateral_edits < 1):
        raise RangeError(f"collateral_edits: expected 1 or more, or None for all, got {collateral_edits!r}.")
    require_positive("batch_size", batch_size)
    conditions = Conditions(resolve_bos(model, prepend_bos), batch_size, seed)
    listed = {}
    for name, one in edits.items():
        listed[name] = listed_edits(one, len(given), name=f"edits[{name!r}]")
        if not is_one(one):
            require_own_requests(listed[name], [case.request for case in given], name=f"edits[{name!r}]")
    origin = provenance(
        model,
        prepend_bos=conditions.prepend_bos,
        seed=seed,
        n_cases=len(given),
        measures={measure.name: measure.settings() for measure in measures},
        edits={name: edit_record(one) for name, one in edits.items()},
        collateral_edits=collateral_edits,
        active_edits=sorted(active_base(model)),
    )
    for name, each in listed.items():
        check_edits(
            model, each, str(origin["fingerprint"]), bos=conditions.prepend_bos, name=f"edits[{name!r}]"
        )
    groups = groups_of(measures, len(given), edits, at_once=at_once, collateral_edits=collateral_edits)
    place = None if folder is None else output_folder(Path(folder))
    store = Store(place, model, given, measures, conditions)
    todo = list(store.missing(groups))
    wanted = {unit.measure for _, units in todo for unit in units}
    readers = {
        index: measure.prepare(model, given, conditions)
        for index, measure in enumerate(measures)
        if index in wanted
    }
    with _bar(sum(len(units) for _, units in todo), shown=progress) as advance:

        def keep(group: Group, unit: Unit, done: Done) -> None:
            store.keep(group, unit, done)
            advance()

        for group, units in todo:
            _measure(model, group, units, measures, readers, keep)
    tables, failures = tables_of(measures, groups, store)
    return SuiteResult(
        tuple(given), MappingProxyType(tables), failures, tuple(measures), tuple(edits), origin
    )


def _measure(
    model: HookedModel,
    group: Group,
    units: Sequence[Unit],
    measures: Sequence[Measure],
    readers: Mapping[int, Reader],
    keep: Callable[[Group, Unit, Done], None],
) -> None:
    """Do the units of one group; an edit that cannot be written fails in all of them."""
    if group.edit is None:
        # Nothing can be said of an edit where the model itself gives no numbers: that is an error.
        for unit in units:
            keep(group, unit, Done(tuple(readers[unit.measure](None, unit.cases))))
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(group.edit.applied(model))
        except WorkError as error:
            for unit in units:
                lost = _about(measures[unit.measure], unit)
                keep(group, unit, Done((), tuple((one, str(error)) for one in lost)))
            return
        for unit in units:
            keep(group, unit, _read(readers[unit.measure], measures[unit.measure], group, unit))


def _read(reader: Reader, measure: Measure, group: Group, unit: Unit) -> Done:
    """The rows; where there are no finite numbers, case by case, so that the others are not lost with one."""
    try:
        return Done(tuple(reader(group.edit, unit.cases)))
    except NonFiniteError as error:
        about = _about(measure, unit)
        if len(about) < 2:
            return Done((), tuple((one, str(error)) for one in about))
    each = [_read(reader, measure, group, replace(unit, cases=(case,))) for case in unit.cases]
    rows = tuple(row for one in each for row in one.rows)
    return Done(rows, tuple(failure for one in each for failure in one.failures))


def _about(measure: Measure, unit: Unit) -> tuple[int | None, ...]:
    """The cases that a unit is about; one None where it is about the model as a whole."""
    return unit.cases if measure.about == "requests" else (None,)


def _checked(measures: Sequence[Measure]) -> list[Measure]:
    if isinstance(measures, str) or not isinstance(measures, Sequence) or not measures:
        raise InputError(
            f"measures: expected a list of at least one measure, got {measures!r:.60}; pass [it]."
        )
    for index, measure in enumerate(measures):
        lacks = [part for part in PARTS if not hasattr(measure, part)]
        if isinstance(measure, type) or lacks:
            raise InputError(
                f"measures[{index}]: expected a measure, such as RequestScores(), got {measure!r:.80}"
                + (f", which lacks {', '.join(lacks)}." if lacks else ": make one of the class.")
            )
        if measure.name in RESERVED or not NAME.fullmatch(measure.name):
            raise InputError(
                f"measures[{index}]: its name becomes that of a file; expected letters, digits, _ and -, and "
                f"none of {', '.join(RESERVED)}, got {measure.name!r}."
            )
    names = [measure.name for measure in measures]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"measures: two are named {twice[0]!r}; measure each once.")
    return list(measures)


def _named(edits: Mapping[str, Edits] | None) -> dict[str, Edits]:
    if edits is None:
        return {}
    if not isinstance(edits, Mapping):
        raise InputError(
            f'edits: expected edits by name, such as {{"rome": edit}}, got {type(edits).__name__}.'
        )
    for name in edits:
        if not isinstance(name, str) or not name.strip() or name == UNEDITED:
            raise InputError(f"edits: expected names other than {UNEDITED!r}, got {name!r}.")
    return dict(edits)


@contextmanager
def _bar(total: int, *, shown: bool) -> Iterator[Any]:
    """A function to call after each unit."""
    with Progress(console=Console(stderr=True), disable=not shown, transient=True) as progress:
        task = progress.add_task("evaluating", total=total)
        yield lambda: progress.advance(task)
