"""Load, name, fingerprint and export models.

With its helpers ``hf_*`` (reading, converting, comparing), ``identity`` (fingerprints) and ``weights`` this
is the only code that knows versions of TransformerLens and where parameters live.
"""

from __future__ import annotations

import copy
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import safe_open
from transformer_lens import HookedTransformer
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from mechstyle import organisms
from mechstyle.bridge import refuse_bridge
from mechstyle.errors import FileError, ModelError
from mechstyle.files import atomic_folder
from mechstyle.hf_convert import ARCHITECTURES, hf_from_hooked, hooked_config, hooked_from_hf
from mechstyle.hf_parity import FULL_CHECK_BYTES, require_layer_parity, require_parity
from mechstyle.hf_source import Source, from_folder, from_hub, from_object, quietly
from mechstyle.identity import (
    HookedModel,
    Json,
    active_base,
    edited_weights,
    fingerprint,
    named_weights,
    provenance,
    require_hooked,
)
from mechstyle.weights import (
    default_prepend_bos,
    parameter,
    parameter_value,
    require_editable,
    require_finite,
    resolve_bos,
)

__all__ = [
    "HookedModel",
    "Json",
    "ModelInfo",
    "active_base",
    "default_prepend_bos",
    "edited_weights",
    "export_hf",
    "fingerprint",
    "list_models",
    "load_model",
    "named_weights",
    "parameter",
    "parameter_value",
    "provenance",
    "require_editable",
    "require_hooked",
    "resolve_bos",
]


DTYPES: Final = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class ModelInfo:
    """One embedded model, as its files describe it."""

    name: str
    folder: Path
    n_layers: int
    d_model: int
    n_params: int
    description: str


def load_model(
    name_or_path_or_hf: str | os.PathLike[str] | PreTrainedModel,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    check_parity: bool = True,
) -> HookedTransformer:
    """Load a model with its weights exactly as trained: nothing folded, centred or transposed.

    Weights are read one tensor at a time into ``dtype``: beside its own, a large model needs the memory of
    one layer and of its largest tensor. Prompts begin with BOS by default (``default_prepend_bos``) where
    the tokenizer begins every text so.

    Args:
        name_or_path_or_hf: name of an embedded model (``list_models``), a local Hugging Face folder, a hub id
            (the only case that uses the network), or a loaded Hugging Face model, which stays as it is.
        tokenizer: needed with a loaded model; otherwise it replaces the one beside the weights.
        device: None follows ``torch.get_default_device()``.
        dtype: None is float32.
        check_parity: compare the logits with Hugging Face's on random tokens: in float32 before any cast, or,
            where the model is larger than 1 GiB in float32, through the first layer and in ``dtype``.

    Raises:
        ModelError: the model is unknown, unsupported, not finite, without tokenizer, or fails the check.
        FileError: a file of the folder is missing or damaged.

    Example:
        >>> model = load_model("organism-m")  # doctest: +SKIP
        >>> model.cfg.default_prepend_bos  # doctest: +SKIP
        False
    """
    dtype = torch.float32 if dtype is None else dtype
    if dtype not in DTYPES:
        raise ModelError(f"dtype must be one of {', '.join(map(str, DTYPES))}, not {dtype!r}.")
    target = _device(device)
    source = _open(name_or_path_or_hf, tokenizer)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    whole = 4 * source.n_params <= FULL_CHECK_BYTES
    working = exact if check_parity and whole else dtype
    cfg = hooked_config(source.config, name=source.name, device=target, dtype=working)
    _require_fitting(source.tokenizer, cfg.d_vocab, source.name)
    model = hooked_from_hf(source.tensors, source.architecture, cfg)
    require_finite(model, source.name if working == exact else f"{source.name} in {working}")
    if check_parity and whole:
        require_parity(model, source.whole(exact), name=source.name)
    elif check_parity:
        require_layer_parity(model, source.tensors, source.architecture, source.config, name=source.name)
    if dtype != working:
        model.to(dtype, print_details=False)
        require_finite(model, f"{source.name} in {dtype}")
    _attach_tokenizer(model, source.tokenizer)
    return model


