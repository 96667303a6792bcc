"""Hugging Face configs as arguments of ``HookedTransformerConfig``; what means something else is refused."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, Final

from mechstyle.errors import ModelError

__all__ = [
    "LLAMA3",
    "gpt2_config",
    "gptj_config",
    "llama_config",
    "mistral_config",
    "neox_config",
    "phi_config",
    "qwen2_config",
]

ACTIVATIONS: Final = ("gelu", "gelu_fast", "gelu_new", "gelu_pytorch_tanh", "relu", "relu2", "silu")
"""Those that both libraries compute alike under the same name."""

LLAMA3: Final = MappingProxyType(
    {
        "NTK_by_parts_factor": "factor",
        "NTK_by_parts_low_freq_factor": "low_freq_factor",
        "NTK_by_parts_high_freq_factor": "high_freq_factor",
        "NTK_original_ctx_len": "original_max_position_embeddings",
    }
)
"""How Llama 3.1 stretches its positions, in TransformerLens' and in Hugging Face's words."""


def gpt2_config(config: Any) -> dict[str, Any]:
    """GPT-2: learned positions, attention scaled as the config says."""
    if config.add_cross_attention:
        raise ModelError("add_cross_attention=true is not supported: only decoders without an encoder are.")
    return {
        **_sizes(config, activation="activation_function"),
        "d_mlp": config.n_inner if config.n_inner is not None else 4 * config.n_embd,
        "eps": config.layer_norm_epsilon,
        "normalization_type": "LN",
        "use_attn_scale": config.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": config.scale_attn_by_inverse_layer_idx,
    }


def gptj_config(config: Any) -> dict[str, Any]:
    """GPT-J: rotary positions on adjacent pairs, attention and MLP read the same norm."""
    if not config.rotary_dim:
        raise ModelError(f"rotary_dim must be a number above 0, not {config.rotary_dim!r}.")
    return {
        **_sizes(config, activation="activation_function"),
        **_rotary(config.rotary_dim, 10000, adjacent=True),
        "d_mlp": config.n_inner if config.n_inner is not None else 4 * config.n_embd,
        "eps": config.layer_norm_epsilon,
        "normalization_type": "LN",
        "parallel_attn_mlp": True,
    }


def neox_config(config: Any) -> dict[str, Any]:
    """GPT-NeoX and Pythia: rotary positions on a part of each head, one or two residual steps."""
    sizes = _sizes(config, activation="hidden_act")
    return {
        **sizes,
        **_rope(config, sizes["d_head"], partial=True),
        "d_mlp": config.intermediate_size,
        "eps": config.layer_norm_eps,
        "normalization_type": "LN",
        "parallel_attn_mlp": config.use_parallel_residual,
    }


def phi_config(config: Any) -> dict[str, Any]:
    """Phi-1 and Phi-2: as GPT-J, with rotary positions as GPT-NeoX and biases throughout."""
    if config.qk_layernorm:
        raise ModelError("qk_layernorm=true is not supported: TransformerLens has no such norm for Phi.")
    sizes = _sizes(config, activation="hidden_act", own_heads=True)
    return {
        **sizes,
        **_rope(config, sizes["d_head"], partial=True),
        "d_mlp": config.intermediate_size,
        "eps": config.layer_norm_eps,
        "normalization_type": "LN",
        "parallel_attn_mlp": True,
        "n_key_value_heads": _grouped(config),
    }


def llama_config(config: Any) -> dict[str, Any]:
    """Llama: RMS norm, gated MLP, grouped queries or not; with or without biases in the attention."""
    if config.mlp_bias:
        raise ModelError("mlp_bias=true is not supported: TransformerLens has no bias before the gate.")
    return _gated_config(config, [None] * config.num_hidden_layers)


def mistral_config(config: Any) -> dict[str, Any]:
    """Mistral: as Llama, with a window on every layer if the config has one."""
    return _gated_config(config, [config.sliding_window] * config.num_hidden_layers)


def qwen2_config(config: Any) -> dict[str, Any]:
    """Qwen2: as Llama with biases on queries, keys and values, and a window on some layers if asked."""
    local = [kind == "sliding_attention" for kind in config.layer_types]
    return _gated_config(config, [config.sliding_window if here else None for here in local])


def _gated_config(config: Any, windows: Sequence[int | None]) -> dict[str, Any]:
    sizes = _sizes(config, activation="hidden_act", own_heads=True)
    arguments = {
        **sizes,
        **_rope(config, sizes["d_head"], partial=False),
        "d_mlp": config.intermediate_size,
        "eps": config.rms_norm_eps,
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
        "n_key_value_heads": _grouped(config),
    }
    widths = {window for window in windows if window is not None}
    if widths:
        kinds = ["global" if window is None else "local" for window in windows]
        arguments |= {"use_local_attn": True, "window_size": min(widths), "attn_types": kinds}
    return arguments


def _sizes(config: Any, *, activation: str, own_heads: bool = False) -> dict[str, Any]:
    """What every architecture has.

    Args:
        activation: the field that names the activation function.
        own_heads: a field ``head_dim`` may say how wide a head is.
    """
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(
            "quantization_config is not supported: weights must be plain numbers. Load the unquantized model."
        )
    found = getattr(config, activation)
    if found not in ACTIVATIONS:
        raise ModelError(f"{activation} {found!r} is not supported; supported are {', '.join(ACTIVATIONS)}.")
    width, heads = config.hidden_size, config.num_attention_heads
    d_head = getattr(config, "head_dim", None) if own_heads else None
    if d_head is None and width % heads:
        raise ModelError(f"hidden_size must be a multiple of num_attention_heads; {width} and {heads} came.")
    return {
        "d_model": width,
        "n_heads": heads,
        "d_head": width // heads if d_head is None else d_head,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "d_vocab": config.vocab_size,
        "act_fn": found,
    }


def _grouped(config: Any) -> int | None:
    """The number of key and value heads where it is not that of the queries."""
    kv: int = config.num_key_value_heads
    return None if kv == config.num_attention_heads else kv


def _rope(config: Any, d_head: int, *, partial: bool) -> dict[str, Any]:
    rope = config.rope_parameters or {}
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "llama3") or "rope_theta" not in rope:
        raise ModelError(
            f"rope_parameters {rope!r} are not supported: rope_type must be 'default' or 'llama3' (other "
            "ways to stretch positions differ in TransformerLens), with one rope_theta."
        )
    share = rope.get("partial_rotary_factor", 1.0)
    if share != 1.0 and not partial:
        raise ModelError(f"partial_rotary_factor must be 1 for {config.model_type} models; {share} came.")
    arguments = _rotary(int(d_head * share), rope["rope_theta"], adjacent=False)
    if kind == "llama3":
        arguments |= {"use_NTK_by_parts_rope": True} | {ours: rope[theirs] for ours, theirs in LLAMA3.items()}
    return arguments


def _rotary(width: int, base: float, *, adjacent: bool) -> dict[str, Any]:
    if width < 2 or width % 2:
        raise ModelError(f"rotary positions need an even number of dimensions of each head; {width} came.")
    return {
        "positional_embedding_type": "rotary",
        "rotary_dim": width,
        "rotary_base": base,
        "rotary_adjacent_pairs": adjacent,
    }
