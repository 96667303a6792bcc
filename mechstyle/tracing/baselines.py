"""Embeddings that say nothing: where the paths of integrated gradients begin."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from mechstyle.errors import InputError, ModelError
from mechstyle.models import HookedModel
from mechstyle.weights import parameter_value

__all__ = ["Baseline", "baseline_embeddings", "baseline_name", "given_embeddings"]

Name = Literal["bos", "eos", "pad", "mean", "zero"]
Baseline = Name | Float[Tensor, "d_model"] | Float[Tensor, "token d_model"]
NAMES: tuple[str, ...] = get_args(Name)


def baseline_name(baseline: Baseline, number: int) -> str:
    """What a baseline is called in results: its name, or "given" with its number.

    Raises:
        InputError: it is neither a known name nor a tensor.

    Example:
        >>> baseline_name("mean", 0)
        'mean'
    """
    if isinstance(baseline, Tensor):
        return f"given {number}"
    if baseline not in NAMES:
        raise InputError(f"baseline: expected one of {', '.join(NAMES)}, or a tensor, got {baseline!r}.")
    return baseline


def baseline_embeddings(
    model: HookedModel, baseline: Baseline, like: Float[Tensor, "token d_model"]
) -> Float[Tensor, "token d_model"]:
    """The embeddings of a baseline for every token of a prompt.

    Args:
        baseline: the embedding of a special token at every place, the mean over the vocabulary, zeros, or
            explicit embeddings.
        like: the prompt's own embeddings: shape, dtype and device.

    Raises:
        InputError: explicit embeddings have another shape, or are not finite.
        ModelError: the tokenizer has no such special token.

    Example:
        >>> baseline_embeddings(model, "mean", embeddings).shape  # doctest: +SKIP
        torch.Size([7, 192])
    """
    if isinstance(baseline, Tensor):
        return given_embeddings("baseline", baseline, like)
    if baseline == "zero":
        return torch.zeros_like(like)
    table = parameter_value(model, "embed.W_E")
    if baseline == "mean":
        return table.mean(0, dtype=like.dtype).to(like).expand_as(like)
    token = getattr(model.tokenizer, f"{baseline}_token_id", None)
    if token is None:
        raise ModelError(
            f"baseline: the model's tokenizer has no {baseline.upper()} token. Choose 'mean' or 'zero', or "
            "give embeddings."
        )
    return table[int(token)].to(like).expand_as(like)


def given_embeddings(
    name: str, given: Tensor, like: Float[Tensor, "token d_model"]
) -> Float[Tensor, "token d_model"]:
    """Explicit embeddings, one for every token or one for all.

    Args:
        name: of the argument, for errors.

    Raises:
        InputError: they have another shape, or are not finite.
    """
    shapes = f"{list(like.shape)} (token, d_model) or {list(like.shape[1:])}"
    if not isinstance(given, Tensor) or given.shape not in (like.shape, like.shape[1:]):
        came = list(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise InputError(f"{name}: expected a finite tensor of shape {shapes}, got {came}.")
    if not bool(torch.isfinite(given).all()):
        raise InputError(f"{name}: expected a finite tensor of shape {shapes}, got one with NaN or infinity.")
    return given.detach().to(like).expand_as(like)
