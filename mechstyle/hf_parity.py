"""Is the hooked model the trained one? Its logits against Hugging Face's, whole or through one layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mechstyle.errors import ModelError
from mechstyle.identity import HookedModel

__all__ = ["FULL_CHECK_BYTES", "evaluating", "require_parity"]

FULL_CHECK_BYTES: Final = 2**30
"""Models of at most this size in float32 are compared whole; larger ones through their first layer."""
EXACT_TOLERANCE: Final = 1e-4
PARITY_TOLERANCE: Final = MappingProxyType({torch.bfloat16: 5e-2, torch.float16: 1e-2})
"""Largest difference of logits, relative to the largest logit, where the number format is coarse."""


def require_parity(model: HookedModel, hf: PreTrainedModel, *, name: str) -> None:
    """Compare the logits of both models on fixed random tokens.

    Raises:
        ModelError: they differ by more than rounding does.
    """
    ids = _tokens(model)
    with torch.no_grad(), evaluating(hf):
        wanted = hf(input_ids=ids.to(hf.device), use_cache=False).logits.double().cpu()
        found = model(ids.to(model.cfg.device), return_type="logits").double().cpu()
    _require_close(found, wanted, {hf.dtype, _dtype(model)}, name)


def _tokens(model: HookedModel) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(model.cfg.d_vocab, (2, min(16, model.cfg.n_ctx)), generator=generator)


def _dtype(model: HookedModel) -> torch.dtype:
    return next(iter(model.named_parameters()))[1].dtype


def _require_close(found: Tensor, wanted: Tensor, formats: set[torch.dtype], name: str) -> None:
    scale = max(1.0, wanted.abs().max().item())
    difference = (found - wanted).abs().max().item() / scale
    tolerance = max(PARITY_TOLERANCE.get(item, EXACT_TOLERANCE) for item in formats)
    if not difference <= tolerance:
        raise ModelError(
            f"{name}: the hooked model's logits differ from Hugging Face's by {difference:.2g} of their "
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
