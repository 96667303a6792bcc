"""The files of `data/`: read as TOML or as rows of facts, and made anew."""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ..records import write_json_lines

__all__ = ["Row", "fact_row", "read_rows", "read_toml", "remake"]

Row = dict[str, str]
"""One fact as the files of facts have it: subject, relation, object, source."""


def read_toml(file: str) -> dict[str, Any]:
    """What a packaged TOML file says."""
    return tomllib.loads(_text(file))


def fact_row(subject: str, relation: str, obj: str, source: str) -> Row:
    """A fact as its file has it."""
    return {"subject": subject, "relation": relation, "object": obj, "source": source}


def read_rows(file: str) -> list[Row]:
    """Rows of a packaged file of facts.

    Example:
        >>> from mechstyle.organisms.packaged import read_rows
        >>> read_rows("invented.jsonl")[0]["source"]
        'invented'
    """
    return [json.loads(line) for line in _text(file).splitlines()]


def remake(
    file: str, make: Callable[[], Iterable[Row]], about: str, arguments: Sequence[str] | None = None
) -> None:
    """The command that writes a packaged file anew, or its rows to `--out`.

    Args:
        about: what its help says.
        arguments: of the command line; the process's own when None.
    """
    parser = argparse.ArgumentParser(description=about)
    default = Path(__file__).parent / "data" / file
    parser.add_argument("--out", type=Path, default=default, help="file that receives the facts")
    write_json_lines(parser.parse_args(arguments).out, make())


def _text(file: str) -> str:
    return resources.files("mechstyle.organisms").joinpath("data", file).read_text(encoding="utf-8")
