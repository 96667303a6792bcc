"""Hugging Face weights into a ``HookedTransformer`` and back, by the table of architectures."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import PretrainedConfig, PreTrainedModel

from mechstyle.errors import ModelError
from mechstyle.hf_layouts import Link, each_link, zeros_of
from mechstyle.hf_memory import lie_as_multiplied
from mechstyle.hf_tables import ARCHITECTURES, Architecture

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "architecture_of",
    "hf_from_hooked",
    "hooked_config",
    "hooked_from_hf",
    "hooked_tensors",
    "quiet_deprecation",
]

SAME_MEANING: Final = (
    "NTK_by_parts_factor NTK_by_parts_high_freq_factor NTK_by_parts_low_freq_factor NTK_original_ctx_len "
    "act_fn attention_dir attn_only attn_scale attn_scores_soft_cap attn_types clip_qkv d_head d_mlp "
    "d_model d_vocab d_vocab_out eps final_rms gated_mlp n_ctx n_heads n_layers normalization_type "
    "num_experts output_logits_soft_cap parallel_attn_mlp positional_embedding_type post_embedding_ln "
    "rotary_adjacent_pairs rotary_base rotary_base_local rotary_dim rotary_scaling_factor "
    "scale_attn_by_inverse_layer_idx use_NTK_by_parts_rope use_attention_sinks use_attn_scale "
    "use_dynamic_ntk_rope use_local_attn use_logn_attn use_normalization_before_and_after use_qk_norm "
    "use_yarn_rope window_size"
).split()
"""Fields of a hooked config that decide what the model computes: an export must keep each."""


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


def hooked_config(
    config: PretrainedConfig,
    *,
    name: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> HookedTransformerConfig:
    """The config of the ``HookedTransformer`` that computes what a Hugging Face model of ``config`` does.

    Raises:
        ModelError: the config asks for something that TransformerLens does not compute alike.

    Example:
        >>> hooked_config(hf.config, name="gpt2", dtype=torch.bfloat16).n_layers  # doctest: +SKIP
        12
    """
    architecture = architecture_of(config, name=name)
    return HookedTransformerConfig(
        model_name=name,
        original_architecture=architecture.hf_class.__name__,
        device=str(device),
        dtype=dtype,
        init_weights=False,
        default_prepend_bos=False,
        **architecture.config(config),
    )


def hooked_tensors(
    source: Mapping[str, Tensor], architecture: Architecture, cfg: HookedTransformerConfig
) -> Iterator[tuple[str, Tensor]]:
    """Every parameter of the hooked model by name, read one tensor at a time; the tensors are views.

    Args:
        source: the checkpoint's tensors by their Hugging Face names, such as ``hf.state_dict()``.
        cfg: from ``hooked_config``.

    Raises:
        ModelError: ``source`` lacks a tensor.

    Example:
        >>> dict(hooked_tensors(hf.state_dict(), architecture, cfg))["embed.W_E"].shape  # doctest: +SKIP
        torch.Size([50257, 768])
    """
    names = set(source)  # once: ``in`` may read the tensor
    for link in each_link(architecture.links, cfg):
        if link.hf is None or (link.flag is not None and link.hf not in names):
            yield from ((name, zeros_of(name, cfg, cfg.dtype)) for name in link.hooked)
        elif link.hf in names:
            yield from zip(
                link.hooked, link.layout.to_hooked(source[link.hf], len(link.hooked), cfg), strict=True
            )
        else:
            raise ModelError(f"the model lacks the weight {link.hf!r}, which its architecture has.")


def hooked_from_hf(
    source: Mapping[str, Tensor], architecture: Architecture, cfg: HookedTransformerConfig
) -> HookedTransformer:
    """A new model without a tokenizer whose weights are those of ``source``, unprocessed, in ``cfg.dtype``.

    No second copy of the weights is made.

    Raises:
        ModelError: a weight is missing, has another shape, or came twice.

    Example:
        >>> cfg = hooked_config(hf.config, name="gpt2")  # doctest: +SKIP
        >>> model = hooked_from_hf(hf.state_dict(), ARCHITECTURES["gpt2"], cfg)  # doctest: +SKIP
    """
    with torch.no_grad(), quiet_deprecation():
        model = HookedTransformer(cfg)
        lie_as_multiplied(model)
        _fill(dict(model.named_parameters()), hooked_tensors(source, architecture, cfg))
    return model.eval()


def hf_from_hooked(model: HookedTransformer, architecture: Architecture) -> PreTrainedModel:
    """A Hugging Face model on the CPU with the weights as they are now, in their own number format.

    What lies alike on both sides is shared, not copied.

    Raises:
        ModelError: the model has something that checkpoints of this architecture cannot say.

    Example:
        >>> type(hf_from_hooked(model, ARCHITECTURES["gpt2"])).__name__  # doctest: +SKIP
        'GPT2LMHeadModel'
    """
    cfg, kind = model.cfg, architecture.hf_class.__name__
    state = {name: weight.detach() for name, weight in model.named_parameters()}
    links = list(each_link(architecture.links, cfg))
    _require_known(state, links, kind)
    config = _export_config(model, architecture, state, links)
    with torch.device("meta"):
        hf: Any = architecture.hf_class(config)
    ties = architecture.ties(config)
    named = {}
    for link in links:
        if link.flag is not None and not getattr(config, link.flag):
            continue
        tensor = link.export([state[name] for name in link.hooked], kind)
        if tensor is not None and link.hf not in ties:
            named[link.hf] = tensor.cpu().contiguous()
    named |= {name: named[other] for name, other in ties.items()}
    hf.load_state_dict(named, assign=True)
    hf.tie_weights()
    hf.eval()
    exported: PreTrainedModel = hf
    return exported


@contextmanager
def quiet_deprecation() -> Iterator[None]:
    """TransformerLens 3 announces version 4 at each ``HookedTransformer``; we pin 3."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "HookedTransformer is deprecated", DeprecationWarning)
        yield


