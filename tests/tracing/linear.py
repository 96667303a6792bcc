"""Transformers in which a logit is linear in every state: attention patterns are fixed, MLPs have no bend."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import PreTrainedTokenizerFast

__all__ = ["linear_model", "without_softmax"]


def linear_model(
    tokenizer: PreTrainedTokenizerFast,
    *,
    n_layers: int = 4,
    grouped: bool = False,
    parallel: bool = False,
    rotary: bool = False,
    looking: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> HookedTransformer:
    """Random weights without a norm; queries are zero, so that attention is the mean; MLPs have no bend.

    Args:
        looking: a layer whose queries are not zero.
    """
    config = HookedTransformerConfig(
        n_layers=n_layers,
        d_model=16,
        d_head=4,
        n_heads=4,
        d_mlp=20,
        n_ctx=64,
        d_vocab=len(tokenizer),
        act_fn="relu",
        normalization_type=None,
        n_key_value_heads=2 if grouped else None,
        parallel_attn_mlp=parallel,
        positional_embedding_type="rotary" if rotary else "standard",
        rotary_dim=4 if rotary else None,
        default_prepend_bos=False,
        init_weights=False,
        dtype=dtype,
        device="cpu",
    )
    model = HookedTransformer(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            queries = name.endswith(("W_Q", "b_Q")) and not name.startswith(f"blocks.{looking}.")
            weight.copy_(torch.randn(weight.shape, generator=generator).to(weight) * (0 if queries else 0.3))
    for block in model.blocks:
        block.mlp.act_fn = nn.Identity()
    model.tokenizer = tokenizer
    model.cfg.tokenizer_prepends_bos = False
    return model


def without_softmax(model: HookedTransformer, layer: int) -> HookedTransformer:
    """The same, with a layer that attends by its scores as they are; its hooks stay on the model."""
    scores: list[Tensor] = []

    def keep(state: Tensor, hook: object) -> None:
        scores[:] = [state]

    def attend(state: Tensor, hook: object) -> Tensor:
        return scores.pop().clamp(min=-1e4).where(state > 0, 0) * 0.1

    model.add_hook(f"blocks.{layer}.attn.hook_attn_scores", keep)
    model.add_hook(f"blocks.{layer}.attn.hook_pattern", attend)
    return model
