"""Request by request: edit, measure, keep the rows; a killed run goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeVar

import pandas as pd
from rich.console import Console
from rich.progress import track

from mechstyle.cases import Case
from mechstyle.editing.ledger import Ledger
from mechstyle.errors import NonFiniteError, WorkError
from mechstyle.evaluation.edits import AnyEdit
from mechstyle.evaluation.measure import Conditions, Measure, Reader, Row
from mechstyle.evaluation.units import state_of
from mechstyle.files import atomic_write
from mechstyle.models import HookedModel
from mechstyle.study.reproduce.editors import Editing, Plan

__all__ = ["Failures", "Loop"]

CHUNK: Final = 16
"""Requests that are measured at a time where one model serves them all."""
Failures = dict[int, str]
"""Index of a request -> why there are no numbers of it."""
Item = TypeVar("Item")


@dataclass(frozen=True)
class Loop:
    """All requests of a manifest, measured under their edits.

    Args:
        cases: in order; the place of a case is its number in the rows and files.
        plan: how edits are made; None measures the model as it is.
        folder: where one file a request is kept, of a model without hooks: no key tells what they do. None
            keeps nothing.
    """

    model: HookedModel
    cases: Sequence[Case]
    measures: Sequence[Measure]
    plan: Plan | None
    prepend_bos: bool
    seed: int
    folder: Path | None
    progress: bool

    def run(self) -> tuple[dict[str, pd.DataFrame], Failures]:
        """The rows of each measure under the edits, and the requests that failed."""
        found = {index: kept for index in range(len(self.cases)) if (kept := self._kept(index)) is not None}
        missing = [index for index in range(len(self.cases)) if index not in found]
        if missing:
            readers = self._readers()
            done = self._each_alone if self.plan is None or self.plan.part.applied == "alone" else self._all
            for index, result in done(missing, readers):
                self._keep(index, result)
                found[index] = result
        whole = [found[index] for index in range(len(self.cases))]
        tables = {
            measure.name: pd.DataFrame([row for one in whole for row in one["tables"].get(measure.name, ())])
            for measure in self.measures
        }
        return tables, {index: one["failed"] for index, one in enumerate(whole) if one["failed"]}

    def _readers(self) -> dict[str, Reader]:
        conditions = Conditions(self.prepend_bos, seed=self.seed)
        return {one.name: one.prepare(self.model, self.cases, conditions) for one in self.measures}

    def _each_alone(
        self, missing: Sequence[int], readers: dict[str, Reader]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each request under its own edit, or under none."""
        editing = None if self.plan is None else Editing(self.plan, self.model)
        for index in self._shown(missing, "requests"):
            try:
                if editing is None:
                    tables = _read(readers, None, [index])
                else:
                    edit = editing([self.cases[index].request])
                    with edit.applied(self.model):
                        tables = _read(readers, edit, [index])
            except (WorkError, NonFiniteError) as error:
                yield index, {"tables": {}, "failed": str(error)}
            else:
                yield index, {"tables": tables, "failed": None}

    def _all(
        self, missing: Sequence[int], readers: dict[str, Reader]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """All requests written into one model through a ledger, which goes on after a kill; then measured."""
        assert self.plan is not None
        editing = Editing(self.plan, self.model)
        size = 1 if self.plan.part.applied == "in turn" else None
        place = None if self.folder is None else self.folder / f"ledger-{self._key[:12]}"
        with Ledger(self.model) if place is None else Ledger.open(self.model, place) as ledger:
            requests = [case.request for case in self.cases]
            ledger.write(
                editing.editor, requests, batch_size=size, progress=self.progress, editor_name=self._key
            )
            chunks = [missing[start : start + CHUNK] for start in range(0, len(missing), CHUNK)]
            for chunk in self._shown(chunks, "requests"):
                yield from self._together(readers, chunk)

    def _together(
        self, readers: dict[str, Reader], chunk: Sequence[int]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Several requests of one model; where there are no finite numbers, one after the other."""
        try:
            tables = _read(readers, None, chunk)
        except NonFiniteError as error:
            if len(chunk) == 1:
                yield chunk[0], {"tables": {}, "failed": str(error)}
            else:
                for index in chunk:
                    yield from self._together(readers, [index])
            return
        for index in chunk:
            own = {name: [row for row in rows if row["request"] == index] for name, rows in tables.items()}
            yield index, {"tables": own, "failed": None}

    @cached_property
    def _key(self) -> str:
        """What a request's rows depend on.

        All requests are in it: the words of their references are weighed together, and edits of one model
        hang together.
        """
        conditions = Conditions(self.prepend_bos, seed=self.seed)
        whole = {
            "state": state_of(self.model, self.cases, conditions),
            "editing": None if self.plan is None else self.plan.settings(),
            "measures": {measure.name: measure.settings() for measure in self.measures},
        }
        return sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def _file(self, index: int) -> Path | None:
        return None if self.folder is None else self.folder / "requests" / f"{index:06d}.json"

    def _kept(self, index: int) -> dict[str, Any] | None:
        """What an earlier run left; None where it left nothing, or was about something else."""
        path = self._file(index)
        if path is None or not path.is_file():
            return None
        with suppress(OSError, ValueError, TypeError, KeyError):
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["key"] == self._key and kept["case"] == _plain(self.cases[index]):
                return {"tables": kept["tables"], "failed": kept["failed"]}
        return None

    def _keep(self, index: int, result: dict[str, Any]) -> None:
        path = self._file(index)
        if path is not None:
            path.parent.mkdir(exist_ok=True)
            whole = {"key": self._key, "case": _plain(self.cases[index]), **result}
            with atomic_write(path) as part:
                part.write_text(json.dumps(whole, ensure_ascii=False), encoding="utf-8")

    def _shown(self, items: Sequence[Item], name: str) -> Iterable[Item]:
        return track(items, name, console=Console(stderr=True), disable=not self.progress, transient=True)


def _read(readers: dict[str, Reader], edit: AnyEdit | None, indices: Sequence[int]) -> dict[str, list[Row]]:
    return {name: reader(edit, indices) for name, reader in readers.items()}


def _plain(case: Case) -> Any:
    """A case as it looks when it comes back from JSON."""
    return json.loads(json.dumps(case.to_dict()))
