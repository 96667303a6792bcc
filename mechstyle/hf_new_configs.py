"""New Hugging Face configs for export: what a hooked config says, in the words of each architecture."""

from __future__ import annotations

import math
from typing import Any

from transformers import (
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    PretrainedConfig,
    Qwen2Config,
)

from mechstyle.hf_configs import LLAMA3

__all__ = [
    "gpt2_hf_config",
    "gptj_hf_config",
    "llama_hf_config",
    "mistral_hf_config",
    "neox_hf_config",
    "phi_hf_config",
    "qwen2_hf_config",
]


def gpt2_hf_config(cfg: Any) -> PretrainedConfig:
    """The config of a GPT-2 of this shape."""
    return GPT2Config(
        **_conv_sizes(cfg),
        activation_function=cfg.act_fn,
        layer_norm_epsilon=cfg.eps,
        scale_attn_weights=cfg.use_attn_scale,
        scale_attn_by_inverse_layer_idx=cfg.scale_attn_by_inverse_layer_idx,
    )


def gptj_hf_config(cfg: Any) -> PretrainedConfig:
    """The config of a GPT-J of this shape."""
    return GPTJConfig(
        **_conv_sizes(cfg),
        rotary_dim=cfg.rotary_dim,
        activation_function=cfg.act_fn,
        layer_norm_epsilon=cfg.eps,
    )


def neox_hf_config(cfg: Any) -> PretrainedConfig:
    """The config of a GPT-NeoX of this shape."""
    return GPTNeoXConfig(
        **_linear_sizes(cfg),
        layer_norm_eps=cfg.eps,
        use_parallel_residual=cfg.parallel_attn_mlp,
        rope_parameters=_rope_parameters(cfg, partial=True),
    )


def phi_hf_config(cfg: Any) -> PretrainedConfig:
    """The config of a Phi of this shape."""
    return PhiConfig(
        **_linear_sizes(cfg),
        **_own_heads(cfg),
        num_key_value_heads=cfg.n_key_value_heads or cfg.n_heads,
        layer_norm_eps=cfg.eps,
        rope_parameters=_rope_parameters(cfg, partial=True),
    )


def llama_hf_config(cfg: Any) -> PretrainedConfig:
    """The config of a Llama of this shape."""
    return LlamaConfig(**_gated_sizes(cfg), head_dim=cfg.d_head)


def mistral_hf_config(cfg: Any) -> PretrainedConfig:
    """The config of a Mistral of this shape."""
    window = cfg.window_size if cfg.use_local_attn else None
    return MistralConfig(**_gated_sizes(cfg), head_dim=cfg.d_head, sliding_window=window)


def qwen2_hf_config(cfg: Any) -> PretrainedConfig:
    """The config of a Qwen2 of this shape."""
    kinds = cfg.attn_types if cfg.use_local_attn else ["global"] * cfg.n_layers
    return Qwen2Config(
        **_gated_sizes(cfg),
        **_own_heads(cfg),
        use_sliding_window=cfg.use_local_attn,
        sliding_window=cfg.window_size,
        layer_types=["sliding_attention" if kind == "local" else "full_attention" for kind in kinds],
    )


def _own_heads(cfg: Any) -> dict[str, Any]:
    """The width of a head, where the config's other fields do not give it."""
    return {} if cfg.d_head * cfg.n_heads == cfg.d_model else {"head_dim": cfg.d_head}


def _conv_sizes(cfg: Any) -> dict[str, Any]:
    return {
        "vocab_size": cfg.d_vocab,
        "n_positions": cfg.n_ctx,
        "n_embd": cfg.d_model,
        "n_layer": cfg.n_layers,
        "n_head": cfg.n_heads,
        "n_inner": None if cfg.d_mlp == 4 * cfg.d_model else cfg.d_mlp,
    }


def _linear_sizes(cfg: Any) -> dict[str, Any]:
    return {
        "vocab_size": cfg.d_vocab,
        "max_position_embeddings": cfg.n_ctx,
        "hidden_size": cfg.d_model,
        "num_hidden_layers": cfg.n_layers,
        "num_attention_heads": cfg.n_heads,
        "intermediate_size": cfg.d_mlp,
        "hidden_act": cfg.act_fn,
    }


def _gated_sizes(cfg: Any) -> dict[str, Any]:
    return {
        **_linear_sizes(cfg),
        "num_key_value_heads": cfg.n_key_value_heads or cfg.n_heads,
        "rms_norm_eps": cfg.eps,
        "rope_parameters": _rope_parameters(cfg, partial=False),
    }


def _rope_parameters(cfg: Any, *, partial: bool) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": float(cfg.rotary_base)}
    if cfg.use_NTK_by_parts_rope:
        rope |= {"rope_type": "llama3"} | {theirs: getattr(cfg, ours) for ours, theirs in LLAMA3.items()}
    if partial:
        factor = cfg.rotary_dim / cfg.d_head
        exact = int(cfg.d_head * factor) == cfg.rotary_dim
        rope["partial_rotary_factor"] = factor if exact else math.nextafter(factor, 2.0)
    return rope
