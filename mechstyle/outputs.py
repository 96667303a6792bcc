"""Say no before the work, not after it: whether results could be written where they are wanted."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from mechstyle.errors import FileError
from mechstyle.files import atomic_write

__all__ = ["output_folder", "require_outside_ledgers", "require_writable"]

_LEDGER_FILE: Final = "ledger.json"
_LEDGER_KIND: Final = "mechstyle ledger"


class _EnoughError(Exception):
    """Raised to leave a trial write before it replaces anything."""


def require_writable(path: str | os.PathLike[str]) -> Path:
    """Make sure that a file could be written there; one that exists stays as it is.

    Raises:
        FileError: the folder is missing or a ledger's, or the file cannot be written.

    Example:
        >>> require_writable("edit.safetensors")
        PosixPath('edit.safetensors')
    """
    require_outside_ledgers(path)
    with suppress(_EnoughError), atomic_write(path):
        raise _EnoughError
    return Path(path)


def require_outside_ledgers(path: str | os.PathLike[str]) -> None:
    """Refuse a place in the folder of a ledger, whose files are its own.

    Raises:
        FileError: the place is the folder of a ledger, or in one.

    Example:
        >>> require_outside_ledgers("edit.safetensors")
    """
    place = Path(path).resolve()
    for folder in (place, *place.parents):
        if _is_ledger(folder):
            raise FileError(
                f"cannot write {path}: {folder} is the folder of a ledger, whose files are its own. Name a "
                "place outside of it."
            )


def output_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder for results, or use the one that is there, and make sure that it can be written to.

    Raises:
        FileError: it is a file, in the folder of a ledger, or cannot be made or written to.

    Example:
        >>> output_folder("study-1")  # doctest: +SKIP
        PosixPath('study-1')
    """
    folder = Path(path)
    require_outside_ledgers(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"cannot make the folder {folder}: {error.strerror or error}. Name one that you may write to."
        ) from error
    require_writable(folder / "results.json")
    return folder


def _is_ledger(folder: Path) -> bool:
    """Whether a folder holds a ledger; a damaged one counts as long as its first words are there."""
    try:
        with (folder / _LEDGER_FILE).open(encoding="utf-8") as file:
            return f'"kind": {json.dumps(_LEDGER_KIND)}' in file.read(200)
    except (OSError, UnicodeDecodeError):
        return False
