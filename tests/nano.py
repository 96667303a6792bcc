"""A trained model that nobody here made, and the activations that were shipped with it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformer_lens import HookedTransformer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from mechstyle.models import load_model

__all__ = ["NANO_STATES", "nano_model", "nano_partials"]

NANO = Path(__file__).parent / "data" / "gpt-nano-sort"
NANO_STATES: Final = {
    "x": "blocks.0.hook_resid_pre",
    "q": "blocks.0.attn.hook_q",
    "k": "blocks.0.attn.hook_k",
    "v": "blocks.0.attn.hook_v",
    "attSm": "blocks.0.attn.hook_pattern",
    "yProj": "blocks.0.hook_attn_out",
    "attnResid": "blocks.0.hook_resid_mid",
    "gelu": "blocks.0.mlp.hook_post",
    "mlp": "blocks.0.hook_mlp_out",
    "block0": "blocks.0.hook_resid_post",
    "block1": "blocks.1.hook_resid_post",
    "block2": "blocks.2.hook_resid_post",
}
"""Name of a shipped activation -> hook."""


def nano_model() -> HookedTransformer:
    """A model of three layers that sorts six letters: minGPT's weights in GPT-2's names.

    minGPT's Linear weights are the transposes of GPT-2's Conv1D.
    """
    weights = _arrays("gpt-nano-sort-model.json")
    state = {}
    for name, weight in weights.items():
        key = name[name.index("transformer.") :] if "transformer." in name else "lm_head.weight"
        if not key.endswith(".attn.bias"):
            linear = key.endswith(".weight") and (".attn." in key or ".mlp." in key)
            state[key] = weight.T.contiguous() if linear else weight
    config = GPT2Config(
        vocab_size=3, n_positions=11, n_embd=48, n_layer=3, n_head=3, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        hf = GPT2LMHeadModel(config).eval()
    hf.load_state_dict(state)
    tokenizer = Tokenizer(models.WordLevel({"A": 0, "B": 1, "C": 2}, unk_token="A"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return load_model(hf, tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer))


def nano_partials() -> dict[str, Tensor]:
    """What the model computed for three inputs, by name; `idx` are the inputs."""
    return {key.rpartition(".")[2]: value for key, value in _arrays("gpt-nano-sort-t0-partials.json").items()}


def _arrays(name: str) -> dict[str, Any]:
    data = json.loads((NANO / name).read_text())
    arrays: dict[str, Any] = {}
    todo = [("", data)]
    while todo:
        prefix, node = todo.pop()
        for key, value in node.items():
            if isinstance(value, dict) and "data" in value and "shape" in value:
                flat = torch.frombuffer(bytearray(base64.b64decode(value["data"])), dtype=torch.float32)
                arrays[prefix + key] = flat.reshape(value["shape"]).clone()
            elif isinstance(value, dict):
                todo.append((f"{prefix}{key}.", value))
    return arrays
