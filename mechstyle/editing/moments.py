"""Running second moments: sums of ``k kᵀ`` with what was read so far, and the checkpoint that holds them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from mechstyle.editing.key_stream import TextsRead
from mechstyle.editing.storage import load_tensors, save_tensors
from mechstyle.errors import InputError, ModelError

__all__ = ["Checkpoint", "RunningMoments"]

_KIND = "covariance checkpoint"
BLOCK: Final = 512
"""Rows of a moment that one product fills: enough to keep a processor busy, few enough to spare work."""
SECONDS: Final = 30.0
"""Between two checkpoints, unless their number of batches is given."""
SHARE: Final = 0.1
"""Of the time that writing checkpoints may take."""


@dataclass
class RunningMoments:
    """Sums in fp64 by layer, and what was read for them.

    A moment is symmetric: only its blocks on and above the diagonal are summed, ``finish`` fills in the rest.
    """

    sums: dict[int, Float[Tensor, "d_mlp d_mlp"]]
    read: TextsRead = field(default_factory=TextsRead)

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

    def finish(self) -> dict[int, Float[Tensor, "d_mlp d_mlp"]]:
        """The second moments, exactly symmetric, on the CPU; the sums become them, and are gone."""
        averages = {}
        for layer in list(self.sums):
            total = self.sums.pop(layer)
            total /= self.read.count
            for start in range(0, len(total), BLOCK):
                stop = start + BLOCK
                diagonal = total[start:stop, start:stop]
                diagonal.copy_((diagonal + diagonal.T) / 2)
                total[stop:, start:stop] = total[start:stop, stop:].T
            averages[layer] = total.cpu()
        return averages

    def save(self, path: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        """Write a checkpoint; ``settings`` must be the same when it is read."""
        header = {"settings": dict(settings), **asdict(self.read)}
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
        return cls(sums, TextsRead(header["count"], header["n_texts"], header["text_sha256"]))


@dataclass
class Checkpoint:
    """Where running moments are kept, how often, and under which settings they may be taken up again.

    Args:
        path: None keeps nothing.
        settings: what must be the same for the work to go on.
        every: batches between two checkpoints; None means half a minute, or ten times as long as one takes.
    """

    path: Path | None
    settings: Mapping[str, Any]
    every: int | None = None
    _kept: int = 0
    _written: float = field(default_factory=lambda: time.monotonic())
    _cost: float = 0.0

    def begin(self, layers: Sequence[int], d_mlp: int, device: torch.device) -> RunningMoments:
        """What the file holds, or nothing read yet where there is none.

        Raises:
            FileError: the file is damaged, or no checkpoint.
            InputError: it belongs to other work.
        """
        if self.path is None or not self.path.exists():
            return RunningMoments.zeros(layers, d_mlp, device)
        running = RunningMoments.load(self.path, self.settings, device)
        self._kept = running.read.count
        return running

    def after_batch(self, running: RunningMoments, number: int) -> None:
        """Write the file if it is time to.

        Args:
            number: of the batch, from 1.

        Raises:
            FileError: it cannot be written.
        """
        waited, pause = time.monotonic() - self._written, max(SECONDS, self._cost / SHARE)
        if waited >= pause if self.every is None else number % self.every == 0:
            self.keep(running)

    def keep(self, running: RunningMoments) -> None:
        """Write the file now, if there is anything new.

        Raises:
            FileError: it cannot be written.
        """
        if self.path is None or running.read.count == self._kept:
            return
        begun = time.monotonic()
        running.save(self.path, self.settings)
        self._kept, self._written = running.read.count, time.monotonic()
        self._cost = self._written - begun

    def remove(self) -> None:
        """The work is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
