"""What a ledger stands on: entries, weights and files that change together or not at all."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from mechstyle.editing.application import EditHandle, active_edits, changed_by_hand, put_first
from mechstyle.editing.edit import EditSet, require_own_model
from mechstyle.editing.health import Health, HealthCheck, measure_health, read_canaries
from mechstyle.editing.ledger_batches import Editor, LedgerWarning
from mechstyle.editing.ledger_document import LedgerDocument
from mechstyle.editing.ledger_entries import LedgerEntry, with_shared_names, with_stale
from mechstyle.editing.ledger_files import LedgerFolder
from mechstyle.errors import FileError, InputError, ModelError, WorkError
from mechstyle.facts import EditRequest
from mechstyle.models import HookedModel, fingerprint, require_editable, require_hooked

__all__ = ["LedgerBooks"]


class _EntryHandle(EditHandle):
    """An edit whose place in the sum is its ledger's to say."""


_Seen = tuple[tuple[LedgerEntry, ...], tuple[EditHandle, ...], Sequence[str], tuple[LedgerEntry, ...]]
"""Entries, active edits and ids of those by hand, and the entries that know what was stale then."""


class LedgerBooks:
    """The entries of one model, in its weights and, where there is a folder, in files.

    Raises:
        ModelError: processed weights, or another ledger's edits are active in the model.
        InputError: ``health`` is no check, or the model knows none of its facts.
    """

    def __init__(self, model: HookedModel, health: HealthCheck | None) -> None:
        require_hooked(model)
        require_editable(model)
        if health is not None and not isinstance(health, HealthCheck):
            raise InputError(f"health: expected a HealthCheck or None, got {type(health).__name__}.")
        self.model = model
        self._fingerprint = fingerprint(model)
        self._health = health
        self._entries: tuple[LedgerEntry, ...] = ()
        self._handles: dict[int, _EntryHandle] = {}
        self._placed: tuple[_EntryHandle, ...] = ()
        self._seen: _Seen | None = None
        self._next = 1
        self._files: LedgerFolder | None = None
        self._untidy = True  # a process before this one may have been killed
        self._open = True
        self.require_usable()
        self._canaries = None if health is None else read_canaries(model, health)

    @property
    def entries(self) -> tuple[LedgerEntry, ...]:
        """All entries by number, with what is stale now."""
        here = active_edits(self.model)
        if self._seen is None or self._seen[0] is not self._entries or self._seen[1] is not here:
            by_hand = [handle.id for handle in here if not isinstance(handle, _EntryHandle)]
            known = () if self._seen is None or self._seen[2] != by_hand else self._seen[3]
            self._seen = (self._entries, here, by_hand, with_stale(self._entries, by_hand, known))
        return self._seen[3]

    def create(self, files: LedgerFolder) -> None:
        """Keep a ledger that is empty yet in files too."""
        self._files = files

    def read(self, files: LedgerFolder, document: LedgerDocument) -> None:
        """Take over what files hold, and switch on what is active there.

        Raises:
            FileError: an entry's file is missing, damaged or foreign.
            ModelError: an entry belongs to another model.
            WorkError: the weights overflow.
        """
        shared: dict[str, str] = {}
        entries = tuple(
            LedgerEntry(
                one.number,
                one.name,
                with_shared_names(files.load(one), shared),
                one.active,
                False,
                one.health,
                one.editor,
                one.named,
            )
            for one in document.records
        )
        for entry in entries:
            self._require_own(entry.edit)
        self._handles = {entry.number: self._handle(entry.edit) for entry in entries}
        with ExitStack() as on_failure:
            on_failure.callback(self.close)
            self._place(entries)
            self._entries, self._next, self._files = entries, document.next_number, files
            on_failure.pop_all()

    def add(self, edit: EditSet, name: str | None, editor: str | None) -> LedgerEntry:
        """Switch a new entry on."""
        self.require_usable()
        if not isinstance(edit, EditSet):
            raise InputError(f"edit: expected an EditSet, got {type(edit).__name__}.")
        if name is not None and not isinstance(name, str):
            raise InputError(f"name: expected text or None, got {type(name).__name__}.")
        # Weights that are not finite any more have another fingerprint.
        self._require_own(edit, fingerprint(self.model))
        entry = LedgerEntry(self._next, name, edit, True, False, Health({}), editor)
        self._handles[entry.number] = self._handle(edit)
        # The same edit once more takes the place of its refusal.
        kept = (one for one in self._entries if not _repeats(entry, one))
        self._change((*kept, entry), entry)
        return self.entries[-1]

    def solved(self, editor: Editor, batch: Sequence[EditRequest]) -> EditSet:
        """What an editor computes; edits that it left in the model, or took out, are as before again.

        Raises:
            WorkError: there were such edits.
        """
        before = active_edits(self.model)
        try:
            edit = editor(self.model, batch)
        finally:
            after = active_edits(self.model)
            if after != before:
                put_first(self.model, before, instead_of=after)
        if after != before:
            raise WorkError(
                "editor: expected one that leaves the model as it is, but other edits were active after it; "
                "they were put back. Let it return its edit without applying it."
            )
        return edit

    def switch(self, number: int, active: bool, *, force: bool = False) -> None:
        """Switch an entry on or off, in its place; a refused one needs a check, or force."""
        entry = self.entry(number)
        if active and not entry.active and entry.refused and self._health is None and not force:
            raise InputError(
                f"number: expected an entry that was let in, but {number} was refused, because "
                f"{'; '.join(entry.health.problems)}. Open the ledger with a HealthCheck to check it again, "
                "or pass force=True to switch it on without one."
            )
        if entry.active != active:
            changed = replace(entry, active=active)
            self._change(tuple(changed if one is entry else one for one in self._entries), changed)

    def remove(self, number: int) -> None:
        """Forget an entry."""
        gone = self.entry(number)
        self._change(tuple(one for one in self._entries if one is not gone))

    def close(self) -> None:
        """Take all entries out of the weights.

        Warns:
            LedgerWarning: weights that were changed by hand in between are overwritten.
        """
        lost = changed_by_hand(self.model) if self._open else ()
        put_first(self.model, [], instead_of=tuple(self._handles.values()))
        self._placed, self._open = (), False
        if lost:
            warnings.warn(
                f"ledger: the weights of {', '.join(lost)} were changed by hand while it was open; the "
                "original ones are back, and the changes are lost.",
                LedgerWarning,
                stacklevel=3,
            )

    def entry(self, number: int) -> LedgerEntry:
        """The entry of a number.

        Raises:
            InputError: there is none.
        """
        for entry in self._entries:
            if entry.number == number and not isinstance(number, bool):
                return entry
        known = ", ".join(str(entry.number) for entry in self._entries) or "none: the ledger is empty"
        raise InputError(f"number: expected that of an entry ({known}), got {number!r}.")

    def require_usable(self) -> None:
        """Make sure that the weights are as this ledger left them.

        Raises:
            WorkError: it is closed, or its edits were undone by hand.
            ModelError: another ledger's edits are active.
        """
        if not self._open:
            raise WorkError("ledger: it is closed; open it again with Ledger.open.")
        found = active_edits(self.model)
        if any(isinstance(handle, _EntryHandle) for handle in {*found}.difference(self._placed)):
            raise ModelError(
                "model: expected one without a ledger, but another ledger's edits are active in it; close "
                "that ledger first, or undo all: for handle in active_edits(model): handle.undo()."
            )
        if found[: len(self._placed)] != self._placed:
            raise WorkError(
                "ledger: its edits are not in the model's weights as it put them there; someone undid them "
                "by hand. Close the ledger and open it again."
            )

    def _require_own(self, edit: EditSet, found: str | None = None) -> None:
        """As ``require_own_model``, for a model that was found fit to be edited."""
        if edit.fingerprint != (found or self._fingerprint):
            require_own_model(edit, self.model)

    def _handle(self, edit: EditSet) -> _EntryHandle:
        return _EntryHandle(self.model, edit.edits, edit_id=edit.id)

    def _change(self, entries: tuple[LedgerEntry, ...], changed: LedgerEntry | None = None) -> None:
        """Set the entries, in the weights and in the files; on any failure all is as before.

        Args:
            changed: the one whose state is another; checked when it is active now.

        Raises:
            WorkError: weights that edits cover were changed by hand; they would be lost.
        """
        by_hand = changed_by_hand(self.model)
        if by_hand:
            raise WorkError(
                f"ledger: the weights of {', '.join(by_hand)} were changed by hand since the edits were "
                "written, and would be overwritten. Copy them if you need them, then close the ledger, which "
                "brings the original weights back, and open it again."
            )
        refused, before = None, self._entries
        with ExitStack() as on_failure:
            on_failure.callback(self._place, self._entries)
            self._place(entries)
            if changed is not None and changed.active:
                health = measure_health(self.model, self._health, self._canaries)
                failed = bool(health.problems)
                if self._health is None:  # what was found by a check stays until another one
                    health = replace(health, problems=changed.health.problems)
                checked = replace(changed, health=health)
                entries = tuple(checked if one is changed else one for one in entries)
                refused = checked if failed else None
            if refused is None:
                self._save(entries)
                on_failure.pop_all()
        if refused is not None:  # the weights are back
            off = replace(refused, active=False)
            reason = f"because {'; '.join(off.health.problems)}. The weights are as before."
            try:
                self._save(tuple(off if one is refused else one for one in entries))
            except FileError as error:
                raise WorkError(
                    f"edit: refused, {reason} It could not be kept as an entry either: {error}"
                ) from error
            raise WorkError(
                f"edit: refused as entry {off.number}, {reason} Write less at a time, choose other settings, "
                "or open the ledger with a wider HealthCheck."
            )
        if self._files is not None and (self._untidy or not {*_numbers(before)} <= {*_numbers(entries)}):
            self._files.tidy([entry.record for entry in self._entries])
            self._untidy = False

    def _place(self, entries: Sequence[LedgerEntry]) -> None:
        """Let the weights begin with the active entries, in order."""
        handles = tuple(self._handles[entry.number] for entry in entries if entry.active)
        put_first(self.model, handles, instead_of=tuple(self._handles.values()))
        self._placed = handles

    def _save(self, entries: tuple[LedgerEntry, ...]) -> None:
        """Write the files, then believe it."""
        next_number = max(self._next, *(entry.number + 1 for entry in entries), 1)
        known = {entry.number for entry in self._entries}
        if self._files is not None:
            with self._files.locked(), ExitStack() as on_failure:
                on_failure.callback(self._files.restore, self._files.text)
                for entry in entries:
                    if entry.number not in known:
                        on_failure.callback(self._files.drop_edit, entry.record)
                        self._files.save_edit(entry.record, entry.edit)
                records = tuple(entry.record for entry in entries)
                self._files.save(LedgerDocument(self._fingerprint, next_number, records))
                on_failure.pop_all()
        self._entries, self._next = entries, next_number
        self._handles = {entry.number: self._handles[entry.number] for entry in entries}


def _numbers(entries: Sequence[LedgerEntry]) -> list[int]:
    return [entry.number for entry in entries]


def _repeats(new: LedgerEntry, old: LedgerEntry) -> bool:
    """Whether an entry is one that was refused before."""
    same = old.edit.id == new.edit.id and old.requests == new.requests
    return same and old.refused and not old.active
