"""How many rows fit into one run."""

from __future__ import annotations

import torch

from mechstyle.models import HookedModel

__all__ = ["default_memory", "rows_within"]

CPU_BYTES = 512 * 2**20
"""On a CPU larger batches are not faster."""
SHARE = 0.25
"""Of the free memory of an accelerator."""


def default_memory(model: HookedModel) -> int:
    """Bytes that the states of one run may take: 512 MiB on a CPU, a quarter of what is free on a GPU.

    Example:
        >>> default_memory(model) // 2**20  # doctest: +SKIP
        512
    """
    device = torch.device(model.cfg.device)
    if device.type != "cuda":
        return CPU_BYTES
    return int(torch.cuda.mem_get_info(device)[0] * SHARE)


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
    block = width * (6 * cfg.d_model + 2 * cfg.d_mlp + 3 * heads + 3 * cfg.n_heads * n_positions)
    block += 2 * n_positions * heads
    logits = n_last * cfg.d_vocab
    return max(1, int(n_bytes // max(size * block, size * logits + 8 * logits)))
