"""Where a parameter lives, whether a model may be edited, and whether its prompts begin with BOS."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from mechstyle.errors import ModelError
from mechstyle.identity import HookedModel

__all__ = [
    "UNPROCESSED",
    "default_prepend_bos",
    "parameter",
    "require_editable",
    "require_finite",
    "resolve_bos",
]

UNPROCESSED: Final = "mechstyle_unprocessed"
"""Attribute of a model: its weights are as trained, because ``load_model`` made it."""


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
    require_finite(model, "model")


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


def require_finite(model: HookedModel, name: str) -> None:
    """Refuse a model with NaN or infinite weights.

    Raises:
        ModelError: it has some.
    """
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
