"""Second moments that are measured once: one file a layer, named by model, texts and settings."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mechstyle.blocks import has_hooks
from mechstyle.cache import CACHE, cache_folder
from mechstyle.editing.covariance import Covariance, CovarianceWarning, covariance, warn_if_few
from mechstyle.editing.key_stream import KeySettings, TextSource, documents_of, read_through
from mechstyle.errors import FileError, InputError
from mechstyle.models import HookedModel, require_hooked

__all__ = ["cached_covariance"]

_RECIPE: Final = 1
"""Raised when the same settings come to mean other moments, so that older files are not found any more."""


def cached_covariance(
    model: HookedModel,
    texts: TextSource = None,
    *,
    layers: int | Sequence[int],
    n_keys: int = 50_000,
    prepend_bos: bool | None = None,
    batch_size: int = 16,
    max_positions: int = 256,
    folder: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    progress: bool = False,
) -> Covariance:
    """Look second moments up, and measure and keep those of the layers that are not there yet.

    A layer is found again when the model's fingerprint and number format, its active edits, the settings and
    the hash of what is read of the texts are the same. Finding out takes tokenising, but no run of the model.
    Device and ``batch_size`` change no more than the last digits, and are not compared. Files are checked
    against their own hash; several processes may use one folder.

    A model with hooks on it is measured anew each time, since no hash tells what they do.

    Args:
        texts: as for ``covariance``, but they are read twice: an iterator cannot be.
        folder: where the files are; None means ``cache_folder()``.
        checkpoint: as for ``covariance``, and so are the arguments that are not named here.

    Raises:
        InputError: as for ``covariance``; texts that can be read only once, or that change while they are.
        RangeError: a layer or number is out of range.
        FileError: texts or the checkpoint cannot be read.

    Warns:
        CovarianceWarning: few keys, as for ``covariance``; a file in the folder is damaged or another one's
            (it is measured anew), or none can be written there (the moments are returned all the same).

    >>> moments = cached_covariance(model, texts, layers=[4], n_keys=20_000)  # doctest: +SKIP
    """
    require_hooked(model)
    settings = KeySettings.checked(
        model, layers=layers, n_keys=n_keys, prepend_bos=prepend_bos, max_positions=max_positions
    )
    documents = documents_of(model, texts)
    if isinstance(documents, Iterator):
        raise InputError(
            "texts: expected documents that can be read twice, such as a list or the Path of a file, got an "
            "iterator; covariance reads one."
        )
    place = cache_folder() if folder is None else Path(folder)
    kept: dict[int, Covariance] = {}
    missing, expected = list(settings.layers), {}
    if not has_hooks(model):
        read = read_through(model, documents, settings)
        expected = {**settings.identity(model), **vars(read)}
        del expected["layers"]
        looked_up = {layer: _found(place, layer, expected) for layer in settings.layers}
        kept = {layer: found for layer, found in looked_up.items() if isinstance(found, Covariance)}
        for found in looked_up.values():
            if isinstance(found, str):
                warnings.warn(f"covariance: measured anew, because {found}", CovarianceWarning, stacklevel=2)
        missing = [layer for layer in settings.layers if layer not in kept]
        if not missing:
            warn_if_few(read.count, n_keys, int(model.cfg.d_mlp), stacklevel=3)
    if missing:
        measured = covariance(
            model,
            documents,
            layers=missing,
            n_keys=n_keys,
            prepend_bos=prepend_bos,
            batch_size=batch_size,
            max_positions=max_positions,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            progress=progress,
        )
        parts = {layer: _of_one_layer(measured, layer) for layer in missing}
        if expected:
            for layer, part in parts.items():
                _require_same_texts(part, expected)
                _keep(part, place, layer, expected)
        kept |= parts
    return _together(kept, settings.layers)


def _path(place: Path, layer: int, expected: Mapping[str, Any]) -> Path:
    """The file of a layer's moments; everything that decides them is in its name."""
    text = json.dumps({**expected, "layer": layer, "recipe": _RECIPE}, sort_keys=True)
    return place / "covariance" / f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors"


def _found(place: Path, layer: int, expected: Mapping[str, Any]) -> Covariance | str | None:
    """What the folder holds of a layer, or what is wrong with that."""
    path = _path(place, layer, expected)
    if not path.exists():
        return None
    try:
        found = Covariance.load(path)
    except FileError as error:
        return str(error)
    if layer in found and _origin(found, expected) == expected:
        return found
    return f"{path} holds other moments than its name says."


def _keep(part: Covariance, place: Path, layer: int, expected: Mapping[str, Any]) -> None:
    path = _path(place, layer, expected)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.save(path)
    except (OSError, FileError) as error:
        warnings.warn(
            f"covariance: not kept in the cache: {error} {CACHE} in the environment may name another folder.",
            CovarianceWarning,
            stacklevel=3,
        )


def _origin(part: Covariance, expected: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says of itself, by the names of what is expected of it."""
    said = {**part.provenance.get("settings", {}), **part.provenance}
    return {name: said.get(name) for name in expected}


def _require_same_texts(part: Covariance, expected: Mapping[str, Any]) -> None:
    if _origin(part, expected) != expected:
        raise InputError(
            "texts: expected the same documents each time they are read, got others the second time; "
            "pass a list, or a file that nobody writes to."
        )


def _of_one_layer(moments: Covariance, layer: int) -> Covariance:
    return _together({layer: moments}, [layer])


def _together(parts: Mapping[int, Covariance], layers: Sequence[int]) -> Covariance:
    """The parts' moments as one, with the provenance of the first; they agree in all that decides moments."""
    first = parts[layers[0]]
    origin = dict(first.provenance)
    origin["settings"] = {**origin["settings"], "layers": list(layers)}
    return Covariance({layer: parts[layer][layer] for layer in layers}, first.count, origin)
