"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mechstyle.errors import FileError

__all__ = ["atomic_folder", "atomic_write"]


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place when the block succeeds.

    When the block fails, the temporary file is removed and an older file at ``path`` stays as it was.

    Raises:
        FileError: the folder is missing, or the file cannot be written there.

    Example:
        >>> with atomic_write("results.json") as part:  # doctest: +SKIP
        ...     part.write_text("{}")
    """
    target = Path(path)
    if target.is_dir():
        raise FileError(f"cannot write {target}: it is a folder. Name a file inside it.")
    part = _part(target)
    with _blame(target):
        part.touch(exist_ok=False)
    try:
        with _blame(target):
            yield part
            os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that takes its place when the block succeeds.

    When the block fails, the temporary folder is removed. A folder that already holds something is refused.

    Raises:
        FileError: ``path`` exists and is not an empty folder, or cannot be written.

    Example:
        >>> with atomic_folder("exported") as part:  # doctest: +SKIP
        ...     (part / "config.json").write_text("{}")
    """
    target = Path(path)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileError(f"cannot write the folder {target}: it exists and is not empty. Name a new folder.")
    part = _part(target)
    with _blame(target):
        part.mkdir()
    try:
        with _blame(target):
            yield part
            os.replace(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _part(target: Path) -> Path:
    """A free name beside the target, hidden from listings."""
    if not target.parent.is_dir():
        raise FileError(f"cannot write {target}: the folder {target.parent} does not exist. Create it first.")
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.part")


@contextmanager
def _blame(target: Path) -> Iterator[None]:
    """Turn what the system says into an error that names the target."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(f"cannot write {target}: {reason}. Choose a place that can be written to.") from error
