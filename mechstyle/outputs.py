"""Say no before the work, not after it: whether results could be written where they are wanted."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from mechstyle.errors import FileError
from mechstyle.files import atomic_write

__all__ = ["output_folder", "require_writable"]


class _EnoughError(Exception):
    """Raised to leave a trial write before it replaces anything."""


def require_writable(path: str | os.PathLike[str]) -> Path:
    """Make sure that a file could be written there; one that exists stays as it is.

    Raises:
        FileError: the folder is missing, or the file cannot be written.

    Example:
        >>> require_writable("edit.safetensors")
        PosixPath('edit.safetensors')
    """
    with suppress(_EnoughError), atomic_write(path):
        raise _EnoughError
    return Path(path)


def output_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder for results, or use the one that is there, and make sure that it can be written to.

    Raises:
        FileError: it is a file, or cannot be made or written to.

    Example:
        >>> output_folder("study-1")  # doctest: +SKIP
        PosixPath('study-1')
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"cannot make the folder {folder}: {error.strerror or error}. Name one that you may write to."
        ) from error
    require_writable(folder / "results.json")
    return folder
