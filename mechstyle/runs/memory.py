"""How many rows fit into one run."""

from __future__ import annotations

import torch

from mechstyle.models import HookedModel

__all__ = ["default_memory", "rows_within"]

FIXED_BYTES = 512 * 2**20
"""On a device that does not tell its free memory, such as a CPU, where larger batches are not faster."""
SHARE = 0.25
"""Of the free memory of a device that tells it."""


def default_memory(model: HookedModel) -> int:
    """Bytes that the states of one run may take: a quarter of what is free on a GPU, elsewhere 512 MiB.

    Example:
        >>> default_memory(model) // 2**20  # doctest: +SKIP
        512
    """
    device = torch.device(model.cfg.device)
    free_and_total = getattr(torch.get_device_module(device), "mem_get_info", None)
    return FIXED_BYTES if free_and_total is None else int(free_and_total(device)[0] * SHARE)


def rows_within(model: HookedModel, n_bytes: int, *, width: int, n_positions: int, n_last: int) -> int:
    """Rows whose states fit into so many bytes while one block, or the unembedding, is run; at least one.

    An estimate from the shapes: the residual stream, keys and values in front of it, attention scores, two
    copies of the MLP's neurons, and two copies of the logits in fp32.

    Args:
        width: positions that are run.
        n_positions: positions that are attended to.
        n_last: positions that are unembedded.

    Example:
        >>> rows_within(model, 512 * 2**20, width=8, n_positions=12, n_last=1)  # doctest: +SKIP
        1337
    """
    cfg = model.cfg
    size = next(iter(model.named_parameters()))[1].element_size()
    heads = int(cfg.n_heads * cfg.d_head)
    block = width * (6 * cfg.d_model + 2 * cfg.d_mlp + 4 * heads + 3 * cfg.n_heads * n_positions)
    block += 3 * n_positions * heads
    logits = n_last * cfg.d_vocab
    return max(1, int(n_bytes // max(size * block, size * logits + 8 * logits)))
