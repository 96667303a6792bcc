"""Which model is this: fingerprint and provenance, and the protocol that the library asks of a model."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from types import MappingProxyType
from typing import Any, Final, Protocol, runtime_checkable

import torch
from torch import Tensor

from mechstyle import __version__
from mechstyle.bridge import bridge_config, bridge_weights, is_bridge
from mechstyle.errors import ModelError
from mechstyle.plain_json import Json

__all__ = [
    "HookedModel",
    "Json",
    "active_base",
    "edited_weights",
    "fingerprint",
    "named_weights",
    "provenance",
    "require_hooked",
]

ACTIVE_BASE: Final = "mechstyle_active_base"
"""Attribute of a model: the weights that active edits cover."""
ARCHITECTURE_FIELDS: Final = (
    "act_fn attn_only attn_scale d_head d_mlp d_model d_vocab eps final_rms gated_mlp n_ctx n_heads "
    "n_key_value_heads n_layers normalization_type parallel_attn_mlp positional_embedding_type "
    "rotary_adjacent_pairs rotary_base rotary_dim scale_attn_by_inverse_layer_idx use_attn_scale "
    "use_local_attn window_size"
).split()

SWITCHED_FIELDS: Final = MappingProxyType(
    {
        "use_local_attn": ("attn_types",),
        "use_NTK_by_parts_rope": (
            "NTK_by_parts_factor",
            "NTK_by_parts_high_freq_factor",
            "NTK_by_parts_low_freq_factor",
            "NTK_original_ctx_len",
        ),
    }
)
"""Further fields that count where a switch is on."""
LAST_FINGERPRINT: Final = "mechstyle_last_fingerprint"
"""Attribute of a model: its fingerprint, and what it was then."""


@runtime_checkable
class HookedModel(Protocol):
    """What the rest of the library asks of a model; both backends of TransformerLens have it.

    They are ``HookedTransformer`` (as from ``load_model``) and ``TransformerBridge``, whose parameters have
    other names (see ``named_weights``) and whose runs take whole sequences.
    """

    cfg: Any
    tokenizer: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Logits, or what ``return_type`` asks."""
        ...

    def run_with_hooks(self, *args: Any, **kwargs: Any) -> Any:
        """One forward pass with hooks."""
        ...

    def hooks(self, *args: Any, **kwargs: Any) -> AbstractContextManager[Any]:
        """Hooks for the length of a block."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Live parameters by name."""
        ...


def require_hooked(model: object) -> None:
    """Make sure that a model is one of TransformerLens', as it is.

    Raises:
        ModelError: it is something else, or wrapped by ``torch.compile``.
    """
    if hasattr(model, "_orig_mod"):
        raise ModelError("model: expected the model itself, got the wrapper of torch.compile.")
    if not isinstance(model, HookedModel):
        raise ModelError(
            "model: expected a HookedTransformer or TransformerBridge, "
            f"got {type(model).__name__}; mechstyle.load_model makes one of a name, folder or loaded model."
        )


def fingerprint(model: HookedModel) -> str:
    """SHA-256 (hex) of architecture, tokenizer and weights rounded to bfloat16, as without active edits.

    Equal for a model, its copy cast to bfloat16, its export and a ``TransformerBridge`` of the checkpoint.
    A bridge that ``load_model`` could not read has one of its own parameters.

    The hash is taken anew when the model changed since the last call. Every row of every weight is looked at
    for that, through one number: its product with a fixed vector, in float32 at least, so that a change below
    the rounding of that goes unnoticed.

    Example:
        >>> fingerprint(model)[:8]  # doctest: +SKIP
        '3f1c09ab'
    """
    cfg = bridge_config(model) if is_bridge(model) else model.cfg
    config = {field: getattr(cfg, field, None) for field in ARCHITECTURE_FIELDS}
    for switch, fields in SWITCHED_FIELDS.items():
        if getattr(cfg, switch, False):
            config |= {field: getattr(cfg, field, None) for field in (switch, *fields)}
    weights = dict(sorted((named_weights(model) | active_base(model)).items()))
    found = _Marks(
        config, model.tokenizer, _special(model.tokenizer), {n: _mark(w) for n, w in weights.items()}
    )
    last: tuple[_Marks, str] | None = getattr(model, LAST_FINGERPRINT, None)
    if last is None or not found.equal(last[0]):
        last = found, _hash(config, model.tokenizer, weights)
        setattr(model, LAST_FINGERPRINT, last)
    return last[1]


