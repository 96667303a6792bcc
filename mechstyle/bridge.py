"""``TransformerBridge`` models: their weights by the names and shapes that a ``HookedTransformer`` has.

A bridge wraps a Hugging Face model whose modules it has rewired. What is found here are views of the very
weights that its runs use: writing into them in place edits the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeGuard

from einops import rearrange
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components.joint_qkv_attention import JointQKVAttentionBridge

from mechstyle.errors import ModelError
from mechstyle.hf_convert import Architecture, architecture_of, hooked_config, hooked_tensors

__all__ = [
    "bridge_config",
    "bridge_weights",
    "is_bridge",
    "processing_of_bridge",
    "refuse_bridge",
    "require_own_memory",
    "require_readable",
]

WRAPPER: Final = "._original_component"
"""What a bridge puts into the names of a Hugging Face model's parameters."""


def is_bridge(model: object) -> TypeGuard[TransformerBridge]:
    """Whether a model is a ``TransformerBridge``.

    Example:
        >>> is_bridge(load_model("organism-m"))  # doctest: +SKIP
        False
    """
    return isinstance(model, TransformerBridge)


def bridge_config(bridge: TransformerBridge) -> Any:
    """The config of the ``HookedTransformer`` that ``load_model`` makes of the same checkpoint.

    It is the bridge's own where ``load_model`` cannot read the checkpoint.

    Example:
        >>> bridge_config(bridge).n_layers  # doctest: +SKIP
        12
    """
    return _layout(bridge)[1] if _readable(bridge) else bridge.cfg


def bridge_weights(bridge: TransformerBridge) -> dict[str, Tensor]:
    """Live views of the weights by a ``HookedTransformer``'s names; zeros stand for biases that are absent.

    Where ``load_model`` cannot read the checkpoint, they are the Hugging Face model's own by their own names.

    Example:
        >>> bridge_weights(bridge)["blocks.4.mlp.W_out"].shape  # doctest: +SKIP
        torch.Size([3072, 768])
    """
    source = {
        name.replace(WRAPPER, ""): weight.detach()
        for name, weight in bridge.original_model.named_parameters(remove_duplicate=False)
    }
    if not _readable(bridge):
        return source
    found = dict(hooked_tensors(source, *_layout(bridge)))
    return found | {name: weight for name, weight in _split_attention(bridge) if name in found}


def require_readable(bridge: TransformerBridge, what: str) -> None:
    """Make sure that it is known how this model's weights lie.

    Args:
        what: what is to be done with them, for the message.

    Raises:
        ModelError: ``load_model`` could not read the checkpoint either.

    Example:
        >>> require_readable(bridge, "edit")  # doctest: +SKIP
    """
    try:
        _layout(bridge)
    except ModelError as error:
        raise ModelError(
            f"model: cannot {what} weights of this TransformerBridge, because it is not known how they lie "
            f"({error}) Tracing works when sigma=... is given."
        ) from error


def require_own_memory(bridge: TransformerBridge, name: str, weights: Mapping[str, Tensor]) -> None:
    """Make sure that writing into a weight edits the bridge, and nothing but this weight.

    Args:
        weights: from ``bridge_weights``.

    Raises:
        ModelError: the weight is not in the bridge's memory, or another one lies in the same place.

    Example:
        >>> require_own_memory(bridge, "blocks.4.mlp.W_out", bridge_weights(bridge))  # doctest: +SKIP
    """
    weight = weights[name]
    memory = {live.untyped_storage().data_ptr() for live in bridge.original_model.parameters()}
    if weight.untyped_storage().data_ptr() not in memory:
        raise ModelError(
            f"model: the bridge has no weight behind {name!r}, it only counts as zeros, so an edit there "
            "would be silently lost. Edit another parameter, or use mechstyle.load_model."
        )
    tied = [other for other in weights if other != name and weights[other].data_ptr() == weight.data_ptr()]
    if tied:
        raise ModelError(
            f"model: the bridge keeps {name!r} and {tied[0]!r} in one tied weight, so an edit of one would "
            "silently change the other. Load the model with mechstyle.load_model, where each has its own."
        )


def refuse_bridge(model: object, what: str) -> None:
    """Refuse bridges where only a ``HookedTransformer`` will do.

    Args:
        what: the function that refuses, for the message.

    Raises:
        ModelError: the model is a bridge.

    Example:
        >>> refuse_bridge(model, "export_hf")  # doctest: +SKIP
    """
    if is_bridge(model):
        raise ModelError(
            f"model: {what} expected a HookedTransformer, got a TransformerBridge, which has rewired the "
            "Hugging Face model. Load the same checkpoint with mechstyle.load_model (its fingerprint is the "
            "same), apply the edit there, and go on with that model."
        )


def processing_of_bridge(bridge: TransformerBridge) -> str | None:
    """How the bridge's weights were processed, or None when they are as trained.

    Example:
        >>> processing_of_bridge(bridge)  # doctest: +SKIP
    """
    if not hasattr(bridge, "_weights_processed"):
        return "this version of TransformerLens does not tell whether process_weights() has changed them"
    if bridge._weights_processed:
        return "process_weights() or enable_compatibility_mode() has folded and centred them"
    return None


def _layout(bridge: TransformerBridge) -> tuple[Architecture, Any]:
    """The row of the table and the hooked config, or the ModelError that ``load_model`` would raise."""
    config: Any = getattr(bridge.original_model, "config", {})
    name = str(bridge.cfg.model_name)
    return architecture_of(config, name=name), hooked_config(config, name=name)


def _readable(bridge: TransformerBridge) -> bool:
    try:
        _layout(bridge)
    except ModelError:
        return False
    return True


def _split_attention(bridge: TransformerBridge) -> Iterator[tuple[str, Tensor]]:
    """Queries, keys and values where the checkpoint fuses them: the bridge has split them, and runs those."""
    d_head = bridge.cfg.d_head
    blocks: Any = bridge.blocks
    for layer, block in enumerate(blocks):
        attention = getattr(block, "attn", None)
        if isinstance(attention, JointQKVAttentionBridge):
            for kind in "QKV":
                linear = getattr(attention, kind.lower()).original_component
                weight, bias = linear.weight.detach(), linear.bias
                yield f"blocks.{layer}.attn.W_{kind}", rearrange(weight, "(n h) m -> n m h", h=d_head)
                if bias is not None:
                    yield f"blocks.{layer}.attn.b_{kind}", rearrange(bias.detach(), "(n h) -> n h", h=d_head)
