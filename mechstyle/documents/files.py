"""Paragraphs of text files, read piece by piece, so that a file may be larger than the memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mechstyle.errors import FileError

__all__ = ["LONGEST", "paragraphs", "text_files"]

LONGEST: Final = 1_000_000
"""Characters that are held at once: a longer paragraph comes in pieces."""


def text_files(path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """A file itself, or every ``*.txt`` in a folder and the folders below it, in the order of their names.

    Raises:
        FileError: there is nothing at ``path``, or no such file in the folder.

    Example:
        >>> text_files("novels")  # doctest: +SKIP
        (PosixPath('novels/emma.txt'), PosixPath('novels/melville/moby_dick.txt'))
    """
    place = Path(path)
    if place.is_dir():
        found = tuple(sorted((part for part in place.rglob("*.txt") if part.is_file()), key=Path.as_posix))
        if not found:
            raise FileError(f"cannot use the folder {place}: it holds no *.txt. Name one with text files.")
        return found
    if not place.exists():
        raise FileError(f"cannot read {place}: no such file or folder. Name a text file in UTF-8.")
    return (place,)


def paragraphs(path: Path) -> Iterator[str]:
    """The paragraphs of a UTF-8 file, in order; blank lines separate them.

    Raises:
        FileError: the file cannot be read or is not UTF-8.

    Example:
        >>> next(paragraphs(Path("novel.txt")))  # doctest: +SKIP
        'Call me Ishmael.'
    """
    try:
        with path.open(encoding="utf-8") as file:
            lines: list[str] = []
            size = 0
            for line in iter(lambda: file.readline(LONGEST), ""):
                if line.strip():
                    lines.append(line)
                    size += len(line)
                if lines and (size >= LONGEST or not line.strip()):
                    yield "".join(lines).strip()
                    lines, size = [], 0
            if lines:
                yield "".join(lines).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"cannot read {path}: {error}. Name a text file in UTF-8.") from error
