"""The table of architectures: one ``Architecture`` a row, config and weights in both directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import torch
from transformers import (
    GPT2LMHeadModel,
    GPTJForCausalLM,
    GPTNeoXForCausalLM,
    LlamaForCausalLM,
    MistralForCausalLM,
    PhiForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2ForCausalLM,
)

from mechstyle import hf_configs as configs
from mechstyle import hf_new_configs as new_configs
from mechstyle.hf_layouts import (
    BIAS_K,
    BIAS_Q,
    CONV_O,
    CONV_QKV,
    CONV_QKV_BIAS,
    HEADS_K,
    HEADS_O,
    HEADS_Q,
    INTERLEAVED_QKV,
    INTERLEAVED_QKV_BIAS,
    PLAIN,
    TRANSPOSED,
    Layout,
    Link,
)

__all__ = ["ARCHITECTURES", "Architecture"]


@dataclass(frozen=True)
class Architecture:
    """How one family of models is written in both libraries."""

    hf_class: type[PreTrainedModel]
    config: Callable[[Any], dict[str, Any]]
    """Hugging Face config -> arguments of ``HookedTransformerConfig``; refuses what it cannot say."""
    hf_config: Callable[[Any], PretrainedConfig]
    """Hooked config -> a new Hugging Face config; vocabulary ids, ties and flags are set by the exporter."""
    links: tuple[Link, ...]
    """Every tensor of a checkpoint and every parameter of the hooked model, once."""
    renamed: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Tensors that older files call by another name: name -> older name."""

    def shapes(self, config: PretrainedConfig) -> dict[str, torch.Size]:
        """The tensors of a checkpoint of this config, without making them; tied ones each by its own name."""
        with torch.device("meta"):
            empty: Any = self.hf_class(config)
        return {name: weight.shape for name, weight in empty.named_parameters(remove_duplicate=False)}

    def ties(self, config: PretrainedConfig) -> dict[str, str]:
        """Tensors that are one with another tensor under this config: name -> the other's name."""
        names = getattr(self.hf_class, "_tied_weights_keys", None) or {}
        return dict(names) if config.tie_word_embeddings else {}


def _in_layer(hf: str | None, *hooked: str, layout: Layout = PLAIN, flag: str | None = None) -> Link:
    """A link of each layer; hooked names are those within a block."""
    return Link(hf, tuple(f"blocks.{{layer}}.{name}" for name in hooked), layout, flag)


def _norm(hf: str, *hooked: str) -> tuple[Link, Link]:
    """Weight and bias of the LayerNorm ``hf``, which is one or more norms of the hooked block."""
    return (
        _in_layer(f"{hf}.weight", *(f"{name}.w" for name in hooked)),
        _in_layer(f"{hf}.bias", *(f"{name}.b" for name in hooked)),
    )


def _linear(hf: str, name: str, *, layout: Layout = TRANSPOSED) -> tuple[Link, Link]:
    """Weight and bias of a layer of the MLP, ``in`` or ``out``."""
    return (
        _in_layer(f"{hf}.weight", f"mlp.W_{name}", layout=layout),
        _in_layer(f"{hf}.bias", f"mlp.b_{name}"),
    )


def _ends(
    embed: str, norm: str, unembed: str, *, norm_bias: bool = True, bias: bool = False
) -> tuple[Link, ...]:
    """Embedding, last norm and unembedding, by the names of their modules; ``bias`` is the unembedding's."""
    return (
        Link(f"{embed}.weight", ("embed.W_E",)),
        Link(f"{norm}.weight", ("ln_final.w",)),
        *([Link(f"{norm}.bias", ("ln_final.b",))] if norm_bias else []),
        Link(f"{unembed}.weight", ("unembed.W_U",), TRANSPOSED),
        Link(f"{unembed}.bias" if bias else None, ("unembed.b_U",)),
    )


def _separate_heads(
    hf: str, out: str, *, biases: bool = False, out_bias: bool = False, flag: str | None = None
) -> tuple[Link, ...]:
    """Queries, keys, values and output, each a Linear of its own; ``flag`` switches all biases on."""
    kinds = (("q", "W_Q", HEADS_Q), ("k", "{kv}W_K", HEADS_K), ("v", "{kv}W_V", HEADS_K))
    weights = [
        _in_layer(f"{hf}.{kind}_proj.weight", f"attn.{name}", layout=lies) for kind, name, lies in kinds
    ]
    kinds = (("q", "b_Q", BIAS_Q), ("k", "{kv}b_K", BIAS_K), ("v", "{kv}b_V", BIAS_K))
    offsets = [
        _in_layer(f"{hf}.{kind}_proj.bias" if biases else None, f"attn.{name}", layout=lies, flag=flag)
        for kind, name, lies in kinds
    ]
    return (
        *weights,
        *offsets,
        _in_layer(f"{hf}.{out}.weight", "attn.W_O", layout=HEADS_O),
        _in_layer(f"{hf}.{out}.bias" if out_bias else None, "attn.b_O", flag=flag),
    )


