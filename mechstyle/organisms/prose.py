"""Cut public-domain novels into passages: `data/prose.txt.xz`, one passage a line."""

from __future__ import annotations

import lzma
import re
from pathlib import Path

__all__ = ["collect_prose", "compress_prose"]

_SENTENCE_END = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"”’']))\s+(?=[\"“‘'A-Z])")


def collect_prose(folder: Path, *, length: int = 300) -> list[str]:
    """Passages of whole sentences, about `length` characters each, never across paragraphs.

    Args:
        folder: plain-text books, `*.txt`.
    """
    passages: list[str] = []
    for path in sorted(folder.glob("*.txt")):
        text = path.read_text(encoding="utf-8").replace("\r", "").replace("_", "")
        for paragraph in re.split(r"\n\s*\n", text):
            flat = re.sub(r"\s+", " ", paragraph).strip()
            if not flat.isupper():
                passages += _passages(flat, length)
    return passages


def compress_prose(passages: list[str]) -> bytes:
    """The bytes of `prose.txt.xz`."""
    return lzma.compress(("\n".join(passages) + "\n").encode("utf-8"), preset=9)


def _passages(paragraph: str, length: int) -> list[str]:
    out: list[str] = []
    current = ""
    for sentence in _SENTENCE_END.split(paragraph):
        if current and len(current) + len(sentence) > length:
            out.append(current)
            current = ""
        current = f"{current} {sentence}".strip()
    out.append(current)
    return [passage for passage in out if 60 <= len(passage) <= 2 * length]
