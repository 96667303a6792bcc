"""Hugging Face <-> TransformerLens: one ``Architecture`` a row, weights as trained, and back again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import torch
from einops import rearrange
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions.gpt2 import convert_gpt2_weights
from transformers import GPT2Config, GPT2LMHeadModel, PretrainedConfig, PreTrainedModel

from mechstyle.errors import ModelError

__all__ = ["ARCHITECTURES", "Architecture", "architecture_of", "hooked_from_hf", "require_parity"]

ACTIVATIONS: Final = ("gelu", "gelu_fast", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")
PARITY_TOLERANCE: Final = MappingProxyType({torch.bfloat16: 5e-2, torch.float16: 1e-2})
"""Largest difference of logits, relative to the largest logit, where the number format is coarse."""
EXACT_TOLERANCE: Final = 1e-4


@dataclass(frozen=True)
class Architecture:
    """How one family of models is written in both libraries."""

    hf_class: type[PreTrainedModel]
    config: Callable[[Any], dict[str, Any]]
    """Hugging Face config -> arguments of ``HookedTransformerConfig``."""
    weights: Callable[[Any, HookedTransformerConfig], dict[str, Tensor]]
    """Hugging Face model -> state of the hooked model."""
    export: Callable[[HookedTransformer], PreTrainedModel]
    """Hooked model -> a new Hugging Face model."""


def hooked_from_hf(
    hf: PreTrainedModel, architecture: Architecture, *, name: str, device: torch.device, dtype: torch.dtype
) -> HookedTransformer:
    """Copy a Hugging Face model's weights, unprocessed, into a new ``HookedTransformer`` without a tokenizer.

    Raises:
        ModelError: the config asks for something that TransformerLens does not have.
    """
    arguments = architecture.config(hf.config)
    with torch.no_grad(), quiet_deprecation():
        config = HookedTransformerConfig(
            model_name=name,
            original_architecture=architecture.hf_class.__name__,
            device=str(device),
            dtype=dtype,
            init_weights=False,
            default_prepend_bos=False,
            **arguments,
        )
        model = HookedTransformer(config)
        state = {key: weight.detach().to(dtype) for key, weight in architecture.weights(hf, config).items()}
        model.load_and_process_state_dict(
            state,
            fold_ln=False,
            center_writing_weights=False,
            center_unembed=False,
            fold_value_biases=False,
        )
    return model.eval()


def require_parity(model: HookedTransformer, hf: PreTrainedModel, *, name: str) -> None:
    """Compare the logits of both models on fixed random tokens.

    Raises:
        ModelError: they differ by more than rounding does.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.cfg.d_vocab, (2, min(16, model.cfg.n_ctx)), generator=generator)
    with torch.no_grad(), evaluating(hf):
        wanted = hf(input_ids=ids.to(hf.device), use_cache=False).logits.double().cpu()
        found = model(ids.to(model.cfg.device), return_type="logits").double().cpu()
    scale = max(1.0, wanted.abs().max().item())
    difference = (found - wanted).abs().max().item() / scale
    formats = {hf.dtype, next(model.parameters()).dtype}
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


