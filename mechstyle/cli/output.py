"""What the commands say: results on stdout, notes and errors as single lines on stderr."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import typer

__all__ = ["emit", "note"]


def note(message: str) -> None:
    """One line on stderr."""
    typer.echo(f"mechstyle: {' '.join(message.split())}", err=True)


def emit(result: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """The result on stdout: one JSON object and nothing else, or text."""
    typer.echo(json.dumps(result, allow_nan=False) if as_json else text)
