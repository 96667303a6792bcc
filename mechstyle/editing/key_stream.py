"""Which texts and which of their tokens give the keys of second moments: settings, streaming, hashing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mechstyle import organisms
from mechstyle.documents import text_stream
from mechstyle.errors import InputError, RangeError
from mechstyle.models import HookedModel, edited_weights, fingerprint, provenance, resolve_bos
from mechstyle.sites import check_layer

__all__ = [
    "KeySettings",
    "TextSource",
    "TextsRead",
    "documents_of",
    "read_through",
    "require_positive",
    "require_some",
    "token_rows",
]

TextSource = Iterable[str] | os.PathLike[str] | None
"""Documents, the path of a text file or folder, or None for what an embedded model was taught with."""


@dataclass(frozen=True)
class KeySettings:
    """What decides, beside model and texts, which keys are averaged."""

    layers: tuple[int, ...]
    n_keys: int
    prepend_bos: bool
    max_positions: int

    @classmethod
    def checked(
        cls,
        model: HookedModel,
        *,
        layers: int | Sequence[int],
        n_keys: int,
        prepend_bos: bool | None,
        max_positions: int,
    ) -> KeySettings:
        """The settings that were asked for, layers in rising order.

        Raises:
            InputError: there are no layers.
            RangeError: a layer or number is out of range.
        """
        listed = list(layers) if isinstance(layers, Iterable) else [layers]
        if not listed:
            raise InputError("layers: expected at least one layer, got none.")
        chosen = {check_layer(layer, model.cfg.n_layers, name="layers") for layer in listed}
        require_positive(n_keys=n_keys, max_positions=max_positions)
        return cls(tuple(sorted(chosen)), n_keys, resolve_bos(model, prepend_bos), max_positions)

    def record(self, model: HookedModel) -> dict[str, Any]:
        """The settings as JSON values, with what edits that are active make of the model's weights."""
        return {
            "layers": list(self.layers),
            "n_keys": self.n_keys,
            "prepend_bos": self.prepend_bos,
            "max_positions": self.max_positions,
            "edited_weights": edited_weights(model),
        }

    def identity(self, model: HookedModel) -> dict[str, Any]:
        """The record, the model's fingerprint and its number format: moments are the same where these are."""
        origin = provenance(model)
        return {**self.record(model), "fingerprint": origin["fingerprint"], "dtype": origin["dtype"]}


@dataclass
class TextsRead:
    """How much was read so far: key vectors, texts that hold any, and the hash of these texts in order."""

    count: int = 0
    n_texts: int = 0
    text_sha256: str = ""

    def passed(self, texts: Sequence[str], n_keys: int) -> None:
        """Note texts that were read, and how many keys they had together."""
        self.count += n_keys
        self.n_texts += len(texts)
        for text in texts:
            self.text_sha256 = _chained(self.text_sha256, text)


def require_positive(**numbers: int) -> None:
    """Make sure that arguments, given by name, are whole numbers of 1 or more.

    Raises:
        RangeError: one is not.
    """
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise RangeError(f"{name}: expected 1 or more, got {number}.")


def documents_of(model: HookedModel, texts: TextSource) -> Iterable[str]:
    """The documents that ``texts`` stands for.

    Raises:
        InputError: one string, or None for a model that brings no texts.
        FileError: a path where no text is.
    """
    if isinstance(texts, str):
        raise InputError(
            "texts: expected an iterable of documents, got one string; pass [text], or Path(...) for a file."
        )
    if texts is None:
        name = organisms.with_fingerprint(fingerprint(model))
        if name is None:
            raise InputError(
                "texts: this model brings no texts of its own; pass documents, or the Path of a text file or "
                "of a folder with *.txt."
            )
        return organisms.texts(name)
    if isinstance(texts, os.PathLike):
        return text_stream(texts)
    if not isinstance(texts, Iterable):
        raise InputError(f"texts: expected an iterable of documents, got {type(texts).__name__}.")
    return texts


def read_through(model: HookedModel, texts: Iterable[str], settings: KeySettings) -> TextsRead:
    """What would be read, found by tokenising alone: the model is not run.

    Raises:
        InputError: something else than text is among the documents, or they hold no token.
    """
    read = TextsRead()
    for text, ids in token_rows(model, texts, settings, read_before=TextsRead()):
        read.passed([text], len(ids))
    require_some(read)
    return read


def require_some(read: TextsRead) -> None:
    """Make sure that there was a token to read.

    Raises:
        InputError: there was none.
    """
    if read.count == 0:
        raise InputError("texts: expected at least one document with text, got none.")


def token_rows(
    model: HookedModel, texts: Iterable[str], settings: KeySettings, *, read_before: TextsRead
) -> Iterator[tuple[str, Int[Tensor, " pos"]]]:
    """Each text that was not ``read_before`` with its tokens, the last cut so that all make ``n_keys``.

    Raises:
        InputError: something else than text is among the documents, or others were read before.
    """
    width = min(settings.max_positions, model.cfg.n_ctx)
    start = [model.tokenizer.bos_token_id] if settings.prepend_bos else []
    left, to_skip, chain = settings.n_keys - read_before.count, read_before.n_texts, ""
    expected = read_before.text_sha256
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"texts: expected documents as text, got {type(text).__name__}.")
        own = model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:width]
        if not own:
            continue
        if to_skip:
            to_skip, chain = to_skip - 1, _chained(chain, text)
            if not to_skip and chain != expected:
                break
            continue
        if left == 0:
            return
        ids = [*start, *own][: min(width, left)]
        left -= len(ids)
        yield text, torch.tensor(ids, dtype=torch.long)
        if left == 0:
            return
    if chain != expected:
        raise InputError(
            "texts: expected those that the checkpoint has read, got others; "
            "pass the same texts, or remove the checkpoint to begin again."
        )


def _chained(before: str, text: str) -> str:
    """Hash of all texts so far and the next one."""
    return hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()
