"""Texts of a data set of the Hugging Face hub, streamed by the library ``datasets``."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mechstyle.errors import FileError, InputError

__all__ = ["HUB", "HubTexts", "hub_texts"]

HUB: Final = "hub:"
"""What a text source begins with that is a data set of the hub."""
_FORM: Final = "hub:owner/name[:config[:split[:column]]]"


@dataclass(frozen=True)
class HubTexts:
    """Which texts of which data set; None means the data set's own choice, or its only column of text."""

    name: str
    config: str | None = None
    split: str = "train"
    column: str | None = None

    @classmethod
    def parse(cls, source: str) -> HubTexts:
        """Read ``hub:owner/name[:config[:split[:column]]]``; parts may be left empty.

        Raises:
            InputError: the name is missing, or there are too many parts.

        Example:
            >>> HubTexts.parse("hub:owner/books::test").split
            'test'
        """
        name, *rest = [part.strip() for part in source.removeprefix(HUB).split(":")]
        if not name or len(rest) > 3:
            raise InputError(f"text: expected {_FORM}, got {source!r}.")
        config, split, column = (*rest, *[""] * (3 - len(rest)))
        return cls(name, config or None, split or "train", column or None)


def hub_texts(wanted: HubTexts) -> Iterator[str]:
    """The texts of a data set in its own order, fetched as they are read; rows without text are passed over.

    Raises:
        InputError: the library is missing, or no single column holds text.
        FileError: the hub does not answer, or has no such data set.

    Example:
        >>> next(hub_texts(HubTexts.parse("hub:owner/books")))  # doctest: +SKIP
        'Call me Ishmael.'
    """
    library = _library(wanted)
    column = wanted.column
    try:
        for row in library.load_dataset(wanted.name, wanted.config, split=wanted.split, streaming=True):
            column = _column(row, column, wanted)
            text = row[column]
            if isinstance(text, str) and text.strip():
                yield text.strip()
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileError(
            f"text: cannot stream {wanted.name!r} (config {wanted.config}, split {wanted.split!r}) from the "
            f"hub: {reason}. Check the name and the network, or name a text file or folder instead."
        ) from error


def _library(wanted: HubTexts) -> Any:
    """``datasets``, which only hub texts need."""
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise InputError(
            f"text: to stream {wanted.name!r} from the hub the library datasets is needed; "
            "pip install 'mechstyle[hub]', or name a text file or folder instead."
        ) from error


def _column(row: Mapping[str, Any], asked: str | None, wanted: HubTexts) -> str:
    if asked is not None and asked in row:
        return asked
    texts = [name for name, value in row.items() if isinstance(value, str)]
    if asked is None and ("text" in texts or len(texts) == 1):
        return "text" if "text" in texts else texts[0]
    missing = "one column of text" if asked is None else f"a column {asked!r}"
    raise InputError(
        f"text: expected {missing} in {wanted.name!r}, got columns {', '.join(map(repr, row)) or 'none'}; "
        f"name it as in {_FORM}."
    )
