"""The pieces that an evaluation is made of: each is done whole, kept, and found again after a kill."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mechstyle import __version__
from mechstyle.cases import Case
from mechstyle.evaluation.edits import AnyEdit, Edits, is_one, listed_edits
from mechstyle.evaluation.measure import Conditions, Measure, Row
from mechstyle.files import atomic_write
from mechstyle.models import HookedModel, edited_weights, provenance
from mechstyle.plain_json import plain_json

__all__ = ["Done", "Group", "Store", "Unit", "groups_of"]

ROWS: Final = "rows"


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
    """What came of a unit: its rows, or why there are none."""

    rows: tuple[Row, ...]
    failure: str | None = None


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

    A name is the hash of the model with its active edits, of its number format, of the cases, the measure
    with its settings, the edit's content, what is asked and mechstyle's version: what another call has done
    in the same folder is taken where all of that agrees, and left alone where it does not.
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
            self._folder.mkdir(exist_ok=True)
        self._memory: dict[str, Done] = {}
        origin = provenance(model)
        common = [
            __version__,
            origin["fingerprint"],
            origin["dtype"],
            edited_weights(model),
            [case.to_dict() for case in cases],
            conditions.prepend_bos,
            conditions.seed,
        ]
        head = _digest(common)
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
            return Done(tuple(found["rows"]), found["failure"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, group: Group, unit: Unit, done: Done) -> None:
        """Keep what was done, whole or not at all.

        Raises:
            FileError: the file cannot be written.
        """
        name = self.name(group, unit)
        done = Done(
            tuple({key: plain_json(value) for key, value in row.items()} for row in done.rows), done.failure
        )
        if self._folder is None:
            self._memory[name] = done
            return
        with atomic_write(self._folder / f"{name}.json") as part:
            whole = {"rows": list(done.rows), "failure": done.failure}
            part.write_text(json.dumps(whole, ensure_ascii=False, allow_nan=False), encoding="utf-8")

    def missing(self, groups: Sequence[Group]) -> Iterator[tuple[Group, list[Unit]]]:
        """The groups that have units still to be done, with these."""
        for group in groups:
            units = [unit for unit in group.units if self.find(group, unit) is None]
            if units:
                yield group, units


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:32]
