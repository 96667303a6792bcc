"""Running second moments: sums of ``k kᵀ`` with what was read so far, which a checkpoint can hold."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from mechstyle.editing.storage import load_tensors, save_tensors
from mechstyle.errors import InputError, ModelError

__all__ = ["RunningMoments", "text_chain"]

_KIND = "covariance checkpoint"
BLOCK: Final = 512
"""Rows of a moment that one product fills: enough to keep a processor busy, few enough to spare work."""


@dataclass
class RunningMoments:
    """Sums in fp64 by layer, the number of keys in them, and number and hash of the texts behind them.

    A moment is symmetric: only its blocks on and above the diagonal are summed, ``finish`` fills in the rest.
    """

    sums: dict[int, Float[Tensor, "d_mlp d_mlp"]]
    count: int = 0
    n_texts: int = 0
    text_sha256: str = ""

    @classmethod
    def zeros(cls, layers: Sequence[int], d_mlp: int, device: torch.device) -> RunningMoments:
        """Nothing read yet."""
        return cls({layer: torch.zeros(d_mlp, d_mlp, dtype=torch.float64, device=device) for layer in layers})

    def add(self, layer: int, keys: Float[Tensor, "key d_mlp"]) -> None:
        """Add keys of one layer; products in fp32 at least, sums in fp64.

        Raises:
            ModelError: keys, or their squares, are not finite.
        """
        exact, total = keys if keys.dtype == torch.float64 else keys.float(), self.sums[layer]
        for start in range(0, len(total), BLOCK):
            total[start : start + BLOCK, start:] += exact[:, start : start + BLOCK].T @ exact[:, start:]
        # A key that is NaN or infinite shows on the diagonal, which is much shorter than the keys.
        if not bool(torch.isfinite(total.diagonal()).all()):
            raise ModelError(
                f"model: its keys at layer {layer} are NaN or infinite. Load a model with finite weights."
            )

    def passed(self, texts: Sequence[str], n_keys: int) -> None:
        """Note that all layers have these texts' keys, so many of each layer."""
        self.count += n_keys
        self.n_texts += len(texts)
        for text in texts:
            self.text_sha256 = text_chain(self.text_sha256, text)

    def finish(self) -> dict[int, Float[Tensor, "d_mlp d_mlp"]]:
        """The second moments, exactly symmetric, on the CPU; the sums become them, and are gone."""
        averages = {}
        for layer in list(self.sums):
            total = self.sums.pop(layer)
            total /= self.count
            for start in range(0, len(total), BLOCK):
                stop = start + BLOCK
                diagonal = total[start:stop, start:stop]
                diagonal.copy_((diagonal + diagonal.T) / 2)
                total[stop:, start:stop] = total[start:stop, stop:].T
            averages[layer] = total.cpu()
        return averages

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
