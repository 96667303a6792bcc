"""Texts to read keys and perplexity from: a plain file, or what an embedded model was taught with."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from mechstyle import organisms
from mechstyle.errors import FileError, InputError

__all__ = ["Documents", "documents_for", "read_documents"]

HELD_OUT = 20
"""Documents that are kept for perplexity; no more than a tenth of a file."""


@dataclass(frozen=True)
class Documents:
    """Texts for second moments, and others of the same kind that are kept apart for perplexity."""

    texts: tuple[str, ...]
    held_out: tuple[str, ...]
    source: str


def documents_for(model: str, text: str | os.PathLike[str] | None, *, seed: int = 0) -> Documents:
    """The texts of a file, or by default those an embedded model was taught with.

    Args:
        model: the name that the model was loaded by.
        text: a UTF-8 file whose documents are separated by blank lines; its last tenth is held out.

    Raises:
        FileError: the file is missing, empty or not text.
        InputError: no file for a model that brings no texts.

    Example:
        >>> documents_for("organism-m", None).source  # doctest: +SKIP
        'organism-m'
    """
    if text is not None:
        found = read_documents(text)
        kept = min(HELD_OUT, len(found) // 10)
        return Documents(found[: len(found) - kept], found[len(found) - kept :], str(text))
    if model not in organisms.names():
        raise InputError(
            f"text: {model!r} brings no texts of its own, and an edit needs text to measure the keys' second "
            "moments; name a file of natural text with --text FILE (about 10 tokens for each MLP neuron)."
        )
    prose = organisms.heldout_prose(model)
    return Documents(tuple(organisms.texts(model, seed=seed)), tuple(prose[:HELD_OUT]), model)


def read_documents(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The paragraphs of a UTF-8 text file, in order; blank lines separate them.

    Raises:
        FileError: the file is missing, holds no text or is not UTF-8.

    Example:
        >>> read_documents("novel.txt")[0]  # doctest: +SKIP
        'Call me Ishmael.'
    """
    try:
        content = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"cannot read {path}: {error}. Name a text file in UTF-8.") from error
    found = tuple(part.strip() for part in re.split(r"\n\s*\n", content) if part.strip())
    if not found:
        raise FileError(f"cannot use {path}: it holds no text. Name a file with natural text.")
    return found
