"""Named tensors and their description in one safetensors file that notices when it was changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mechstyle.errors import FileError
from mechstyle.files import atomic_write

__all__ = ["file_kind", "load_tensors", "save_tensors", "sha256_of"]

_FORMAT = 1


def save_tensors(
    path: str | os.PathLike[str], kind: str, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
) -> Path:
    """Write tensors with a JSON header and the hash of both; the file appears whole or not at all.

    Args:
        kind: what the file is (``"edit"``, ``"covariance"``), checked when it is read.
        header: JSON values only.

    Raises:
        FileError: the file cannot be written.

    >>> path = save_tensors("c.safetensors", "covariance", {"0": matrix}, {"count": 100})  # doctest: +SKIP
    """
    contents = _plain(tensors)
    text = json.dumps({"format": _FORMAT, "kind": kind, "header": header}, sort_keys=True)
    metadata = {"mechstyle": text, "sha256": _content_hash(text, contents)}
    with atomic_write(path) as part:
        try:
            save_file(contents, part, metadata=metadata)
        except SafetensorError as error:
            raise FileError(f"cannot write {path}: {error}. Is the disk full?") from error
    return Path(path)


def load_tensors(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read back what ``save_tensors`` wrote: the tensors (on the CPU) and the header.

    Raises:
        FileError: the file is missing, cut short, changed, or holds something else.

    >>> tensors, header = load_tensors("c.safetensors", "covariance")  # doctest: +SKIP
    """
    if not Path(path).is_file():
        raise FileError(f"cannot read {path}: expected a file there. Check the path.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise FileError(
            f"cannot read {path}: it is damaged or no safetensors file ({error}). Save it again."
        ) from error
    text = metadata.get("mechstyle")
    if text is None:
        raise FileError(f"cannot read {path}: expected a file that mechstyle saved, got other safetensors.")
    if metadata.get("sha256") != _content_hash(text, tensors):
        raise FileError(
            f"cannot read {path}: its contents do not match its own hash, so it was changed. Save it again."
        )
    document = json.loads(text)
    if document.get("format") != _FORMAT or document.get("kind") != kind:
        raise FileError(
            f"cannot read {path}: expected kind {kind!r} in format {_FORMAT}, "
            f"got {document.get('kind')!r} in format {document.get('format')}."
        )
    header: dict[str, Any] = document["header"]
    return tensors, header


def sha256_of(tensors: Iterable[Tensor]) -> str:
    """Hash (hex) of the numbers of some tensors, in fp64.

    >>> sha256_of([torch.zeros(2)])[:8]
    '374708ff'
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().double().contiguous().numpy().data)
    return digest.hexdigest()


def file_kind(path: str | os.PathLike[str]) -> str | None:
    """What a file says it is; None when it is no file of ours. The tensors are not read.

    >>> file_kind("edit.safetensors")  # doctest: +SKIP
    'edit'
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get("mechstyle", "{}")
    except (SafetensorError, OSError):
        return None
    kind: str | None = json.loads(text).get("kind")
    return kind


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Dense tensors on the CPU that share no memory; those that are so already are not copied."""
    found: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        if plain.untyped_storage().nbytes() != plain.nbytes or plain.data_ptr() in taken:
            plain = plain.clone()
        taken.add(plain.data_ptr())
        found[name] = plain
    return found


def _content_hash(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