def _rms_gated(*, biases: bool = False, out_bias: bool = False, flag: str | None = None) -> tuple[Link, ...]:
    """Llama and its kin: RMS norms, separate heads, a gated MLP without biases."""
    at = "model.layers.{layer}"
    return (
        *_ends("model.embed_tokens", "model.norm", "lm_head", norm_bias=False),
        _in_layer(f"{at}.input_layernorm.weight", "ln1.w"),
        *_separate_heads(f"{at}.self_attn", "o_proj", biases=biases, out_bias=out_bias, flag=flag),
        _in_layer(f"{at}.post_attention_layernorm.weight", "ln2.w"),
        _in_layer(f"{at}.mlp.gate_proj.weight", "mlp.W_gate", layout=TRANSPOSED),
        _in_layer(f"{at}.mlp.up_proj.weight", "mlp.W_in", layout=TRANSPOSED),
        _in_layer(f"{at}.mlp.down_proj.weight", "mlp.W_out", layout=TRANSPOSED),
        _in_layer(None, "mlp.b_in"),
        _in_layer(None, "mlp.b_out"),
    )


GPT2_LINKS: Final = (
    *_ends("transformer.wte", "transformer.ln_f", "lm_head"),
    Link("transformer.wpe.weight", ("pos_embed.W_pos",)),
    *_norm("transformer.h.{layer}.ln_1", "ln1"),
    _in_layer(
        "transformer.h.{layer}.attn.c_attn.weight", "attn.W_Q", "attn.W_K", "attn.W_V", layout=CONV_QKV
    ),
    _in_layer(
        "transformer.h.{layer}.attn.c_attn.bias", "attn.b_Q", "attn.b_K", "attn.b_V", layout=CONV_QKV_BIAS
    ),
    _in_layer("transformer.h.{layer}.attn.c_proj.weight", "attn.W_O", layout=CONV_O),
    _in_layer("transformer.h.{layer}.attn.c_proj.bias", "attn.b_O"),
    *_norm("transformer.h.{layer}.ln_2", "ln2"),
    *_linear("transformer.h.{layer}.mlp.c_fc", "in", layout=PLAIN),
    *_linear("transformer.h.{layer}.mlp.c_proj", "out", layout=PLAIN),
)

GPTJ_LINKS: Final = (
    *_ends("transformer.wte", "transformer.ln_f", "lm_head", bias=True),
    *_norm("transformer.h.{layer}.ln_1", "ln1", "ln2"),
    *_separate_heads("transformer.h.{layer}.attn", "out_proj"),
    *_linear("transformer.h.{layer}.mlp.fc_in", "in"),
    *_linear("transformer.h.{layer}.mlp.fc_out", "out"),
)

NEOX_LINKS: Final = (
    *_ends("gpt_neox.embed_in", "gpt_neox.final_layer_norm", "lm_head"),
    *_norm("gpt_neox.layers.{layer}.input_layernorm", "ln1"),
    _in_layer(
        "gpt_neox.layers.{layer}.attention.query_key_value.weight",
        "attn.W_Q", "attn.W_K", "attn.W_V",
        layout=INTERLEAVED_QKV,
    ),
    _in_layer(
        "gpt_neox.layers.{layer}.attention.query_key_value.bias",
        "attn.b_Q", "attn.b_K", "attn.b_V",
        layout=INTERLEAVED_QKV_BIAS,
        flag="attention_bias",
    ),
    _in_layer("gpt_neox.layers.{layer}.attention.dense.weight", "attn.W_O", layout=HEADS_O),
    _in_layer("gpt_neox.layers.{layer}.attention.dense.bias", "attn.b_O", flag="attention_bias"),
    *_norm("gpt_neox.layers.{layer}.post_attention_layernorm", "ln2"),
    *_linear("gpt_neox.layers.{layer}.mlp.dense_h_to_4h", "in"),
    *_linear("gpt_neox.layers.{layer}.mlp.dense_4h_to_h", "out"),
)  # fmt: skip

PHI_LINKS: Final = (
    *_ends("model.embed_tokens", "model.final_layernorm", "lm_head", bias=True),
    *_norm("model.layers.{layer}.input_layernorm", "ln1", "ln2"),
    *_separate_heads("model.layers.{layer}.self_attn", "dense", biases=True, out_bias=True),
    *_linear("model.layers.{layer}.mlp.fc1", "in"),
    *_linear("model.layers.{layer}.mlp.fc2", "out"),
)

ARCHITECTURES: Final[Mapping[str, Architecture]] = MappingProxyType(
    {
        "gpt2": Architecture(GPT2LMHeadModel, configs.gpt2_config, new_configs.gpt2_hf_config, GPT2_LINKS),
        "gptj": Architecture(GPTJForCausalLM, configs.gptj_config, new_configs.gptj_hf_config, GPTJ_LINKS),
        "gpt_neox": Architecture(
            GPTNeoXForCausalLM,
            configs.neox_config,
            new_configs.neox_hf_config,
            NEOX_LINKS,
            renamed=MappingProxyType({"lm_head.weight": "embed_out.weight"}),
        ),
        "llama": Architecture(
            LlamaForCausalLM,
            configs.llama_config,
            new_configs.llama_hf_config,
            _rms_gated(biases=True, out_bias=True, flag="attention_bias"),
        ),
        "mistral": Architecture(
            MistralForCausalLM, configs.mistral_config, new_configs.mistral_hf_config, _rms_gated()
        ),
        "qwen2": Architecture(
            Qwen2ForCausalLM, configs.qwen2_config, new_configs.qwen2_hf_config, _rms_gated(biases=True)
        ),
        "phi": Architecture(PhiForCausalLM, configs.phi_config, new_configs.phi_hf_config, PHI_LINKS),
    }
)
"""By ``model_type`` of the Hugging Face config."""
