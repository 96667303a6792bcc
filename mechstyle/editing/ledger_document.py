"""What ``ledger.json`` says: the model, and a line for each entry."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from mechstyle.editing.health import Health
from mechstyle.errors import FileError

__all__ = ["EDIT_FILE", "ENTRIES", "EntryRecord", "LedgerDocument"]

_KIND: Final = "mechstyle ledger"
_FORMAT: Final = 1
ENTRIES: Final = "entries"
"""Folder of the entries' files, in that of the ledger."""
EDIT_FILE: Final = r"\d{4,}(-[0-9a-f]{12})?\.safetensors"
"""Pattern of the name of an entry's file."""


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
        return f"{ENTRIES}/{self.named or f'{self.number:04d}-{self.edit_id[:12]}.safetensors'}"

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

    @classmethod
    def from_json(cls, text: str, path: Path) -> LedgerDocument:
        """Read the text of the file.

        Args:
            path: of the file, for messages.

        Raises:
            FileError: it is damaged, no ledger, or of another format.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise FileError(
                f"cannot read {path}: it is cut short or no JSON ({error}). Put a copy back, or load "
                f"the files in {path.parent / ENTRIES} one by one with load_edit."
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


def _file_name(path: object) -> str:
    """The name of an entry's file, which stands in the ledger's own folder."""
    folder, _, name = str(path).rpartition("/")
    if folder != ENTRIES or not re.fullmatch(EDIT_FILE, name):
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
