"""Records of a text file, each with its place: a JSON list, JSON lines or a table with a header."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mechstyle.errors import FileError, TextError
from mechstyle.files import atomic_write

__all__ = [
    "PathLike",
    "Record",
    "convert_records",
    "json_lines",
    "json_list",
    "parse",
    "read_text",
    "recognise",
    "write_json_lines",
]

T = TypeVar("T")
PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Record:
    """One record of a file.

    Args:
        place: where it stands, as in "line 3".
        data: what stands there, of any JSON type.
    """

    place: str
    data: object


def recognise(path: PathLike, *, columns: Iterable[str]) -> list[Record]:
    """The records of a file, whose form is told by its content and not by its name.

    A JSON list, one JSON object, JSON lines, or a table whose first line names its columns, separated by
    commas, semicolons or tabs.

    Args:
        columns: by which a table is recognised: its first line has all of them. Without any, no table is.

    Raises:
        FileError: the file is missing, is not UTF-8, holds no records or has none of these forms.

    Example:
        >>> recognise("pairs.csv", columns=["template"])[0].place  # doctest: +SKIP
        'line 2'
    """
    text = read_text(path)
    start = text.lstrip()[:1]
    if start == "[":
        found = json_list(path, text)
    elif start == "{":
        found = json_lines(path, text)
    else:
        found = _table(path, text, set(columns)) if start else []
    if not found:
        raise FileError(f"{path} holds no records.")
    return found


def json_list(path: PathLike, text: str) -> list[Record]:
    """The records of a JSON list.

    Raises:
        FileError: the text is no JSON list.
    """
    data = parse(text, path)
    if not isinstance(data, list):
        raise FileError(f"{path} must hold a JSON list of records, not {type(data).__name__}.")
    return [Record(f"record {index}", one) for index, one in enumerate(data)]


def json_lines(path: PathLike, text: str) -> list[Record]:
    """One record a line; blank lines are skipped. Or objects over several lines, one after the other.

    Raises:
        FileError: a line is not JSON.
    """
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if len(lines) > 1 and not _is_json(lines[0][1]):
        try:
            return [Record(f"record {index}", one) for index, one in enumerate(_objects(path, text))]
        except FileError:
            # Another object below a first line that is none: one a line was meant.
            if not lines[1][1].lstrip().startswith("{"):
                raise
    return [Record(f"line {number}", parse(line, path, number)) for number, line in lines]


def convert_records(
    path: PathLike, records: Iterable[Record], convert: Callable[[Mapping[str, Any]], T]
) -> list[T]:
    """Convert every record; errors name the file and the place.

    Raises:
        FileError: a record is no object, lacks a part, or a part is wrong.
    """
    return [_convert(record, convert, path) for record in records]


def read_text(path: PathLike) -> str:
    """The content of a UTF-8 file, without the byte order mark that some programs write.

    Raises:
        FileError: the file cannot be read or is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8").removeprefix("\ufeff")
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}. Check the path.") from error
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is not UTF-8 text (byte {error.start}).") from error


def parse(text: str, path: PathLike, line: int | None = None) -> Any:
    """Parse JSON; the line is named in the error.

    Raises:
        FileError: the text is not JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        place = "" if line is None else f", line {line}"
        raise FileError(f"{path}{place} is not JSON: {error}. Is it truncated?") from error


def write_json_lines(path: PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line (UTF-8); the file appears whole or not at all.

    Raises:
        FileError: the file cannot be written.
    """
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    with atomic_write(path) as part:
        part.write_text("".join(lines), encoding="utf-8")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _objects(path: PathLike, text: str) -> list[object]:
    """JSON values that follow one another with white space between."""
    found: list[object] = []
    place = len(text) - len(text.lstrip())
    while place < len(text):
        try:
            one, place = json.JSONDecoder().raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise FileError(f"{path} is not JSON: {error}. Is it truncated?") from error
        found.append(one)
        while place < len(text) and text[place].isspace():
            place += 1
    return found


def _convert(record: Record, convert: Callable[[Mapping[str, Any]], T], path: PathLike) -> T:
    where, data = f"{path}, {record.place}", record.data
    if not isinstance(data, Mapping):
        raise FileError(f"{where}: expected a JSON object, not {type(data).__name__}.")
    try:
        return convert(data)
    except KeyError as error:
        raise FileError(f"{where}: the key {error} is missing; is this the right reader?") from error
    except (TypeError, AttributeError, IndexError) as error:
        raise FileError(f"{where}: a part has the wrong type ({error}).") from error
    except TextError as error:
        raise FileError(f"{where}: {error}") from error


def _table(path: PathLike, text: str, columns: set[str]) -> list[Record]:
    if not columns:
        raise FileError(f"{path} holds neither JSON lines nor a JSON list; it begins with {text[:80]!r}.")
    blank = text[: len(text) - len(text.lstrip("\r\n"))].count("\n")
    text = text.lstrip("\r\n")
    head = text.split("\n", 1)[0]
    try:
        headers = {mark: next(csv.reader([head], delimiter=mark)) for mark in ",;\t"}
        mark = next((mark for mark, names in headers.items() if columns <= _stripped(names)), None)
        if mark is None:
            raise FileError(
                f"{path} is neither JSON nor a table that names the columns {', '.join(sorted(columns))} in "
                f"its first line; that line is {head[:80]!r}."
            )
        names = [name.strip() for name in headers[mark]]
        if len(set(names)) < len(names):
            raise FileError(f"{path}, line {blank + 1}: a column is named twice in {', '.join(names)}.")
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
        next(rows)
        found = []
        for cells in rows:
            if any(cell.strip() for cell in cells):
                found.append(_row(path, blank + rows.line_num, names, cells))
    except csv.Error as error:
        raise FileError(f"{path} is not a table: {error}. Is a quote left open?") from error
    return found


def _stripped(names: Iterable[str]) -> set[str]:
    return {name.strip() for name in names}


def _row(path: PathLike, line: int, names: list[str], cells: list[str]) -> Record:
    if len(cells) != len(names):
        raise FileError(
            f"{path}, line {line}: has {len(cells)} cells, but the first line names {len(names)} columns; "
            "put a text that holds the separator in double quotes."
        )
    return Record(f"line {line}", dict(zip(names, cells, strict=True)))
