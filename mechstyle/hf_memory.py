"""How weights lie in memory: as TransformerLens multiplies them, so that no call has to copy them first.

TransformerLens turns each attention weight into a matrix at every call, and the backward pass turns the
unembedding. Both are free when the matrix lies in memory as it is needed, which is also how checkpoints store
it. Shapes and values do not change.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

import torch
from torch import nn

__all__ = ["lie_as_multiplied"]

ORDERS: Final = MappingProxyType(
    {
        "W_Q": (0, 2, 1),
        "W_K": (0, 2, 1),
        "W_V": (0, 2, 1),
        "_W_K": (0, 2, 1),
        "_W_V": (0, 2, 1),
        "W_O": (2, 0, 1),
        "W_U": (1, 0),
    }
)
"""Last part of a parameter's name -> its axes in the order of memory."""


def lie_as_multiplied(model: nn.Module) -> None:
    """Give the weights of a new model, not yet filled, new memory in which their axes lie in another order.

    Example:
        >>> model.W_U.stride()  # doctest: +SKIP
        (1, 192)
    """
    for name, weight in model.named_parameters():
        order = ORDERS.get(name.rpartition(".")[2])
        if order is not None:
            memory = torch.empty(
                [weight.shape[axis] for axis in order], dtype=weight.dtype, device=weight.device
            )
            weight.data = memory.permute([order.index(axis) for axis in range(weight.ndim)])