def _fill(parameters: dict[str, torch.nn.Parameter], tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write every parameter exactly once."""
    for name, tensor in tensors:
        parameter = parameters.pop(name, None)
        if parameter is None:
            raise ModelError(f"the table of architectures gives {name!r} twice, or against the model.")
        if parameter.shape != tensor.shape:
            raise ModelError(
                f"{name} should have shape {list(parameter.shape)}, but {list(tensor.shape)} came."
            )
        if not tensor.is_floating_point() or tensor.is_meta:
            raise ModelError(
                f"{name} must be plain numbers in memory, not {tensor.dtype} on {tensor.device}: "
                "load the model unquantized and not offloaded."
            )
        parameter.copy_(tensor)
        del tensor  # before the next one is read
    if parameters:
        raise ModelError(f"the table of architectures gives no value to {next(iter(parameters))!r}.")


def _require_known(state: Mapping[str, Tensor], links: Iterable[Link], kind: str) -> None:
    wanted = {name for link in links for name in link.hooked}
    if unknown := state.keys() ^ wanted:
        raise ModelError(
            f"model cannot be exported as {kind}: its weights are not those of this architecture, "
            f"which differ in {min(unknown)!r}."
        )


def _export_config(
    model: HookedTransformer, architecture: Architecture, state: Mapping[str, Tensor], links: Sequence[Link]
) -> PretrainedConfig:
    """The config that says all of the model's own; biases that are all zero need no place in a checkpoint."""
    cfg, tokenizer = model.cfg, model.tokenizer
    config: Any = architecture.hf_config(cfg)
    config.tie_word_embeddings = torch.equal(state["unembed.W_U"], state["embed.W_E"].T)
    config.bos_token_id = None if tokenizer is None else tokenizer.bos_token_id
    config.eos_token_id = None if tokenizer is None else tokenizer.eos_token_id
    for flag in {link.flag for link in links if link.flag is not None}:
        used = (name for link in links if link.flag == flag for name in link.hooked)
        setattr(config, flag, any(bool(state[name].any()) for name in used))
    same = hooked_config(config, name="export")
    for field in SAME_MEANING:
        found, wanted = getattr(same, field, None), getattr(cfg, field, None)
        if found != wanted:
            raise ModelError(
                f"model cannot be exported as {architecture.hf_class.__name__}: its {field} is {wanted!r}, "
                f"and such a checkpoint would say {found!r}."
            )
    exported: PretrainedConfig = config
    return exported
