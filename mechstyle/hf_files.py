"""The tensors of a checkpoint folder, each read from its file when it is asked for and then let go."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mechstyle.errors import FileError

__all__ = ["Checkpoint", "first_line", "open_checkpoint", "read_json", "weight_files"]

SINGLE_FILES: Final = ("model.safetensors", "pytorch_model.bin")
"""With ``.index.json`` appended: the list of the parts of a larger checkpoint."""

REMAP_BYTES: Final = 2**26
"""A pickled file is mapped anew after this much was read from it."""


class Checkpoint(Mapping[str, Tensor]):
    """Tensors by their Hugging Face names, read from their files at each look-up and not kept."""

    def __init__(self, readers: Mapping[str, Callable[[], Tensor]]) -> None:
        self._readers = dict(readers)

    def __getitem__(self, name: str) -> Tensor:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


def open_checkpoint(
    folder: Path,
    shapes: Mapping[str, torch.Size],
    *,
    prefix: str,
    renamed: Mapping[str, str],
    tied: Mapping[str, str],
) -> Checkpoint:
    """Find every tensor of a model in a folder's files; their headers are read, their numbers are not.

    Args:
        shapes: the tensors wanted; others in the files are passed over.
        prefix: first part of most names, which files of a base model lack.
        renamed: names in older files.
        tied: tensors that may be absent because another holds the same numbers.

    Raises:
        FileError: a file is missing or damaged, a tensor is missing or has another shape.
    """
    found: dict[str, tuple[tuple[int, ...], Callable[[], Tensor]]] = {}
    for path in weight_files(folder):
        found |= _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    chosen: dict[str, str] = {}
    for name in shapes:
        names = (name, name.removeprefix(f"{prefix}."), renamed.get(name, name))
        if known := next((candidate for candidate in names if candidate in found), None):
            chosen[name] = known
    for left, right in tied.items():
        if left not in chosen and right in chosen:
            chosen[left] = chosen[right]
        elif right not in chosen and left in chosen:
            chosen[right] = chosen[left]
    if missing := sorted(shapes.keys() - chosen.keys()):
        raise FileError(
            f"{folder} lacks {len(missing)} of the model's weights, first {missing[0]!r}. "
            "The files do not belong to this config.json, or a part of them is absent."
        )
    for name, shape in shapes.items():
        came = found[chosen[name]][0]
        if tuple(shape) != came:
            raise FileError(
                f"{folder} cannot be read as a Hugging Face model: {chosen[name]!r} has shape {list(came)}, "
                f"and config.json asks for {list(shape)}."
            )
    return Checkpoint({name: found[chosen[name]][1] for name in shapes})


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a checkpoint's weights: one, or those that its index names.

    Raises:
        FileError: there are none, or one of them is absent.
    """
    for name in SINGLE_FILES:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            places = read_json(index).get("weight_map")
            if not isinstance(places, dict) or not places:
                raise FileError(
                    f"{index} names no weights: 'weight_map' is missing or empty. Fetch it again."
                )
            parts = [folder / Path(str(part)).name for part in sorted(set(places.values()), key=str)]
            for part in parts:
                if not part.is_file():
                    raise FileError(f"{folder} lacks {part.name}, which {index.name} names. Fetch it again.")
            return parts
    raise FileError(
        f"{folder} holds no weights: expected model.safetensors (or pytorch_model.bin). "
        "Copy the whole model folder."
    )


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a model folder.

    Raises:
        FileError: the file is missing, or holds something else.
    """
    if not path.is_file():
        raise FileError(f"{path.parent} is not a Hugging Face model folder: it holds no {path.name}.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileError(f"{path} cannot be read as JSON: {first_line(error)}") from error
    if not isinstance(data, dict):
        raise FileError(f"{path} must hold a JSON object, not {type(data).__name__}.")
    return data


def first_line(error: BaseException) -> str:
    """What an error says first."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _safetensors(path: Path) -> dict[str, tuple[tuple[int, ...], Callable[[], Tensor]]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {
                name: (tuple(file.get_slice(name).get_shape()), partial(_read, path, name))
                for name in file.keys()  # noqa: SIM118
            }
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _read(path: Path, name: str) -> Tensor:
    """One tensor. The file is opened anew each time: its pages leave memory with the tensor."""
    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor


class _Pickled:
    """A pickled state dict mapped from its file, and mapped anew once much was read, to free its pages."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mapped = is_zipfile(path)  # the format before torch 1.6 is none, and must be read whole
        self._state = self._load()
        self._bytes_read = 0

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(value.shape) for name, value in self._state.items() if isinstance(value, Tensor)}

    def read(self, name: str) -> Tensor:
        if self._mapped and self._bytes_read > REMAP_BYTES:
            self._state, self._bytes_read = self._load(), 0
        tensor: Tensor = self._state[name]
        self._bytes_read += tensor.nbytes
        return tensor

    def _load(self) -> dict[str, Any]:
        state: dict[str, Any] = torch.load(
            self._path, map_location="cpu", mmap=self._mapped, weights_only=True
        )
        return state


def _pickled(path: Path) -> dict[str, tuple[tuple[int, ...], Callable[[], Tensor]]]:
    try:
        file = _Pickled(path)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, UnpicklingError) as error:
        raise _damaged(path, error) from error
    return {name: (shape, partial(file.read, name)) for name, shape in file.shapes().items()}


def _damaged(path: Path, error: BaseException) -> FileError:
    return FileError(f"{path} is truncated or damaged ({first_line(error)}). Fetch it again.")
