"""The ledger: every edit in a model's weights, in order, each of which can be switched off and on again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import pandas as pd
from rich.console import Console
from rich.progress import track

from mechstyle.answers import require_positive
from mechstyle.editing.edit import EditSet
from mechstyle.editing.health import HealthCheck
from mechstyle.editing.interactions import interactions
from mechstyle.editing.ledger_batches import Editor, Held, batches, planned
from mechstyle.editing.ledger_books import LedgerBooks
from mechstyle.editing.ledger_entries import LedgerEntry, as_frame, merged_settings
from mechstyle.editing.ledger_files import LedgerFolder
from mechstyle.errors import FileError, InputError, ModelError
from mechstyle.facts import EditRequest
from mechstyle.models import HookedModel, export_hf, fingerprint, provenance

__all__ = ["Editor", "Ledger", "LedgerEntry"]


class Ledger:
    """The edits of one model: weights = original + active entries in the order of their numbers.

    The sum is taken in fp64 and rounded once, so whatever came and went, the weights are bit for bit those of
    a new ledger with the same active entries. Edits that are applied by hand stand after all entries. The
    unit is one solve: an entry that was computed on top of another is ``stale`` while that one is not active.

    Every change happens as a whole or not at all, in the weights and in the files.

    Args:
        health: what is looked at whenever an entry is switched on; a model that fails gets its old weights
            back, and the entry is kept, inactive, as refused. None measures the size of the changes only.

    Raises:
        ModelError: processed weights, or another ledger's edits are active in the model.

    >>> with Ledger(model) as ledger:  # doctest: +SKIP
    ...     ledger.add(rome(model, request, layer=4, covariance=covariance)).number
    1
    """

    def __init__(self, model: HookedModel, *, health: HealthCheck | None = None) -> None:
        self._books = LedgerBooks(model, health)

    @classmethod
    def open(
        cls, model: HookedModel, folder: str | os.PathLike[str], *, health: HealthCheck | None = None
    ) -> Self:
        """Open a ledger on disk and switch its active entries on; a new or empty folder becomes an empty one.

        The active entries were checked when they came in and are not checked again.

        Raises:
            FileError: the folder holds something else, a file is missing, damaged or foreign, or the folder
                cannot be written.
            ModelError: the ledger belongs to another model, or as ``Ledger``.

        >>> ledger = Ledger.open(model, "edits")  # doctest: +SKIP
        """
        ledger = cls(model, health=health)
        own = fingerprint(model)
        files = LedgerFolder.find(Path(folder))
        if files is None:
            ledger._books.create(LedgerFolder.create(Path(folder), own))
            return ledger
        document = files.document()
        if document.fingerprint != own:
            raise ModelError(
                f"model: expected the one of the ledger in {folder} "
                f"(fingerprint {document.fingerprint[:12]}), got another ({own[:12]}); load that model, or "
                "name a new folder."
            )
        ledger._books.read(files, document)
        return ledger

    @staticmethod
    def forget(folder: str | os.PathLike[str], number: int) -> None:
        """Take an entry out of a ledger on disk without a model, where its file cannot be read any more.

        Entries that were computed on top of it are stale from then on. No ledger should be open there.

        Raises:
            InputError: no entry has this number.
            FileError: there is no ledger, it is damaged, or it cannot be written.

        >>> Ledger.forget("edits", 3)  # doctest: +SKIP
        """
        files = LedgerFolder.find(Path(folder))
        if files is None:
            raise FileError(f"folder: expected a ledger, but {folder} is empty or absent; check the path.")
        files.forget(number)

    @property
    def entries(self) -> tuple[LedgerEntry, ...]:
        """All entries by number, refused ones included."""
        return self._books.entries

    def add(self, edit: EditSet, *, name: str | None = None) -> LedgerEntry:
        """Apply an edit as the next entry.

        Raises:
            ModelError: the edit belongs to another model.
            WorkError: the health check failed, the weights overflow or were changed by hand, or the ledger is
                closed. The weights are as before; after a failed check the entry is kept as refused.
            FileError: the files cannot be written, or were changed by someone else.

        >>> ledger.add(edit, name="trumpet to guitar").active  # doctest: +SKIP
        True
        """
        return self._books.add(edit, name, None)

    def write(
        self,
        editor: Editor,
        requests: Sequence[EditRequest],
        *,
        batch_size: int | None = None,
        progress: bool = False,
        editor_name: str | None = None,
    ) -> tuple[LedgerEntry, ...]:
        """Solve for ``batch_size`` requests at a time, each solve on top of all before, each one entry.

        A call that was broken off goes on: a batch that an entry holds already is not written again, where
        the same editor wrote it. So the same call a second time does nothing; a second pass takes ``add``,
        whose entries do not count here.

        Args:
            editor: called with the model and a batch, such as ``partial(memit, layers=[0], ...)``.
            batch_size: None solves for all requests at once.
            progress: show a progress bar on stderr.
            editor_name: what the editor is told apart by; None takes its name and its arguments.

        Returns:
            the entries of this call, those that were there already included.

        Raises:
            InputError: no requests, an active entry holds some of them from another editor, or from one that
                cannot be told apart, or the editor gave an edit of other requests.
            WorkError: as ``add``, or the editor left edits in the model, which are taken out. The entries
                before stay, and the same call goes on there.

        Warns:
            LedgerWarning: entries that hold some of the requests are switched off.

        >>> ledger.write(partial(memit, layers=[0], covariance=c), requests, batch_size=10)  # doctest: +SKIP
        """
        self._books.require_usable()
        if not callable(editor):
            raise InputError(f"editor: expected a function such as partial(memit, ...), got {editor!r}.")
        wanted = list(requests)
        if not wanted or not all(isinstance(one, EditRequest) for one in wanted):
            raise InputError("requests: expected a list of one EditRequest or more.")
        if batch_size is not None:
            require_positive("batch_size", batch_size)
        parts = batches(wanted, batch_size)
        there = [
            Held(one.number, one.requests, one.editor, one.active)
            for one in self.entries
            if one.editor is not None and (one.active or not one.refused)
        ]
        words, done = planned(parts, there, editor, editor_name)
        numbers = [number for number in done if number is not None]
        todo = [batch for batch, number in zip(parts, done, strict=True) if number is None]
        console = Console(stderr=True)
        for batch in track(todo, "editing", console=console, disable=not progress, transient=True):
            edit = _asked_for(self._books.solved(editor, batch), batch)
            numbers.append(self._books.add(edit, None, words).number)
        return tuple(entry for entry in self.entries if entry.number in numbers)

    def toggle(self, number: int, active: bool | None = None, *, force: bool = False) -> LedgerEntry:
        """Switch an entry off, or on again in its old place.

        Args:
            active: None switches to the other state.
            force: let a refused entry in, which goes on to say why it was refused, in a ledger without a
                health check; with one, it is checked again.

        Raises:
            InputError: no entry has this number, or it was refused and nothing is to check it now.
            WorkError, FileError: as ``add``.

        >>> ledger.toggle(1, active=False).active  # doctest: +SKIP
        False
        """
        self._books.require_usable()
        wanted = not self._books.entry(number).active if active is None else active
        if not isinstance(wanted, bool):
            raise InputError(f"active: expected True, False or None, got {active!r}.")
        self._books.switch(number, wanted, force=force)
        return self._one(number)

    def remove(self, number: int) -> LedgerEntry:
        """Take an entry out of the weights and of the ledger, with its file; its number is not used again.

        Raises:
            InputError: no entry has this number.
            WorkError, FileError: as ``add``.

        >>> ledger.remove(1).number  # doctest: +SKIP
        1
        """
        self._books.require_usable()
        self._books.entry(number)
        gone = self._one(number)
        self._books.remove(number)
        return replace(gone, active=False)

    def undo(self) -> LedgerEntry:
        """Remove the active entry with the highest number.

        Raises:
            InputError: no entry is active.
            WorkError, FileError: as ``add``.
        """
        active = [entry.number for entry in self.entries if entry.active]
        if not active:
            raise InputError(
                "ledger: expected an active entry to undo, but none is active; remove(number) takes out one "
                "that is switched off or refused."
            )
        return self.remove(active[-1])

    def frame(self) -> pd.DataFrame:
        """A row for each entry: what it is, whether it is in the weights, and the model's health with it."""
        return as_frame(self.entries)

    def interactions(self) -> pd.DataFrame:
        """How the active entries meet: cosines, norms and who breaks whom (see ``editing.interactions``)."""
        active = self._active()
        return interactions([entry.edit.edits for entry in active], [entry.number for entry in active])

    def merged(self) -> EditSet:
        """The active entries as one edit, which writes the same bits.

        Raises:
            InputError: no entry is active.
        """
        active = self._active()
        if not active:
            raise InputError("ledger: expected an active entry to merge, but none is active.")
        settings = {"method": "merged", "on_top_of": [], **merged_settings([one.edit for one in active])}
        return EditSet(
            edits=tuple(edit for entry in active for edit in entry.edit.edits),
            fingerprint=active[0].edit.fingerprint,
            provenance=provenance(self._books.model, **settings),
            requests=tuple(request for entry in active for request in entry.requests),
        )

    def export(self, folder: str | os.PathLike[str]) -> Path:
        """Write the model as it is now as a Hugging Face folder (see ``export_hf``).

        Raises:
            WorkError: the ledger is closed, or its edits were undone by hand.
        """
        self._books.require_usable()
        return export_hf(self._books.model, folder)  # type: ignore[arg-type]  # it refuses others in words

    def close(self) -> None:
        """Take all entries out of the weights, bit for bit; files stay as they are. Once is enough."""
        self._books.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _active(self) -> list[LedgerEntry]:
        return [entry for entry in self.entries if entry.active]

    def _one(self, number: int) -> LedgerEntry:
        return next(entry for entry in self.entries if entry.number == number)


def _asked_for(edit: EditSet, batch: tuple[EditRequest, ...]) -> EditSet:
    """The edit of a batch, with its requests."""
    if not isinstance(edit, EditSet):
        raise InputError(f"editor: expected one that returns an EditSet, got {type(edit).__name__}.")
    if edit.requests and edit.requests != batch:
        raise InputError(
            f"editor: expected an edit of the {len(batch)} requests it was given, got one of "
            f"{len(edit.requests)} others."
        )
    return replace(edit, requests=batch)
