"""Small models run on one thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mechstyle.models import HookedModel

__all__ = ["few_threads"]

SMALL = 20_000_000
"""Parameters below which the threads of one operation wait for each other longer than they work."""


@contextmanager
def few_threads(model: HookedModel) -> Iterator[None]:
    """Use one CPU thread while a small model works; other models and the time afterwards are left alone.

    Threads that share busy cores wait for each other at every small operation.

    Example:
        >>> with few_threads(model):  # doctest: +SKIP
        ...     trace = causal_trace(model, fact)
    """
    before = torch.get_num_threads()
    small = sum(weight.numel() for _, weight in model.named_parameters()) < SMALL
    try:
        if small:
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)
