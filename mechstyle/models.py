"""Load, name, fingerprint and export models.

With its helpers ``hf_source`` (reading), ``hf_convert`` (converting) and ``identity`` (fingerprints) this is
the only code that knows versions of TransformerLens and where parameters live.
"""

from __future__ import annotations

import copy
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import safe_open
from torch import Tensor
from transformer_lens import HookedTransformer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mechstyle import organisms
from mechstyle.errors import FileError, ModelError
from mechstyle.files import atomic_folder
from mechstyle.hf_convert import ARCHITECTURES, architecture_of, hooked_from_hf, require_parity
from mechstyle.hf_source import check_tokenizer, from_folder, from_hub, quietly
from mechstyle.identity import HookedModel, Json, active_base, fingerprint, provenance

__all__ = [
    "HookedModel",
    "Json",
    "ModelInfo",
    "active_base",
    "default_prepend_bos",
    "export_hf",
    "fingerprint",
    "list_models",
    "load_model",
    "parameter",
    "provenance",
    "require_editable",
    "resolve_bos",
]

UNPROCESSED: Final = "mechstyle_unprocessed"
"""Attribute of a model: its weights are as trained, because ``load_model`` made it."""


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

    Args:
        name_or_path_or_hf: name of an embedded model (``list_models``), a local Hugging Face folder, a hub id
            (the only case that uses the network), or a loaded Hugging Face model, which stays as it is.
        tokenizer: needed with a loaded model; otherwise it replaces the one beside the weights.
        device: None follows ``torch.get_default_device()``.
        dtype: None is float32.
        check_parity: compare the logits with Hugging Face's on random tokens, in float32 before any cast.

    Raises:
        ModelError: the model is unknown, unsupported, not finite, without tokenizer, or fails the check.
        FileError: a file of the folder is missing or damaged.

    Example:
        >>> model = load_model("organism-m")  # doctest: +SKIP
        >>> model.cfg.default_prepend_bos  # doctest: +SKIP
        False
    """
    dtype = torch.float32 if dtype is None else dtype
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ModelError(f"dtype must be a floating-point torch.dtype such as torch.float32, not {dtype!r}.")
    target = _device(device)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    if isinstance(name_or_path_or_hf, PreTrainedModel):
        hf, name = name_or_path_or_hf, type(name_or_path_or_hf).__name__
        if tokenizer is None:
            raise ModelError(
                "tokenizer is missing: a loaded Hugging Face model brings none. "
                "Pass tokenizer=AutoTokenizer.from_pretrained(...)."
            )
    elif isinstance(name_or_path_or_hf, (str, os.PathLike)):
        name = os.fspath(name_or_path_or_hf)
        local = not isinstance(name_or_path_or_hf, str)
        hf, tokenizer = _open(name, tokenizer, dtype=exact, local=local)
    else:
        raise ModelError(
            "name_or_path_or_hf must be a name, a folder or a Hugging Face model, "
            f"not {type(name_or_path_or_hf).__name__}."
        )
    tokenizer = check_tokenizer(tokenizer, name=name)
    architecture = architecture_of(hf.config, name=name)
    if not isinstance(hf, architecture.hf_class):
        raise ModelError(f"{name}: expected a {architecture.hf_class.__name__}, not a {type(hf).__name__}.")
    model = hooked_from_hf(hf, architecture, name=name, device=target, dtype=exact)
    _require_finite(model, name)
    if check_parity:
        require_parity(model, hf, name=name)
    if dtype != exact:
        model.to(dtype, print_details=False)
        _require_finite(model, f"{name} in {dtype}")
    _attach_tokenizer(model, tokenizer, name)
    setattr(model, UNPROCESSED, True)
    return model


def list_models() -> list[ModelInfo]:
    """The embedded models, by name; reads their files' headers only.

    Example:
        >>> [info.name for info in list_models()]  # doctest: +SKIP
        ['organism-m']
    """
    return [_info(organisms.folder(name)) for name in organisms.names()]


def export_hf(model: HookedTransformer, folder: str | os.PathLike[str]) -> Path:
    """Write a folder that plain ``transformers`` loads: weights as they are now, active edits included.

    The folder appears whole or not at all; one that already holds files is refused.

    Raises:
        ModelError: the weights were processed or are not finite, or the architecture has no export.
        FileError: the folder is not empty or cannot be written.

    Example:
        >>> export_hf(model, "edited")  # doctest: +SKIP
        PosixPath('edited')
    """
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
        rows[kind].export(model).save_pretrained(part)
        model.tokenizer.save_pretrained(part)
    return target


def parameter(model: HookedModel, name: str) -> Tensor:
    """The live parameter to write into under ``torch.no_grad()`` (``model.W_out`` is a stacked copy).

    Raises:
        ModelError: the model has no parameter of this name.

    Example:
        >>> parameter(model, "blocks.4.mlp.W_out").shape  # doctest: +SKIP
        torch.Size([768, 192])
    """
    found = dict(model.named_parameters())
    if name not in found:
        suffix = name.rpartition(".")[2]
        alike = [known for known in found if known.endswith(f".{suffix}")] or list(found)
        raise ModelError(
            f"model has no parameter {name!r}; it has for example {alike[0]!r} ({len(found)} in all)."
        )
    return found[name]


def require_editable(model: HookedModel) -> None:
    """Make sure that the model's weights are as trained and finite.

    Raises:
        ModelError: LayerNorm was folded, weights were centred, or some are NaN or infinite.
    """
    kind = str(model.cfg.normalization_type)
    reason = f"LayerNorm is folded into them (normalization_type {kind!r})" if kind.endswith("Pre") else None
    weights = dict(model.named_parameters())
    # In 16 bits plain weights can look centred: there the loader's mark decides.
    exact = torch.finfo(weights["unembed.W_U"].dtype).bits >= 32 if "unembed.W_U" in weights else False
    if reason is None and (exact or not getattr(model, UNPROCESSED, False)):
        centred = [name for name in ("blocks.0.mlp.W_out", "unembed.W_U") if _rows_centred(weights.get(name))]
        if centred:
            reason = f"the rows of {' and '.join(centred)} are centred"
    if reason is not None:
        raise ModelError(
            f"model has processed weights: {reason}, so an edit or export would not be of the trained model. "
            "Load it with mechstyle.load_model, or HookedTransformer.from_pretrained_no_processing."
        )
    _require_finite(model, "model")


def default_prepend_bos(model: HookedModel) -> bool:
    """Whether prompts of this model begin with its BOS token when nobody says otherwise."""
    return bool(model.cfg.default_prepend_bos)


def resolve_bos(model: HookedModel, prepend_bos: bool | None) -> bool:
    """The caller's choice, or the model's default for None.

    Raises:
        ModelError: a BOS token is wanted and the tokenizer has none.
    """
    wanted = default_prepend_bos(model) if prepend_bos is None else prepend_bos
    if wanted and model.tokenizer.bos_token_id is None:
        raise ModelError(
            "prepend_bos=True, but the model's tokenizer has no BOS token. Pass prepend_bos=False."
        )
    return wanted


def _open(
    name: str, tokenizer: PreTrainedTokenizerBase | None, *, dtype: torch.dtype, local: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    embedded = organisms.names()
    folder = organisms.folder(name) if name in embedded else Path(name).expanduser()
    if local and not folder.is_dir():
        raise FileError(f"model folder '{folder}' does not exist. Check the path.")
    if folder.is_dir():
        return from_folder(folder, tokenizer, dtype=dtype)
    return from_hub(name, tokenizer, dtype=dtype, known=", ".join(embedded) or "none")


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


def _attach_tokenizer(model: HookedTransformer, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Set it directly: ``model.set_tokenizer`` would fetch another copy by name and add BOS tokens."""
    largest = max(tokenizer.get_vocab().values())
    if largest >= model.cfg.d_vocab:
        raise ModelError(
            f"{name}: the tokenizer has token ids up to {largest}, but the model embeds only "
            f"{model.cfg.d_vocab} tokens. Pass the tokenizer that belongs to this model."
        )
    own = copy.deepcopy(tokenizer)
    if own.pad_token is None:
        own.pad_token = own.eos_token
    model.tokenizer = own
    model.cfg.tokenizer_prepends_bos = len(own.encode("")) > 0


def _require_finite(model: HookedModel, name: str) -> None:
    broken = [key for key, weight in model.named_parameters() if not torch.isfinite(weight).all()]
    if broken:
        raise ModelError(
            f"{name} holds NaN or infinite numbers in {len(broken)} weights, first {broken[0]!r}."
        )


def _rows_centred(weight: Tensor | None) -> bool:
    """Whether every row adds up to zero, up to rounding of this number format."""
    if weight is None:
        return False
    values = weight.detach().double()
    scale = values.abs().max().item() * math.sqrt(values.shape[-1]) * torch.finfo(weight.dtype).eps
    return bool((values.mean(-1).abs().max() <= 4 * scale).item()) and bool(values.any())


def _info(folder: Path) -> ModelInfo:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    card = folder / "MODEL_CARD.md"
    lines = card.read_text(encoding="utf-8").splitlines() if card.is_file() else []
    n_params = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            n_params += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    return ModelInfo(
        name=folder.name,
        folder=folder,
        n_layers=config["n_layer"],
        d_model=config["n_embd"],
        n_params=n_params,
        description=next((line for line in lines if line.strip() and not line.startswith("#")), ""),
    )
