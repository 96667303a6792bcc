"""Running second moments: sums of ``k kᵀ`` with what was read so far, which a checkpoint can hold."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechstyle.editing.storage import load_tensors, save_tensors
from mechstyle.errors import InputError

__all__ = ["RunningMoments", "text_chain"]

_KIND = "covariance checkpoint"


@dataclass
class RunningMoments:
    """Sums in fp64 by layer, the number of keys in them, and number and hash of the texts behind them."""

    sums: dict[int, Float[Tensor, "d_mlp d_mlp"]]
    count: int = 0
    n_texts: int = 0
    text_sha256: str = ""

    @classmethod
    def zeros(cls, layers: Sequence[int], d_mlp: int, device: torch.device) -> RunningMoments:
        """Nothing read yet."""
        return cls({layer: torch.zeros(d_mlp, d_mlp, dtype=torch.float64, device=device) for layer in layers})

    def add(self, keys: Mapping[int, Float[Tensor, "key d_mlp"]], texts: Sequence[str]) -> None:
        """Add the same keys' states at every layer; products in fp32 at least, sums in fp64."""
        for layer, found in keys.items():
            exact = found if found.dtype == torch.float64 else found.float()
            self.sums[layer] += (exact.T @ exact).double()
        self.count += len(next(iter(keys.values())))
        self.n_texts += len(texts)
        for text in texts:
            self.text_sha256 = text_chain(self.text_sha256, text)

    def averages(self) -> dict[int, Float[Tensor, "d_mlp d_mlp"]]:
        """The second moments, exactly symmetric, on the CPU."""
        return {layer: ((total + total.T) / (2 * self.count)).cpu() for layer, total in self.sums.items()}

    def save(self, path: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        """Write a checkpoint; ``settings`` must be the same when it is read."""
        header = {
            "settings": dict(settings),
            "count": self.count,
            "n_texts": self.n_texts,
            "text_sha256": self.text_sha256,
        }
        save_tensors(path, _KIND, {str(layer): total for layer, total in self.sums.items()}, header)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], settings: Mapping[str, Any], device: torch.device
    ) -> RunningMoments:
        """Read a checkpoint.

        Raises:
            FileError: the file is damaged, or no checkpoint.
            InputError: it was written with other settings, or for another model.
        """
        tensors, header = load_tensors(path, _KIND)
        differing = [name for name in settings if header["settings"].get(name) != settings[name]]
        if differing:
            raise InputError(
                f"checkpoint: {Path(path)} was written with another {' and '.join(differing)}; "
                "use the same settings, or remove the file to begin again."
            )
        sums = {int(name): total.to(device) for name, total in tensors.items()}
        return cls(sums, header["count"], header["n_texts"], header["text_sha256"])


def text_chain(before: str, text: str) -> str:
    """Hash of all texts so far and the next one."""
    return hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()
