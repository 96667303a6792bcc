"""A ledger on disk: ``ledger.json`` and one file for each entry, each replaced as a whole."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from mechstyle.editing.edit import EditSet, load_edit
from mechstyle.editing.ledger_document import EDIT_FILE, ENTRIES, EntryRecord, LedgerDocument
from mechstyle.editing.ledger_lock import locked
from mechstyle.errors import FileError, InputError
from mechstyle.files import atomic_folder, atomic_write

__all__ = ["LedgerFolder"]

_NAME: Final = "ledger.json"
_OWN_FILE: Final = re.compile(rf"{EDIT_FILE}|\.{EDIT_FILE}\.[0-9a-f]{{12}}\.part")
"""Files in the folder of entries that a ledger made, those of a broken-off write included."""


class LedgerFolder:
    """The files of one ledger; it notices when someone else has changed them."""

    def __init__(self, folder: Path, text: str) -> None:
        self._folder = folder
        self._text = text
        self._begun: str | None = None

    @classmethod
    def create(cls, folder: Path, fingerprint: str) -> LedgerFolder:
        """Make an empty ledger in a new or empty folder.

        Raises:
            FileError: the folder cannot be written.
        """
        text = LedgerDocument(fingerprint, 1, ()).to_json()
        with atomic_folder(folder) as part:
            (part / ENTRIES).mkdir()
            (part / _NAME).write_text(text, encoding="utf-8")
        return cls(folder, text)

    @classmethod
    def find(cls, folder: Path) -> LedgerFolder | None:
        """The ledger in a folder; None where there is no folder yet, or an empty one.

        Raises:
            FileError: it is a file, or holds something that is no ledger.
        """
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return None
        if not (folder / _NAME).is_file():
            raise FileError(
                f"folder: expected a ledger or a new folder, but {folder} holds no {_NAME}; name another."
            )
        return cls(folder, _text(folder / _NAME))

    def document(self) -> LedgerDocument:
        """What the ledger's file says.

        Raises:
            FileError: it is damaged, no ledger, or of another format.
        """
        return LedgerDocument.from_json(self._text, self._folder / _NAME)

    def load(self, record: EntryRecord) -> EditSet:
        """Read the edit of an entry.

        Raises:
            FileError: its file is missing, damaged, or holds another edit than the ledger says.
        """
        path = self._folder / record.file
        remedy = (
            f"Put the file of entry {record.number} back, or take the entry out: "
            f"Ledger.forget({str(self._folder)!r}, {record.number})."
        )
        try:
            edit = load_edit(path)
        except FileError as error:
            raise FileError(f"entry {record.number} of the ledger: {error} {remedy}") from error
        if edit.id != record.edit_id:
            raise FileError(
                f"cannot use {path}: expected the edit {record.edit_id[:12]} of entry {record.number}, got "
                f"{edit.id[:12]}; the file was replaced. {remedy}"
            )
        return edit

    def forget(self, number: int) -> None:
        """Take an entry out of the ledger's file, with its own file, which is not read.

        Raises:
            InputError: no entry has this number.
            FileError: the ledger is damaged, cannot be written, or another process has changed it.
        """
        document = self.document()
        kept = tuple(record for record in document.records if record.number != number)
        if len(kept) == len(document.records) or isinstance(number, bool):
            known = ", ".join(str(record.number) for record in kept) or "none: the ledger is empty"
            raise InputError(f"number: expected that of an entry ({known}), got {number!r}.")
        with self.locked():
            self.save(replace(document, records=kept))
        self.tidy(kept)

    def locked(self) -> AbstractContextManager[None]:
        """Hold the folder for the length of a block, so that what is looked at is what is written over.

        Raises:
            FileError: another process holds it.
        """
        return locked(self._folder)

    def save_edit(self, record: EntryRecord, edit: EditSet) -> None:
        """Write the file of a new entry.

        Raises:
            FileError: it cannot be written, or another process has changed the ledger.
        """
        self._require_unchanged()
        self._begun = record.file
        edit.save(self._folder / record.file)

    def drop_edit(self, record: EntryRecord) -> None:
        """Delete the file of an entry that did not come to be, where this process began to write it."""
        if self._begun == record.file:
            (self._folder / record.file).unlink(missing_ok=True)
            self._begun = None

    def save(self, document: LedgerDocument) -> None:
        """Replace the ledger's file.

        Raises:
            FileError: it cannot be written, or another process has changed it.
        """
        self._require_unchanged()
        self._write(document.to_json())

    @property
    def text(self) -> str:
        """The ledger's file, as this process knows it."""
        return self._text

    def restore(self, text: str) -> None:
        """Bring the ledger's file back after a failure, where it was replaced."""
        if self._text != text:
            self._write(text)

    def tidy(self, records: Sequence[EntryRecord]) -> None:
        """Delete files of entries that are no longer there; what cannot be deleted now is left for later.

        It takes the lock, so that nothing is deleted that another process is writing.
        """
        with suppress(FileError), self.locked():
            self._require_unchanged()
            self._tidy(records)

    def _tidy(self, records: Sequence[EntryRecord]) -> None:
        listed = {record.file for record in records}
        for path in (self._folder / ENTRIES).iterdir():
            if _OWN_FILE.fullmatch(path.name) and f"{ENTRIES}/{path.name}" not in listed:
                with suppress(OSError):
                    path.unlink()

    def _write(self, text: str) -> None:
        with atomic_write(self._folder / _NAME) as part:
            part.write_text(text, encoding="utf-8")
            self._text = text

    def _require_unchanged(self) -> None:
        if _text(self._folder / _NAME) != self._text:
            raise FileError(
                f"cannot write {self._folder / _NAME}: it was changed since this ledger was opened. "
                "Close the ledger and open it again."
            )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"cannot read {path}: {error}. Put the ledger's file back.") from error
