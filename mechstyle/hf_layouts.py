"""How a tensor of a checkpoint lies in the hooked model's parameters, both ways: one description each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from einops import rearrange
from torch import Tensor

from mechstyle.errors import ModelError

__all__ = [
    "BIAS_K",
    "BIAS_Q",
    "CONV_O",
    "CONV_QKV",
    "CONV_QKV_BIAS",
    "HEADS_K",
    "HEADS_O",
    "HEADS_Q",
    "INTERLEAVED_QKV",
    "INTERLEAVED_QKV_BIAS",
    "PLAIN",
    "TRANSPOSED",
    "Layout",
    "Link",
    "each_link",
    "zeros_of",
]


@dataclass(frozen=True)
class Layout:
    """Axes of one tensor on both sides, in einops' words.

    ``n`` counts query heads, ``k`` key and value heads, ``h`` is the width of a head, ``m`` d_model. A
    leading ``t`` on the hooked side splits the tensor: one part for each parameter of the link.
    """

    hf: str
    hooked: str

    @property
    def splits(self) -> bool:
        """Whether one tensor of the checkpoint holds several parameters side by side."""
        return self.hooked.startswith("t ")

    def to_hooked(self, tensor: Tensor, parts: int, cfg: Any) -> list[Tensor]:
        """Views of the tensor, one for each of ``parts`` parameters; without a split the same for all."""
        kv_heads = cfg.n_key_value_heads or cfg.n_heads
        known = {"n": cfg.n_heads, "k": kv_heads, "h": cfg.d_head, "t": parts}
        lengths = {axis: length for axis, length in known.items() if axis in self.hf}
        found = rearrange(tensor, f"{self.hf} -> {self.hooked}", **lengths)
        return list(found) if self.splits else [found] * parts

    def to_hf(self, tensors: Sequence[Tensor]) -> Tensor:
        """The checkpoint's tensor; a view where that is possible."""
        one: Any = list(tensors) if self.splits else tensors[0]
        result: Tensor = rearrange(one, f"{self.hooked} -> {self.hf}")
        return result


PLAIN: Final = Layout("...", "...")
TRANSPOSED: Final = Layout("o i", "i o")
HEADS_Q: Final = Layout("(n h) m", "n m h")
HEADS_K: Final = Layout("(k h) m", "k m h")
HEADS_O: Final = Layout("m (n h)", "n h m")
BIAS_Q: Final = Layout("(n h)", "n h")
BIAS_K: Final = Layout("(k h)", "k h")
CONV_QKV: Final = Layout("m (t n h)", "t n m h")
CONV_QKV_BIAS: Final = Layout("(t n h)", "t n h")
CONV_O: Final = Layout("(n h) m", "n h m")
INTERLEAVED_QKV: Final = Layout("(n t h) m", "t n m h")
INTERLEAVED_QKV_BIAS: Final = Layout("(n t h)", "t n h")


@dataclass(frozen=True)
class Link:
    """One tensor of a checkpoint and the hooked parameters that it is, by name.

    Names hold ``{layer}`` where there is one in each layer, and hooked ones ``{kv}``, the underscore of
    grouped keys and values.
    """

    hf: str | None
    """None: the checkpoint has no place for it, and the hooked parameters are zeros."""
    hooked: tuple[str, ...]
    layout: Layout = PLAIN
    flag: str | None = None
    """Field of the Hugging Face config that switches the tensor on; off, the parameters are zeros."""

    def at(self, layer: int, cfg: Any) -> Link:
        """The link with its names filled in."""
        kv = "" if cfg.n_key_value_heads is None else "_"
        hooked = tuple(name.format(layer=layer, kv=kv) for name in self.hooked)
        return Link(None if self.hf is None else self.hf.format(layer=layer), hooked, self.layout, self.flag)

    def export(self, tensors: Sequence[Tensor], kind: str) -> Tensor | None:
        """The checkpoint's tensor, or None where it has no place for one.

        Raises:
            ModelError: the parameters hold what the checkpoint cannot.
        """
        if self.hf is None:
            for name, tensor in zip(self.hooked, tensors, strict=True):
                if tensor.any():
                    raise ModelError(
                        f"{name} is not zero, and {kind} has no place for it; set it to zero to export."
                    )
            return None
        if not self.layout.splits and not all(torch.equal(tensor, tensors[0]) for tensor in tensors[1:]):
            raise ModelError(
                f"{' and '.join(self.hooked)} differ, and {kind} has one tensor for both; "
                "make them equal to export."
            )
        return self.layout.to_hf(tensors)


def each_link(links: Sequence[Link], cfg: Any) -> Iterator[Link]:
    """Every link of a model with its names filled in: those outside of the layers, then layer by layer."""
    outside = [link for link in links if "{layer}" not in link.hooked[0]]
    inside = [link for link in links if "{layer}" in link.hooked[0]]
    yield from (link.at(0, cfg) for link in outside)
    for layer in range(cfg.n_layers):
        yield from (link.at(layer, cfg) for link in inside)


def zeros_of(name: str, cfg: Any, dtype: torch.dtype) -> Tensor:
    """The zeros of a bias that a checkpoint does not have, by the parameter's name."""
    kv_heads = cfg.n_key_value_heads or cfg.n_heads
    shapes = {
        "b_Q": (cfg.n_heads, cfg.d_head),
        "b_K": (kv_heads, cfg.d_head),
        "b_V": (kv_heads, cfg.d_head),
        "b_O": (cfg.d_model,),
        "b_in": (cfg.d_mlp,),
        "b_out": (cfg.d_model,),
        "b_U": (cfg.d_vocab,),
    }
    return torch.zeros(shapes[name.rpartition(".")[2].lstrip("_")], dtype=dtype)