@contextmanager
def quiet_deprecation() -> Iterator[None]:
    """TransformerLens 3 announces version 4 at each ``HookedTransformer``; we pin 3."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "HookedTransformer is deprecated", DeprecationWarning)
        yield


def _gpt2_config(config: Any) -> dict[str, Any]:
    if config.activation_function not in ACTIVATIONS:
        raise ModelError(
            f"activation_function {config.activation_function!r} is not supported; supported are "
            f"{', '.join(ACTIVATIONS)}."
        )
    if config.add_cross_attention:
        raise ModelError("add_cross_attention=true is not supported: only decoders without an encoder are.")
    return {
        "d_model": config.n_embd,
        "n_heads": config.n_head,
        "d_head": config.n_embd // config.n_head,
        "n_layers": config.n_layer,
        "n_ctx": config.n_positions,
        "d_mlp": config.n_inner if config.n_inner is not None else 4 * config.n_embd,
        "d_vocab": config.vocab_size,
        "act_fn": config.activation_function,
        "eps": config.layer_norm_epsilon,
        "normalization_type": "LN",
        "use_attn_scale": config.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": config.scale_attn_by_inverse_layer_idx,
    }


def _gpt2_export(model: HookedTransformer) -> GPT2LMHeadModel:
    cfg, state = model.cfg, {name: weight.detach() for name, weight in model.named_parameters()}
    if state["unembed.b_U"].any():
        raise ModelError("model has an unembedding bias b_U, which GPT-2 has no place for; set it to zero.")
    tied = torch.equal(state["unembed.W_U"], state["embed.W_E"].T)
    tokenizer = model.tokenizer
    config = GPT2Config(
        vocab_size=cfg.d_vocab,
        n_positions=cfg.n_ctx,
        n_embd=cfg.d_model,
        n_layer=cfg.n_layers,
        n_head=cfg.n_heads,
        n_inner=None if cfg.d_mlp == 4 * cfg.d_model else cfg.d_mlp,
        activation_function=cfg.act_fn,
        layer_norm_epsilon=cfg.eps,
        scale_attn_weights=cfg.use_attn_scale,
        scale_attn_by_inverse_layer_idx=cfg.scale_attn_by_inverse_layer_idx,
        bos_token_id=None if tokenizer is None else tokenizer.bos_token_id,
        eos_token_id=None if tokenizer is None else tokenizer.eos_token_id,
        tie_word_embeddings=tied,
    )
    with torch.random.fork_rng(devices=[]):
        hf: Any = GPT2LMHeadModel(config)
        hf.to(device="cpu", dtype=state["embed.W_E"].dtype)
    named = {
        "transformer.wte.weight": state["embed.W_E"],
        "transformer.wpe.weight": state["pos_embed.W_pos"],
        "transformer.ln_f.weight": state["ln_final.w"],
        "transformer.ln_f.bias": state["ln_final.b"],
        "lm_head.weight": state["unembed.W_U"].T,
    }
    for layer in range(cfg.n_layers):
        block = {
            name.removeprefix(f"blocks.{layer}."): weight
            for name, weight in state.items()
            if name.startswith(f"blocks.{layer}.")
        }
        named |= {f"transformer.h.{layer}.{key}": weight for key, weight in _gpt2_block(block).items()}
    hf.load_state_dict({name: weight.cpu().contiguous() for name, weight in named.items()})
    hf.eval()
    exported: GPT2LMHeadModel = hf
    return exported


def _gpt2_block(block: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One layer's weights by their Hugging Face names; its ``Conv1D`` weights are ``[in, out]`` as ours."""
    heads = [rearrange(block[f"attn.W_{kind}"], "head model d -> model (head d)") for kind in "QKV"]
    biases = [rearrange(block[f"attn.b_{kind}"], "head d -> (head d)") for kind in "QKV"]
    return {
        "ln_1.weight": block["ln1.w"],
        "ln_1.bias": block["ln1.b"],
        "attn.c_attn.weight": torch.cat(heads, dim=1),
        "attn.c_attn.bias": torch.cat(biases),
        "attn.c_proj.weight": rearrange(block["attn.W_O"], "head d model -> (head d) model"),
        "attn.c_proj.bias": block["attn.b_O"],
        "ln_2.weight": block["ln2.w"],
        "ln_2.bias": block["ln2.b"],
        "mlp.c_fc.weight": block["mlp.W_in"],
        "mlp.c_fc.bias": block["mlp.b_in"],
        "mlp.c_proj.weight": block["mlp.W_out"],
        "mlp.c_proj.bias": block["mlp.b_out"],
    }


ARCHITECTURES: Final[Mapping[str, Architecture]] = MappingProxyType(
    {"gpt2": Architecture(GPT2LMHeadModel, _gpt2_config, convert_gpt2_weights, _gpt2_export)}
)
"""By ``model_type`` of the Hugging Face config."""


def architecture_of(config: PretrainedConfig | Mapping[str, Any], *, name: str) -> Architecture:
    """The row of ``ARCHITECTURES`` for a config (or its JSON).

    Raises:
        ModelError: the kind of model is not supported, or the config names none.
    """
    is_json = isinstance(config, Mapping)
    kind = config.get("model_type") if is_json else getattr(config, "model_type", None)
    if kind not in ARCHITECTURES:
        raise ModelError(
            f"{name}: models of type {kind!r} are not supported; supported are {', '.join(ARCHITECTURES)}."
        )
    return ARCHITECTURES[str(kind)]
