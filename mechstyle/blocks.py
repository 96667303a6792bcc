"""A model's own blocks, one at a time, on the last positions of sequences: what a resumed run is made of.

Attention is causal, so a block needs nothing of earlier positions but their keys and values. Here they are
put in front of the new ones where TransformerLens looks for its cache. The block itself is called as it is:
learned or rotary positions, any norm, gated MLPs, grouped queries and hooks all work, and gradients flow.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from mechstyle.errors import ModelError
from mechstyle.hf_convert import ARCHITECTURES
from mechstyle.identity import HookedModel

__all__ = [
    "KeysValues",
    "can_resume",
    "has_hooks",
    "keys_values",
    "may_resume",
    "require_resumable",
    "run_block",
    "run_last_block",
]

KeysValues = tuple[Float[Tensor, "row pos kv_head d_head"], Float[Tensor, "row pos kv_head d_head"]]
"""One layer's, as TransformerLens caches them: before rotation and before heads are repeated."""


def can_resume(model: HookedModel) -> bool:
    """Whether the blocks of this model can be run one by one, with earlier keys and values put in front.

    True for a ``HookedTransformer`` of an architecture that ``load_model`` reads, or of a plain config. False
    for a ``TransformerBridge``: its blocks are Hugging Face's, and runs there take whole sequences.

    Example:
        >>> can_resume(load_model("organism-m"))  # doctest: +SKIP
        True
    """
    if not isinstance(model, HookedTransformer):
        return False
    cfg = model.cfg
    known = {row.hf_class.__name__ for row in ARCHITECTURES.values()} | {None}
    return (
        cfg.original_architecture in known
        and cfg.positional_embedding_type in ("standard", "rotary")
        and cfg.attention_dir == "causal"
        and cfg.n_devices == 1
        and not (cfg.attn_only or cfg.use_attn_in or cfg.use_split_qkv_input)
        and not cfg.ungroup_grouped_query_attention
        and not cfg.use_dynamic_ntk_rope  # its rotation depends on how far a run goes
        and cfg.clip_qkv is None  # it comes after the keys that `keys_values` gives
    )


def require_resumable(model: HookedModel) -> None:
    """Make sure that the blocks of this model can be run one by one.

    Raises:
        ModelError: they cannot.
    """
    if not can_resume(model):
        raise ModelError(
            f"model: runs of this {type(model).__name__} cannot be recorded or resumed, only run whole; "
            "mechstyle.load_model reads checkpoints into models that can."
        )


def has_hooks(model: HookedModel) -> bool:
    """Whether somebody has put hooks on the model, or on any module in it.

    Example:
        >>> has_hooks(model)  # doctest: +SKIP
        False
    """
    modules: Any = model
    return any(
        part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
        for part in modules.modules()
    )


def may_resume(model: HookedModel) -> bool:
    """Whether runs are resumed when nobody says otherwise: where that is possible and no hook would notice.

    Hooks see the last positions only in a resumed run, and cannot tell.

    Example:
        >>> may_resume(load_model("organism-m"))  # doctest: +SKIP
        True
    """
    return can_resume(model) and not has_hooks(model)


def run_block(
    model: HookedModel,
    layer: int,
    residual: Float[Tensor, "row pos d_model"],
    past: KeysValues | None = None,
    *,
    attention_mask: Int[Tensor, "past_row all_pos"] | None = None,
) -> tuple[Float[Tensor, "row pos d_model"], KeysValues]:
    """Run one block and return what leaves it, and its keys and values at all positions, earlier ones first.

    Args:
        past: keys and values at the positions before those of ``residual``. Its rows are used again and
            again: row ``i`` of ``residual`` continues row ``i % past_rows``.
        attention_mask: 0 at padding, over earlier and present positions; None without padding.

    Example:
        >>> after, _ = run_block(model, 4, residual[:, 7:], past)  # doctest: +SKIP
    """
    entry = _Entry(past, residual, model.cfg)
    after = _block(model, layer)(
        residual, past_kv_cache_entry=entry, attention_mask=_for_rows(attention_mask, len(residual))
    )
    return after, entry.joined


def run_last_block(
    model: HookedModel,
    layer: int,
    residual: Float[Tensor, "row pos d_model"],
    past: KeysValues | None = None,
    *,
    n_last: int,
    attention_mask: Int[Tensor, "past_row all_pos"] | None = None,
) -> Float[Tensor, "row last d_model"]:
    """Run one block where only the last positions count: the others give their keys and values and no more.

    Example:
        >>> final = run_last_block(model, 11, residual[:, 7:], past, n_last=1)  # doctest: +SKIP
    """
    if n_last >= residual.shape[1]:
        return run_block(model, layer, residual, past, attention_mask=attention_mask)[0]
    earlier = keys_values(model, layer, residual[:, :-n_last])
    joined = _Entry(past, residual, model.cfg).append(*earlier)
    return run_block(model, layer, residual[:, -n_last:], joined, attention_mask=attention_mask)[0]


def keys_values(model: HookedModel, layer: int, residual: Float[Tensor, "row pos d_model"]) -> KeysValues:
    """Keys and values of one block at the positions of ``residual``, without its queries, output and MLP.

    Example:
        >>> keys, values = keys_values(model, 11, residual)  # doctest: +SKIP
    """
    block = _block(model, layer)
    normed = block.ln1(residual)
    _, keys, values = block.attn.calculate_qkv_matrices(normed[:, :0], normed, normed)
    return keys, values


class _Entry:
    """Stands where TransformerLens expects its cache of one layer; it never changes."""

    def __init__(self, past: KeysValues | None, residual: Tensor, cfg: Any) -> None:
        if past is None:
            heads = cfg.n_heads if cfg.n_key_value_heads is None else cfg.n_key_value_heads
            nothing = residual.new_empty(len(residual), 0, heads, cfg.d_head)
            past = nothing, nothing
        self.past_keys, self.past_values = past

    def append(self, keys: Tensor, values: Tensor) -> KeysValues:
        """Earlier and new keys and values, joined."""
        self.joined = _join(self.past_keys, keys), _join(self.past_values, values)
        return self.joined


def _join(past: Tensor, new: Tensor) -> Tensor:
    """Put the earlier positions in front, without a second copy of rows that are used again and again."""
    if past.shape[1] == 0:
        return new
    if len(past) == len(new):
        return torch.cat([past, new], dim=1)
    copies = len(new) // len(past)
    parts = [past.expand(copies, *past.shape), new.unflatten(0, (copies, len(past)))]
    return torch.cat(parts, dim=2).flatten(0, 1)


def _for_rows(mask: Tensor | None, rows: int) -> Tensor | None:
    return None if mask is None else mask.repeat(rows // len(mask), 1)


def _block(model: HookedModel, layer: int) -> Any:
    found: Any = model
    return found.blocks[layer]
