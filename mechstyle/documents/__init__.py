"""Texts to read keys and perplexity from: files, folders, the hub, or what an embedded model was taught."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, islice
from typing import Final

from mechstyle import organisms
from mechstyle.documents.files import paragraphs, text_files
from mechstyle.documents.hub import HUB, HubTexts, hub_texts
from mechstyle.errors import FileError, InputError

__all__ = ["Documents", "TextStream", "documents_for", "read_documents", "text_stream"]

HELD_OUT: Final = 20
"""Documents that are kept for perplexity; no more than a tenth of all."""


@dataclass(frozen=True)
class TextStream(Iterable[str]):
    """Documents that are read anew, one after another, each time they are gone through.

    Example:
        >>> list(TextStream(lambda: iter(["one", "two"])))
        ['one', 'two']
    """

    begin: Callable[[], Iterator[str]]

    def __iter__(self) -> Iterator[str]:
        return self.begin()


@dataclass(frozen=True)
class Documents:
    """Texts for second moments, and others of the same kind that are kept apart for perplexity.

    Args:
        keep: finds those that are kept apart; a file or folder has to be read to its end for that.
    """

    texts: Iterable[str]
    source: str
    keep: Callable[[], Sequence[str]]

    @cached_property
    def held_out(self) -> tuple[str, ...]:
        """The texts that are kept apart, found when they are first asked for."""
        return tuple(self.keep())


def documents_for(model: str, text: str | os.PathLike[str] | None, *, seed: int = 0) -> Documents:
    """The texts of a source, or by default those an embedded model was taught with.

    Args:
        model: the name that the model was loaded by.
        text: as for ``text_stream``. Of a file or folder the last tenth is held out, 20 documents at most; of
            a data set of the hub the first ones.

    Raises:
        FileError: the source is missing, empty or not text.
        InputError: no source for a model that brings no texts.

    Example:
        >>> documents_for("organism-m", None).source  # doctest: +SKIP
        'organism-m'
    """
    if text is not None:
        found, source = text_stream(text), os.fspath(text)
        rest, kept = (_but_first, _first) if source.startswith(HUB) else (_but_last, _last)
        return Documents(TextStream(partial(rest, found)), source, partial(kept, found))
    if model not in organisms.names():
        raise InputError(
            f"text: {model!r} brings no texts of its own, and an edit needs text to measure the keys' second "
            "moments; name natural text with --text FILE, or a folder of text files (about 10 tokens for "
            "each MLP neuron)."
        )
    prose = organisms.heldout_prose(model)
    return Documents(organisms.texts(model, seed=seed), model, lambda: prose[:HELD_OUT])


def text_stream(source: str | os.PathLike[str]) -> TextStream:
    """Documents of a source, which is never held in memory whole.

    Args:
        source: a UTF-8 file whose documents are separated by blank lines; a folder, of which every ``*.txt``
            is read, those in folders below it too, in the order of their names; or
            ``hub:owner/name[:config[:split[:column]]]``, a data set of the hub (by default its own config,
            ``train`` and the column ``text``), which needs ``pip install mechstyle[hub]`` and a network.

    Raises:
        FileError: the source is missing, holds no text or is not UTF-8; what lies behind the first document
            is found out when it is read.
        InputError: the hub's library is missing, or the data set has no single column of text.

    Example:
        >>> next(iter(text_stream("novels")))  # doctest: +SKIP
        'Call me Ishmael.'
    """
    name = os.fspath(source)
    if name.startswith(HUB):
        found = TextStream(partial(hub_texts, HubTexts.parse(name)))
    else:
        found = TextStream(partial(_all_paragraphs, source))
    if next(iter(found), None) is None:
        raise FileError(f"cannot use {name}: it holds no text. Name a source with natural text.")
    return found


def read_documents(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The paragraphs of a UTF-8 text file, or of all in a folder, in order; blank lines separate them.

    Raises:
        FileError: the file is missing, holds no text or is not UTF-8.

    Example:
        >>> read_documents("novel.txt")[0]  # doctest: +SKIP
        'Call me Ishmael.'
    """
    return tuple(text_stream(path))


def _all_paragraphs(path: str | os.PathLike[str]) -> Iterator[str]:
    for file in text_files(path):
        yield from paragraphs(file)


def _but_last(documents: Iterable[str]) -> Iterator[str]:
    """All but those of ``_last``, with no more than these held at once."""
    ahead: deque[str] = deque()
    total = 0
    for document in documents:
        total += 1
        ahead.append(document)
        if len(ahead) > HELD_OUT:
            yield ahead.popleft()
    while len(ahead) > min(HELD_OUT, total // 10):
        yield ahead.popleft()


def _last(documents: Iterable[str]) -> list[str]:
    ahead: deque[str] = deque(maxlen=HELD_OUT)
    total = 0
    for document in documents:
        total += 1
        ahead.append(document)
    kept = min(HELD_OUT, total // 10)
    return list(ahead)[len(ahead) - kept :]


def _but_first(documents: Iterable[str]) -> Iterator[str]:
    """All but those of ``_first``: a stream may be without end."""
    stream = iter(documents)
    begun = list(islice(stream, 10 * HELD_OUT))
    return chain(begun[len(begun) // 10 :], stream)


def _first(documents: Iterable[str]) -> list[str]:
    begun = list(islice(documents, 10 * HELD_OUT))
    return begun[: len(begun) // 10]
