"""Is the hooked model the trained one? Its logits against Hugging Face's, whole or through one layer."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from mechstyle.errors import ModelError
from mechstyle.hf_source import quietly
from mechstyle.hf_tables import Architecture
from mechstyle.identity import HookedModel

__all__ = ["FULL_CHECK_BYTES", "evaluating", "require_layer_parity", "require_parity"]

FULL_CHECK_BYTES: Final = 2**30
"""Models of at most this size in float32 are compared whole; larger ones through their first layer."""
EXACT_TOLERANCE: Final = 1e-4
PARITY_TOLERANCE: Final = MappingProxyType({torch.bfloat16: 5e-2, torch.float16: 1e-2})
"""Largest difference of logits, relative to the largest logit, where the number format is coarse."""


LAYER_TOLERANCE: Final = MappingProxyType({torch.bfloat16: 3e-2, torch.float16: 5e-3})
"""The same through one layer, of root mean squares."""


def require_parity(model: HookedModel, hf: PreTrainedModel, *, name: str) -> None:
    """Compare the logits of both models on fixed random tokens.

    Raises:
        ModelError: they differ by more than rounding does.
    """
    ids = _tokens(model)
    with torch.no_grad(), evaluating(hf):
        wanted = hf(input_ids=ids.to(hf.device), use_cache=False).logits.double().cpu()
        found = model(ids.to(model.cfg.device), return_type="logits").double().cpu()
    difference = (found - wanted).abs().max().item() / max(1.0, wanted.abs().max().item())
    formats = (hf.dtype, _dtype(model))
    tolerance = max(PARITY_TOLERANCE.get(item, EXACT_TOLERANCE) for item in formats)
    _require(difference, tolerance, name, "the hooked model's logits")


def require_layer_parity(
    model: HookedModel,
    tensors: Mapping[str, Tensor],
    architecture: Architecture,
    config: PretrainedConfig,
    *,
    name: str,
) -> None:
    """Compare what embedding, first layer, last norm and unembedding give, in the model's number format.

    The Hugging Face side is a model of one layer and of the few tokens compared: the memory of one layer.

    Args:
        tensors: the checkpoint's, of which those of one layer are read.

    Raises:
        ModelError: they differ by more than rounding does.
    """
    ids, dtype = _tokens(model), _dtype(model)
    kept, few = ids.unique(return_inverse=True)
    hf = _one_layer(tensors, architecture, config, kept, dtype).to(model.cfg.device)
    with torch.no_grad():
        wanted = hf(input_ids=few.to(hf.device), use_cache=False).logits.double().cpu()
        del hf
        residual = model(ids.to(model.cfg.device), stop_at_layer=1)
        logits = model(residual, start_at_layer=model.cfg.n_layers, return_type="logits")
        found = logits[..., kept.to(logits.device)].double().cpu()
    difference = ((found - wanted).square().mean() / wanted.square().mean()).sqrt().item()
    tolerance = LAYER_TOLERANCE.get(dtype, EXACT_TOLERANCE)
    _require(difference, tolerance, name, "the logits after the hooked model's first layer")


def _one_layer(
    tensors: Mapping[str, Tensor],
    architecture: Architecture,
    config: PretrainedConfig,
    kept: Tensor,
    dtype: torch.dtype,
) -> PreTrainedModel:
    """The Hugging Face model cut down to its first layer and to the tokens ``kept``."""
    one: Any = copy.deepcopy(config)
    one.num_hidden_layers, one.vocab_size = 1, len(kept)
    one.pad_token_id = one.bos_token_id = one.eos_token_id = None
    if getattr(one, "layer_types", None):
        one.layer_types = one.layer_types[:1]
    state = {}
    for key, shape in architecture.shapes(one).items():
        tensor = tensors[key]
        state[key] = (tensor if tensor.shape == shape else tensor[kept.to(tensor.device)]).to(dtype)
    with quietly():
        loader: Any = architecture.hf_class
        hf: PreTrainedModel = loader.from_pretrained(None, config=one, state_dict=state, dtype=dtype)
    return hf


def _tokens(model: HookedModel) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(0)
    shape = (2, min(16, model.cfg.n_ctx))
    return torch.randint(model.cfg.d_vocab, shape, generator=generator, device="cpu")


def _dtype(model: HookedModel) -> torch.dtype:
    return next(iter(model.named_parameters()))[1].dtype


def _require(difference: float, tolerance: float, name: str, what: str) -> None:
    if not difference <= tolerance:
        raise ModelError(
            f"{name}: {what} differ from Hugging Face's by {difference:.2g} of their "
            f"scale (at most {tolerance:.0e} is rounding), so its config holds something not converted. "
            "Please report the config; check_parity=False loads it all the same."
        )


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Switch dropout off for a while, and put every submodule's mode back afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