@dataclass(frozen=True, eq=False)
class _Marks:
    """What tells, at little cost, whether a model is the one that was hashed."""

    config: dict[str, Any]
    tokenizer: Any
    special: Json
    weights: dict[str, Tensor]

    def equal(self, other: _Marks) -> bool:
        return (
            self.config == other.config
            and self.tokenizer is other.tokenizer
            and self.special == other.special
            and self.weights.keys() == other.weights.keys()
            and all(
                mark.shape == other.weights[name].shape
                and mark.dtype == other.weights[name].dtype
                and mark.device == other.weights[name].device
                and torch.equal(mark, other.weights[name])
                for name, mark in self.weights.items()
            )
        )


def _mark(weight: Tensor) -> Tensor:
    """One number a row: its product with a fixed vector; the whole of a vector."""
    values = weight.detach()
    values = values if values.dtype == torch.float64 else values.float()
    if values.ndim < 2:
        return values.clone()
    # Multiples of the golden ratio, without their integer parts: no two columns weigh the same.
    places = torch.arange(1, values.shape[-1] + 1, device=values.device, dtype=torch.float64)
    return values @ (places * 0.6180339887498949).frac().add(0.5).to(values.dtype)


def _hash(config: Mapping[str, Any], tokenizer: Any, weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    header = {"config": config, "tokenizer": _tokenizer_state(tokenizer)}
    digest.update(json.dumps(header, sort_keys=True, default=str).encode())
    for name, weight in weights.items():
        plain = weight.detach().to(device="cpu", dtype=torch.bfloat16).contiguous()
        digest.update(f"{name}:{tuple(plain.shape)}".encode())
        digest.update(plain.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def named_weights(model: HookedModel) -> dict[str, Tensor]:
    """All weights by the names of a ``HookedTransformer``, without gradients and without copies.

    They are for reading: on a bridge some count as zeros and tied ones share memory. ``parameter`` is for
    writing.

    Example:
        >>> named_weights(model)["blocks.4.mlp.W_out"].shape  # doctest: +SKIP
        torch.Size([768, 192])
    """
    if is_bridge(model):
        return bridge_weights(model)
    return {name: weight.detach() for name, weight in model.named_parameters()}


def active_base(model: HookedModel) -> dict[str, Tensor]:
    """Weights before any active edit, by parameter name; empty while no edit is active.

    It is the live dictionary on the model; only ``mechstyle.editing`` writes it.
    """
    base: dict[str, Tensor] | None = getattr(model, ACTIVE_BASE, None)
    if base is None:
        base = {}
        setattr(model, ACTIVE_BASE, base)
    return base


def edited_weights(model: HookedModel) -> dict[str, str]:
    """SHA-256 (hex) of every weight that active edits cover, as it is now; empty without active edits.

    Example:
        >>> edited_weights(model)  # doctest: +SKIP
        {}
    """
    weights = named_weights(model)
    return {
        name: hashlib.sha256(weights[name].detach().cpu().double().contiguous().numpy().tobytes()).hexdigest()
        for name in sorted(active_base(model))
    }


def provenance(model: HookedModel, **settings: Json) -> dict[str, Json]:
    """Where a result comes from, ready for JSON: fingerprint, number format, versions, settings given.

    Example:
        >>> provenance(model, seed=0)["settings"]  # doctest: +SKIP
        {'seed': 0}
    """
    weight = next(iter(model.named_parameters()))[1]
    return {
        "model": str(model.cfg.model_name),
        "fingerprint": fingerprint(model),
        "dtype": str(weight.dtype).removeprefix("torch."),
        "device": str(weight.device),
        "versions": dict(_versions()),
        "settings": settings,
    }


@cache
def _versions() -> Mapping[str, str]:
    own = {"mechstyle": __version__, "python": platform.python_version()}
    others = {name: version(name) for name in ("torch", "transformer-lens", "transformers")}
    return MappingProxyType(own | others)


def _special(tokenizer: Any) -> Json:
    if tokenizer is None:
        return None
    return [len(tokenizer), tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token]


def _tokenizer_state(tokenizer: Any) -> Json:
    """What decides ids: vocabulary, merges and special tokens; not names, paths or padding."""
    if tokenizer is None:
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    merges = [] if backend is None else json.loads(backend.to_str())["model"].get("merges", [])
    return {
        "vocabulary": sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]),
        "merges": [merge if isinstance(merge, str) else " ".join(merge) for merge in merges],
        "special": [tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token],
    }
