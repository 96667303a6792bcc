"""A ledger on disk: ``ledger.json`` and one file for each entry, each replaced as a whole."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from mechstyle.editing.edit import EditSet, load_edit
from mechstyle.editing.health import Health
from mechstyle.editing.ledger_lock import locked
from mechstyle.errors import FileError
from mechstyle.files import atomic_folder, atomic_write

__all__ = ["EntryRecord", "LedgerDocument", "LedgerFolder"]

_KIND: Final = "mechstyle ledger"
_FORMAT: Final = 1
_NAME: Final = "ledger.json"
_ENTRIES: Final = "entries"
_EDIT_FILE: Final = r"\d{4,}(-[0-9a-f]{12})?\.safetensors"
_OWN_FILE: Final = re.compile(rf"{_EDIT_FILE}|\.{_EDIT_FILE}\.[0-9a-f]{{12}}\.part")
"""Files in the folder of entries that a ledger made, those of a broken-off write included."""


@dataclass(frozen=True)
class EntryRecord:
    """What ``ledger.json`` says of one entry.

    Args:
        edit_id: ``EditSet.id``.
        editor: what ``Ledger.write`` called, in words; None for an edit that was given.
        named: the file's name, where it is not the usual one.
    """

    number: int
    edit_id: str
    active: bool
    name: str | None
    health: Health
    editor: str | None
    named: str | None = None

    @property
    def file(self) -> str:
        """Path of the entry's edit, relative to the folder; two edits never have the same."""
        return f"{_ENTRIES}/{self.named or f'{self.number:04d}-{self.edit_id[:12]}.safetensors'}"

    @cached_property
    def line(self) -> str:
        """The entry as JSON in one line."""
        return json.dumps(
            {
                "number": self.number,
                "file": self.file,
                "id": self.edit_id,
                "active": self.active,
                "name": self.name,
                "editor": self.editor,
                "health": self.health.to_dict(),
            },
            ensure_ascii=False,
            allow_nan=False,
        )


@dataclass(frozen=True)
class LedgerDocument:
    """All of ``ledger.json``.

    Args:
        fingerprint: of the unedited model.
        next_number: the next entry's.
    """

    fingerprint: str
    next_number: int
    records: tuple[EntryRecord, ...]

    def to_json(self) -> str:
        """The text of the file: a line for each entry."""
        head = {
            "kind": _KIND,
            "format": _FORMAT,
            "fingerprint": self.fingerprint,
            "next_number": self.next_number,
        }
        entries = ",\n".join(record.line for record in self.records)
        return f'{json.dumps(head)[:-1]}, "entries": [\n{entries}\n]}}\n'


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
            (part / _ENTRIES).mkdir()
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
        path = self._folder / _NAME
        try:
            data = json.loads(self._text)
        except json.JSONDecodeError as error:
            raise FileError(
                f"cannot read {path}: it is cut short or no JSON ({error}). Put a copy back, or load "
                f"the files in {self._folder / _ENTRIES} one by one with load_edit."
            ) from error
        if not isinstance(data, dict) or data.get("kind") != _KIND:
            raise FileError(f"cannot read {path}: expected a ledger of mechstyle, got other JSON.")
        if data.get("format") != _FORMAT:
            raise FileError(
                f"cannot read {path}: expected format {_FORMAT}, got {data.get('format')!r}; "
                "it was written by another version of mechstyle."
            )
        try:
            return _document(data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileError(f"cannot read {path}: its entries are incomplete ({error!r}).") from error

    def load(self, record: EntryRecord) -> EditSet:
        """Read the edit of an entry.

        Raises:
            FileError: its file is missing, damaged, or holds another edit than the ledger says.
        """
        path = self._folder / record.file
        edit = load_edit(path)
        if edit.id != record.edit_id:
            raise FileError(
                f"cannot use {path}: expected the edit {record.edit_id[:12]} of entry {record.number}, got "
                f"{edit.id[:12]}; the file was replaced. Put the entry's own file back."
            )
        return edit

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
        for path in (self._folder / _ENTRIES).iterdir():
            if _OWN_FILE.fullmatch(path.name) and f"{_ENTRIES}/{path.name}" not in listed:
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


def _file_name(path: object) -> str:
    """The name of an entry's file, which stands in the ledger's own folder."""
    folder, _, name = str(path).rpartition("/")
    if folder != _ENTRIES or not re.fullmatch(_EDIT_FILE, name):
        raise ValueError(f"file {path!r}")
    return name


def _document(data: dict[str, Any]) -> LedgerDocument:
    records = tuple(
        EntryRecord(
            number=int(one["number"]),
            edit_id=str(one["id"]),
            active=bool(one["active"]),
            name=None if one["name"] is None else str(one["name"]),
            health=Health.from_dict(one["health"]),
            editor=None if one["editor"] is None else str(one["editor"]),
            named=_file_name(one["file"]),
        )
        for one in data["entries"]
    )
    numbers = [record.number for record in records]
    if numbers != sorted(set(numbers)) or (
        numbers and not 1 <= numbers[0] <= numbers[-1] < data["next_number"]
    ):
        raise ValueError(f"numbers {numbers} before {data['next_number']}")
    return LedgerDocument(str(data["fingerprint"]), int(data["next_number"]), records)
