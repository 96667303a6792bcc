"""Weights: where a parameter lives, whether it may be edited; and whether prompts begin with BOS."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor

from mechstyle.bridge import is_bridge, processing_of_bridge, require_own_memory, require_readable
from mechstyle.errors import InputError, ModelError
from mechstyle.identity import HookedModel, named_weights

__all__ = [
    "default_prepend_bos",
    "parameter",
    "parameter_value",
    "require_editable",
    "require_finite",
    "resolve_bos",
]

CENTRED: Final = 1e-4
"""Row means below this share of the weights' size are not chance: trained rows have 1e-3 and more."""

ROWS: Final = 256
"""Rows that are looked at together, so that no copy of a whole matrix is needed."""


def parameter(model: HookedModel, name: str) -> Tensor:
    """The live parameter to write into under ``torch.no_grad()`` (``model.W_out`` is a stacked copy).

    Names and shapes are those of a ``HookedTransformer``; on a ``TransformerBridge`` it is a view of the
    Hugging Face weight. To read a value only, ``parameter_value`` is enough.

    Raises:
        ModelError: the model has no parameter of this name, or writing into it would not edit the model, or
            would edit more than this parameter.

    Example:
        >>> parameter(model, "blocks.4.mlp.W_out").shape  # doctest: +SKIP
        torch.Size([768, 192])
    """
    if is_bridge(model):
        require_readable(model, "edit")
        weights = named_weights(model)
        _require_name(name, weights)
        require_own_memory(model, name, weights)
        return weights[name]
    found = dict(model.named_parameters())
    _require_name(name, found)
    return found[name]


def parameter_value(model: HookedModel, name: str) -> Tensor:
    """The values of a parameter, to read; on a bridge also tied ones, and zeros that it does not store.

    Raises:
        ModelError: the model has no parameter of this name.

    Example:
        >>> parameter_value(model, "embed.W_E").std()  # doctest: +SKIP
        tensor(0.14)
    """
    if is_bridge(model):
        require_readable(model, "read")
    weights = named_weights(model)
    _require_name(name, weights)
    return weights[name]


def require_editable(model: HookedModel) -> None:
    """Make sure that the model's weights are as trained and finite.

    Raises:
        ModelError: LayerNorm was folded, weights were centred, some are NaN or infinite, or it is a bridge
            whose weights cannot be found.
    """
    if is_bridge(model):
        require_readable(model, "edit")
    reason = _processing(model)
    if reason is not None:
        raise ModelError(
            f"model has processed weights: {reason}, so an edit or export would not be of the trained model. "
            "Load it with mechstyle.load_model, HookedTransformer.from_pretrained_no_processing, or "
            "TransformerBridge.boot_transformers without compatibility mode."
        )
    require_finite(model, "model")


def default_prepend_bos(model: HookedModel) -> bool:
    """Whether prompts of this model begin with its BOS token when nobody says otherwise.

    ``load_model`` goes by the tokenizer: True where it begins every text with BOS. A ``TransformerBridge``
    keeps its own default, which is True for most models: say ``prepend_bos=`` to compare both.
    """
    return bool(model.cfg.default_prepend_bos)


def resolve_bos(model: HookedModel, prepend_bos: bool | None) -> bool:
    """The caller's choice, or the model's default for None.

    Raises:
        InputError: ``prepend_bos`` is none of True, False, None.
        ModelError: a BOS token is wanted and the tokenizer has none.
    """
    if prepend_bos is not None and not isinstance(prepend_bos, bool):
        raise InputError(f"prepend_bos: expected True, False or None, got {prepend_bos!r}.")
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
    broken = [
        key
        for key, weight in named_weights(model).items()
        if not all(bool(torch.isfinite(rows).all()) for rows in weight.split(ROWS))
    ]
    if broken:
        raise ModelError(
            f"{name} holds NaN or infinite numbers in {len(broken)} weights, first {broken[0]!r}."
        )


def _require_name(name: str, known: Iterable[str]) -> None:
    names = list(known)
    if name not in names:
        suffix = name.rpartition(".")[2]
        alike = [one for one in names if one.endswith(f".{suffix}")] or names
        raise ModelError(
            f"model has no parameter {name!r}; it has for example {alike[0]!r} ({len(names)} in all)."
        )


def _processing(model: HookedModel) -> str | None:
    """How the weights were processed, as far as it changes what an edit or an export means."""
    if is_bridge(model) and (reason := processing_of_bridge(model)) is not None:
        return reason
    kind = str(model.cfg.normalization_type)
    if kind.endswith("Pre"):
        return f"LayerNorm is folded into them (normalization_type {kind!r})"
    weights = named_weights(model)
    centred = [name for name in ("blocks.0.mlp.W_out", "unembed.W_U") if _rows_centred(weights.get(name))]
    return f"the rows of {' and '.join(centred)} are centred" if centred else None


def _rows_centred(weight: Tensor | None) -> bool:
    """Whether every row adds up to zero, up to the rounding of centred rows to this number format.

    Rounding leaves means of about 0.08 eps of the weights' size, whatever the length of a row.
    """
    if weight is None:
        return False
    squares, means = 0.0, 0.0
    for rows in weight.split(ROWS):
        exact = rows.double()
        squares += float(exact.square().sum())
        means += float(exact.mean(-1).square().sum())
    size, mean = math.sqrt(squares / weight.numel()), math.sqrt(means / len(weight))
    return size > 0 and mean <= max(CENTRED, torch.finfo(weight.dtype).eps / 8) * size
