"""Hugging Face models from a local folder or the hub, with what is wrong with them said plainly."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as hf_logging

from mechstyle.errors import FileError, ModelError
from mechstyle.hf_convert import architecture_of

__all__ = ["check_tokenizer", "from_folder", "from_hub", "quietly"]

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model")


def from_folder(
    folder: Path, tokenizer: PreTrainedTokenizerBase | None, *, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read a local Hugging Face folder without the network.

    Raises:
        FileError: a file is missing or damaged.
        ModelError: the architecture is not supported.
    """
    config = _read_json(folder / "config.json")
    architecture_of(config, name=str(folder))
    weights = sorted(folder.glob("*.safetensors"))
    for path in weights:
        _check_safetensors(path)
    if not weights and not any(folder.glob("pytorch_model*.bin")):
        raise FileError(
            f"{folder} holds no weights: expected model.safetensors (or pytorch_model.bin). "
            "Copy the whole model folder."
        )
    if tokenizer is None and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise FileError(
            f"{folder} holds no tokenizer: expected tokenizer.json (or vocab.json with merges.txt). "
            "Copy it there or pass tokenizer=."
        )
    try:
        return _read(str(folder), tokenizer, dtype=dtype, local=True, safetensors=bool(weights))
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        if isinstance(error, (FileError, ModelError)):
            raise
        raise FileError(f"{folder} cannot be read as a Hugging Face model: {_first_line(error)}") from error


def from_hub(
    name: str, tokenizer: PreTrainedTokenizerBase | None, *, dtype: torch.dtype, known: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Fetch a model by its hub id: the only place that uses the network.

    Args:
        known: names of embedded models, for the message when the hub does not know the name either.

    Raises:
        ModelError: nobody knows the name, the hub cannot be reached, or the architecture is not supported.
    """
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise FileError(
            f"model folder {name!r} does not exist. Check the path; embedded models are: {known}."
        )
    try:
        with quietly():
            config = AutoConfig.from_pretrained(name)
        architecture_of(config, name=name)
        return _read(name, tokenizer, dtype=dtype, local=False, safetensors=None)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        if isinstance(error, (FileError, ModelError)):
            raise
        raise ModelError(
            f"unknown model {name!r}: no embedded model has this name (they are: {known}), no folder is "
            f"there, and the Hugging Face hub did not give it: {_first_line(error)}"
        ) from error


def check_tokenizer(tokenizer: object, *, name: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer when it has a vocabulary and character offsets.

    Raises:
        ModelError: it is not a fast Hugging Face tokenizer, or is empty.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or not tokenizer.is_fast:
        raise ModelError(
            f"{name}: the tokenizer must be a fast Hugging Face tokenizer (with character offsets), "
            f"not {type(tokenizer).__name__}. Use AutoTokenizer.from_pretrained or PreTrainedTokenizerFast."
        )
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise ModelError(
            f"{name}: the tokenizer's vocabulary is empty. Build it with "
            "PreTrainedTokenizerFast(tokenizer_object=...) or copy tokenizer.json beside the weights."
        )
    return tokenizer


def _read(
    source: str,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    dtype: torch.dtype,
    local: bool,
    safetensors: bool | None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    with quietly():
        config = AutoConfig.from_pretrained(source, local_files_only=local)
        loader: Any = architecture_of(config, name=source).hf_class
        hf, report = loader.from_pretrained(
            source,
            dtype=dtype,
            local_files_only=local,
            use_safetensors=safetensors,
            weights_only=True,
            output_loading_info=True,
        )
        if report["missing_keys"]:
            missing = sorted(report["missing_keys"])
            raise FileError(
                f"{source} lacks {len(missing)} of the model's weights, first {missing[0]!r}. "
                "The files do not belong to this config.json, or a part of them is absent."
            )
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
    return hf, check_tokenizer(tokenizer, name=source)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileError(f"{path.parent} is not a Hugging Face model folder: it holds no {path.name}.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileError(f"{path} cannot be read as JSON: {_first_line(error)}") from error
    if not isinstance(data, dict):
        raise FileError(f"{path} must hold a JSON object, not {type(data).__name__}.")
    return data


def _check_safetensors(path: Path) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise FileError(f"{path} is truncated or damaged ({_first_line(error)}). Fetch it again.") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def quietly() -> Iterator[None]:
    """Without progress bars and without the hub client's lines about each retry: the error says it once."""
    enabled = hf_logging.is_progress_bar_enabled()
    silenced = logging.root.manager.disable
    hf_logging.disable_progress_bar()
    logging.disable(max(silenced, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(silenced)
        if enabled:
            hf_logging.enable_progress_bar()