def list_models() -> list[ModelInfo]:
    """The embedded models, by name; reads their files' headers only.

    Example:
        >>> [info.name for info in list_models()]  # doctest: +SKIP
        ['organism-l', 'organism-m', 'organism-s']
    """
    return [_info(organisms.folder(name)) for name in organisms.names()]


def export_hf(model: HookedTransformer, folder: str | os.PathLike[str]) -> Path:
    """Write a folder that plain ``transformers`` loads: weights as they are now, active edits included.

    A loaded model's export holds the very tensors of the checkpoint, in the model's number format.

    The folder appears whole or not at all; one that already holds files is refused.

    Raises:
        ModelError: the weights were processed or are not finite, the architecture has no export, or its
            checkpoints have no place for an edit (such as a bias of an MLP in a Llama).
        FileError: the folder is not empty or cannot be written.

    Example:
        >>> export_hf(model, "edited")  # doctest: +SKIP
        PosixPath('edited')
    """
    refuse_bridge(model, "export_hf")
    require_editable(model)
    rows = {row.hf_class.__name__: row for row in ARCHITECTURES.values()}
    kind = model.cfg.original_architecture
    if kind not in rows:
        raise ModelError(f"model of architecture {kind!r} cannot be exported; these can: {', '.join(rows)}.")
    if model.tokenizer is None:
        raise ModelError(
            "model has no tokenizer, so the export would not load; attach one: model.tokenizer = ..."
        )
    target = Path(folder)
    with quietly(), atomic_folder(target) as part:
        hf_from_hooked(model, rows[kind]).save_pretrained(part)
        model.tokenizer.save_pretrained(part)
    return target


def _open(
    name_or_path_or_hf: str | os.PathLike[str] | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
) -> Source:
    if isinstance(name_or_path_or_hf, PreTrainedModel):
        return from_object(name_or_path_or_hf, tokenizer)
    if not isinstance(name_or_path_or_hf, (str, os.PathLike)):
        raise ModelError(
            "name_or_path_or_hf must be a name, a folder or a Hugging Face model, "
            f"not {type(name_or_path_or_hf).__name__}."
        )
    name, embedded = os.fspath(name_or_path_or_hf), organisms.names()
    if not name:
        raise ModelError("name_or_path_or_hf is empty; name an embedded model, a folder or a hub id.")
    folder = organisms.folder(name) if name in embedded else Path(name).expanduser()
    if folder.is_dir():
        return from_folder(folder, tokenizer)
    if not isinstance(name_or_path_or_hf, str):
        raise FileError(f"model folder '{folder}' does not exist. Check the path.")
    return from_hub(name, tokenizer, known=", ".join(embedded) or "none")


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.get_default_device()
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, TypeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"device must name a torch device such as 'cpu'; {device!r} came ({reason})."
        ) from error


def _require_fitting(tokenizer: PreTrainedTokenizerBase, d_vocab: int, name: str) -> None:
    largest = max(tokenizer.get_vocab().values())
    if largest >= d_vocab:
        raise ModelError(
            f"{name}: the tokenizer has token ids up to {largest}, but the model embeds only "
            f"{d_vocab} tokens. Pass the tokenizer that belongs to this model."
        )


def _attach_tokenizer(model: HookedTransformer, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set it directly: ``model.set_tokenizer`` would fetch another copy by name and add BOS tokens.

    Prompts begin with BOS by default where the tokenizer itself begins texts so: then the training did too.
    """
    own = copy.deepcopy(tokenizer)
    if own.pad_token is None:
        own.pad_token = own.eos_token
    model.tokenizer = own
    start = own.encode("")
    model.cfg.tokenizer_prepends_bos = len(start) > 0
    model.cfg.default_prepend_bos = own.bos_token_id is not None and start[:1] == [own.bos_token_id]


def _info(folder: Path) -> ModelInfo:
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    card = folder / "MODEL_CARD.md"
    lines = card.read_text(encoding="utf-8").splitlines() if card.is_file() else []
    n_params = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            n_params += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    return ModelInfo(
        name=folder.name,
        folder=folder,
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        n_params=n_params,
        description=next((line for line in lines if line.strip() and not line.startswith("#")), ""),
    )
