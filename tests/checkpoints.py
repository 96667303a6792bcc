"""Small random Hugging Face models of every supported architecture, with no weight left at zero or one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

__all__ = ["KINDS", "random_hf"]

Kind = tuple[Callable[..., Any], Callable[..., PreTrainedModel], dict[str, Any]]

_GPT2_NAMES: Final = {"n_layer": 3, "n_embd": 32, "n_head": 4, "n_positions": 64}
_NAMES: Final = {
    "num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 80,
    "max_position_embeddings": 64,
}  # fmt: skip
_GROUPED: Final = {**_NAMES, "num_key_value_heads": 2}

_KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "gpt2": (GPT2Config, GPT2LMHeadModel, _GPT2_NAMES),
        "gptj": (GPTJConfig, GPTJForCausalLM, {**_GPT2_NAMES, "rotary_dim": 4}),
        "neox": (GPTNeoXConfig, GPTNeoXForCausalLM, _NAMES),
        "llama": (LlamaConfig, LlamaForCausalLM, _NAMES),
        "llama-gqa": (LlamaConfig, LlamaForCausalLM, _GROUPED),
        "mistral": (MistralConfig, MistralForCausalLM, {**_GROUPED, "sliding_window": None}),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM, _GROUPED),
        "phi": (PhiConfig, PhiForCausalLM, _NAMES),
    }
)
KINDS: Final = tuple(_KINDS)
"""Names of the architectures: ``llama-gqa``, ``mistral`` and ``qwen2`` have 2 key and value heads of 4."""


def random_hf(kind: str, vocab_size: int, *, seed: int = 0, **config: Any) -> PreTrainedModel:
    """A random model: 3 layers, d_model 32, 4 heads, 64 positions; biases and norms are random too.

    Args:
        kind: one of ``KINDS``.
        config: fields of the Hugging Face config that differ from the above.
    """
    config_class, model_class, fields = _KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ends = {"bos_token_id": 0, "eos_token_id": 0}
        model = model_class(config_class(vocab_size=vocab_size, **{**ends, **fields, **config})).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
    return model
