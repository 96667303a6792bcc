"""Texts that a measurement is given: checked at once, and told from others by a hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from mechstyle.errors import InputError, TextError

__all__ = ["checked_texts", "json_hash"]


def checked_texts(name: str, texts: Sequence[str]) -> tuple[str, ...]:
    """The texts as a tuple.

    Args:
        name: of the argument, for errors.

    Raises:
        InputError: one string instead of a list, or none at all.
        TextError: one is no text, or blank.

    >>> checked_texts("prompts", ["The day was"])
    ('The day was',)
    """
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise InputError(f"{name}: expected a list of texts, got one {type(texts).__name__}; pass [text].")
    if not texts:
        raise InputError(f"{name}: expected at least one text, got none.")
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise TextError(f"{name}[{index}]: expected text that is not blank, got {text!r}.")
    return tuple(texts)


def json_hash(value: Any) -> str:
    """SHA-256 (hex) of a JSON value: equal values have equal hashes.

    >>> json_hash(["The day was"])[:8]
    '1fbf443a'
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
