"""Peak memory: on a GPU what its allocator says, on a CPU the bytes of all tensors alive at once."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["LiveTensors", "peak_bytes"]


@contextmanager
def peak_bytes(device: str) -> Iterator[Callable[[], int]]:
    """Inside, count the memory that is taken beyond what is taken already; the value asks for the most."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
    else:
        with LiveTensors() as live:
            yield lambda: live.peak


class LiveTensors(TorchDispatchMode):
    """Bytes of the tensors that were made inside and are alive, now and at most.

    A storage counts once, however many views it has; one that an operation reads before any made it was there
    already. The same on every machine, which the size of a process is not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for storage in _storages((args, kwargs)):
            self._note(storage, 0)
        result = func(*args, **kwargs)
        for storage in _storages(result):
            self._note(storage, storage.nbytes())
        return result

    def _note(self, storage: Any, size: int) -> None:
        key = storage._cdata
        if key in self._known:
            return

        def forget(_: Any) -> None:
            self._known.pop(key, None)
            self.now -= size

        self._known[key] = weakref.ref(storage, forget)
        self.now += size
        self.peak = max(self.peak, self.now)


def _storages(tree: Any) -> list[Any]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
