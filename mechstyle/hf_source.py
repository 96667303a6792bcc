"""Where a Hugging Face model comes from: a folder, the hub or an object, with what is wrong with it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as hf_logging

from mechstyle.errors import FileError, ModelError
from mechstyle.hf_convert import Architecture, architecture_of
from mechstyle.hf_files import first_line, open_checkpoint, read_json, weight_files

__all__ = ["Source", "check_tokenizer", "from_folder", "from_hub", "from_object", "quietly"]

TOKENIZER_FILES: Final = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model")
HUB_FILES: Final = ("*.json", "*.txt", "tokenizer.model", "*.jinja")
HUB_WEIGHTS: Final = ("model*.safetensors", "pytorch_model*.bin")
"""In the order of choice: the second kind is fetched only where the first is absent."""


@dataclass(frozen=True)
class Source:
    """A model that can be read: its config and tokenizer are in memory, its weights need not be."""

    name: str
    config: PretrainedConfig
    architecture: Architecture
    tensors: Mapping[str, Tensor]
    """By their Hugging Face names, read when looked up."""
    n_params: int
    tokenizer: PreTrainedTokenizerBase
    whole: Callable[[torch.dtype], PreTrainedModel]
    """The Hugging Face model itself, to compare with; one from a folder is in the number format asked for."""


def from_object(hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> Source:
    """A loaded Hugging Face model, which stays as it is.

    Raises:
        ModelError: it is not supported, or has no tokenizer.
    """
    name = type(hf).__name__
    if tokenizer is None:
        raise ModelError(
            "tokenizer is missing: a loaded Hugging Face model brings none. "
            "Pass tokenizer=AutoTokenizer.from_pretrained(...)."
        )
    tokenizer = check_tokenizer(tokenizer, name=name)
    architecture = architecture_of(hf.config, name=name)
    if not isinstance(hf, architecture.hf_class):
        raise ModelError(f"{name}: expected a {architecture.hf_class.__name__}, not a {type(hf).__name__}.")
    n_params = sum(weight.numel() for weight in hf.parameters())
    return Source(name, hf.config, architecture, hf.state_dict(), n_params, tokenizer, lambda _: hf)


def from_folder(folder: Path, tokenizer: PreTrainedTokenizerBase | None) -> Source:
    """A local Hugging Face folder, without the network.

    Raises:
        FileError: a file is missing or damaged.
        ModelError: the architecture is not supported.
    """
    name = str(folder)
    architecture = architecture_of(read_json(folder / "config.json"), name=name)
    files = weight_files(folder)
    if tokenizer is None and not any((folder / file).is_file() for file in TOKENIZER_FILES):
        raise FileError(
            f"{folder} holds no tokenizer: expected tokenizer.json (or vocab.json with merges.txt). "
            "Copy it there or pass tokenizer=."
        )
    with _blame_folder(folder), quietly():
        config = AutoConfig.from_pretrained(name, local_files_only=True)
        architecture.config(config)
        shapes = architecture.shapes(config)
        tensors = open_checkpoint(
            folder,
            shapes,
            prefix=architecture.hf_class.base_model_prefix,
            renamed=architecture.renamed,
            tied=architecture.ties(config),
        )
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=True)
    tokenizer = check_tokenizer(tokenizer, name=name)

    def whole(dtype: torch.dtype) -> PreTrainedModel:
        loader: Any = architecture.hf_class
        with _blame_folder(folder), quietly():
            model: PreTrainedModel = loader.from_pretrained(
                name,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=files[0].suffix == ".safetensors",
                weights_only=True,
            )
        return model

    n_params = sum(shape.numel() for shape in shapes.values())
    return Source(name, config, architecture, tensors, n_params, tokenizer, whole)


def from_hub(name: str, tokenizer: PreTrainedTokenizerBase | None, *, known: str) -> Source:
    """Fetch a model by its hub id into the hub's cache: the only place that uses the network.

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
            architecture_of(config, name=name).config(config)
            folder = _fetch(name)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        if isinstance(error, (FileError, ModelError)):
            raise
        raise ModelError(
            f"unknown model {name!r}: no embedded model has this name (they are: {known}), no folder is "
            f"there, and the Hugging Face hub did not give it: {first_line(error)}"
        ) from error
    return from_folder(folder, tokenizer)


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


def _fetch(name: str) -> Path:
    """The folder in the hub's cache; only files beside the config, and only one kind of weights."""
    for weights in HUB_WEIGHTS:
        patterns = [*HUB_FILES, weights]
        folder = Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*/*"]))
        if any(folder.glob(weights)):
            break
    return folder


@contextmanager
def _blame_folder(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        if isinstance(error, (FileError, ModelError)):
            raise
        raise FileError(f"{folder} cannot be read as a Hugging Face model: {first_line(error)}") from error


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
