"""The pieces that an evaluation is made of: each is done whole, kept, and found again after a kill."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from mechstyle import __version__
from mechstyle.blocks import can_resume, has_hooks
from mechstyle.cases import Case
from mechstyle.errors import InputError
from mechstyle.evaluation.edits import AnyEdit, Edits, is_one, listed_edits
from mechstyle.evaluation.measure import Conditions, Measure, Row
from mechstyle.files import atomic_write
from mechstyle.models import HookedModel, provenance
from mechstyle.plain_json import plain_json

__all__ = ["Done", "Group", "Store", "Unit", "groups_of", "require_no_hooks", "state_of"]

ROWS: Final = "rows"
PLAIN: Final = (bool, int, float, str, list, tuple, dict, np.generic)


@dataclass(frozen=True)
class Unit:
    """One measurement under one edit.

    Args:
        measure: index of the measure.
        cases: indices of the cases that are asked about together; all, when it is about the model as a whole.
    """

    measure: int
    cases: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """The units that are done under one edit.

    Args:
        name: of the edit, or of the editor whose edits these are; None before any.
        edit: to be active; None before any.
        request: whose own edit it is; None when it is for all.
    """

    name: str | None
    edit: AnyEdit | None
    request: int | None
    units: tuple[Unit, ...]


@dataclass(frozen=True)
class Done:
    """What came of a unit.

    Args:
        failures: pairs (case, reason) of what gave no finite numbers; the case is None where the unit is
            about the model as a whole.
    """

    rows: tuple[Row, ...]
    failures: tuple[tuple[int | None, str], ...] = ()


def groups_of(
    measures: Sequence[Measure],
    n_cases: int,
    edits: Mapping[str, Edits],
    *,
    at_once: int,
    collateral_edits: int | None,
) -> list[Group]:
    """Everything that is to be measured, in order: the model as it came, then edit by edit.

    Args:
        at_once: cases that are asked about together where one model serves them all.
        collateral_edits: of a request's own edits, so many of the first ones are measured on everything else.

    >>> [len(group.units) for group in groups_of([RequestScores()], 5, {}, at_once=2, collateral_edits=None)]
    [3]
    """
    chunks = [tuple(range(start, min(start + at_once, n_cases))) for start in range(0, n_cases, at_once)]
    everything = tuple(range(n_cases))
    asked = [index for index, measure in enumerate(measures) if measure.about == "requests"]
    whole = [index for index, measure in enumerate(measures) if measure.about == "model"]
    for_all = (
        *(Unit(index, chunk) for index in asked for chunk in chunks),
        *(Unit(index, everything) for index in whole),
    )
    groups = [Group(None, None, None, for_all)]
    for name, given in edits.items():
        listed = listed_edits(given, n_cases)
        if is_one(given):
            groups.append(Group(name, listed[0], None, for_all))
            continue
        for request, edit in enumerate(listed):
            also = whole if collateral_edits is None or request < collateral_edits else []
            units = (
                *(Unit(index, (request,)) for index in asked),
                *(Unit(index, everything) for index in also),
            )
            groups.append(Group(name, edit, request, units))
    return groups


class Store:
    """Keeps what was done, in memory or in a folder, under names that say everything it depends on.

    A name is the hash of ``state_of`` the model, of the measure with its settings, the edit's content and
    what is asked: what another call has done in the same folder is taken where all of that agrees, and left
    alone where it does not.

    Raises:
        InputError: there is a folder, and the model carries hooks, whose effect no name can tell.
    """

    def __init__(
        self,
        folder: Path | None,
        model: HookedModel,
        cases: Sequence[Case],
        measures: Sequence[Measure],
        conditions: Conditions,
    ) -> None:
        self._folder = None if folder is None else folder / ROWS
        if self._folder is not None:
            require_no_hooks(model)
            self._folder.mkdir(exist_ok=True)
        self._memory: dict[str, Done] = {}
        # In memory nothing outlives the call, and the model stays what it is.
        head = "" if folder is None else state_of(model, cases, conditions)
        self._measures = list(measures)
        self._heads = [_digest([head, measure.name, measure.settings()]) for measure in measures]

    def name(self, group: Group, unit: Unit) -> str:
        """The unit's name."""
        edit = None if group.edit is None else group.edit.id
        return _digest([self._heads[unit.measure], edit, list(unit.cases)])

    def find(self, group: Group, unit: Unit) -> Done | None:
        """What was done before; None where it was not, or its file is damaged."""
        name = self.name(group, unit)
        if self._folder is None:
            return self._memory.get(name)
        try:
            found = json.loads((self._folder / f"{name}.json").read_text(encoding="utf-8"))
            return Done(tuple(found["rows"]), tuple((case, reason) for case, reason in found["failures"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, group: Group, unit: Unit, done: Done) -> None:
        """Keep what was done, whole or not at all.

        Raises:
            InputError: a row says what JSON cannot, or not what was asked.
            FileError: the file cannot be written.
        """
        _require_rows(self._measures[unit.measure], done.rows)
        name = self.name(group, unit)
        done = Done(tuple(plain_json(row) for row in done.rows), done.failures)
        if self._folder is None:
            self._memory[name] = done
            return
        with atomic_write(self._folder / f"{name}.json") as part:
            whole = {"rows": list(done.rows), "failures": [list(one) for one in done.failures]}
            part.write_text(json.dumps(whole, ensure_ascii=False, allow_nan=False), encoding="utf-8")

    def missing(self, groups: Sequence[Group]) -> Iterator[tuple[Group, list[Unit]]]:
        """The groups that have units still to be done, with these."""
        for group in groups:
            units = [unit for unit in group.units if self.find(group, unit) is None]
            if units:
                yield group, units


def _require_rows(measure: Measure, rows: Sequence[Row]) -> None:
    """Refuse rows that no table could be made of, at the first of them and not after hours."""
    wanted = ["item", "request"] if measure.about == "requests" else ["item"]
    for row in rows:
        lacks = [key for key in wanted if key not in row]
        if lacks:
            raise InputError(
                f"{measure.name}: its rows lack {', '.join(lacks)}; every row says what was asked (item), "
                "and of which case (request) where it is about one."
            )
        for key, value in row.items():
            if value is not None and not isinstance(value, PLAIN):
                raise InputError(
                    f"{measure.name}: expected a plain value in the column {key!r}, got "
                    f"{type(value).__name__}; give numbers and texts."
                )


def state_of(model: HookedModel, cases: Sequence[Case], conditions: Conditions) -> str:
    """A hash of everything that any measurement depends on, beside its own settings and the edit.

    The weights go in bit for bit: the model's fingerprint rounds them, so that a cast keeps it.

    >>> state_of(model, cases, conditions)  # doctest: +SKIP
    '1b4f0e9851971998e732078544c96b36'
    """
    origin = provenance(model)
    weights = hashlib.sha256()
    for name, weight in model.named_parameters():
        weights.update(f"{name} {weight.dtype} {list(weight.shape)}".encode())
        weights.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    whole = [
        __version__,
        origin["fingerprint"],
        weights.hexdigest(),
        [case.to_dict() for case in cases],
        conditions.prepend_bos,
        conditions.seed,
    ]
    return _digest(whole)


def require_no_hooks(model: HookedModel) -> None:
    """Refuse to keep the rows of a model that carries hooks; a bridge always carries some of its own.

    Raises:
        InputError: it does.

    >>> require_no_hooks(model)  # doctest: +SKIP
    """
    if can_resume(model) and has_hooks(model):
        raise InputError(
            "folder: the model carries hooks, and what it gives under them cannot be told from what it gives "
            "without; take them off (model.reset_hooks(including_permanent=True)), or leave the folder out."
        )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:32]
