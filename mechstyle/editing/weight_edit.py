"""The change of one parameter as data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from mechstyle.errors import InputError

__all__ = ["WeightEdit", "content_id"]


@dataclass(frozen=True, eq=False)
class WeightEdit:
    """A change of one parameter, kept as two factors in fp64 on the CPU: ``delta = left @ right``.

    A parameter of other than two axes is taken as a matrix: its last axis is the columns, all others the
    rows.

    Args:
        parameter: name as in ``model.named_parameters()``, such as ``"blocks.4.mlp.W_out"``.
        keys: the keys that the change was computed to write at, where the editor knows them.

    Raises:
        InputError: the parts do not fit together or hold NaN or infinity.

    >>> WeightEdit("blocks.0.mlp.W_out", torch.ones(8, 1), torch.ones(1, 4)).delta().shape
    torch.Size([8, 4])
    """

    parameter: str
    left: Float[Tensor, "d_in rank"]
    right: Float[Tensor, "rank d_out"]
    keys: Float[Tensor, "key d_in"] | None = None

    def __post_init__(self) -> None:
        if self.left.ndim != 2 or self.right.ndim != 2 or self.left.shape[1] != self.right.shape[0]:
            raise InputError(
                f"WeightEdit of {self.parameter}: expected factors [d_in, rank] and [rank, d_out], "
                f"got {list(self.left.shape)} and {list(self.right.shape)}."
            )
        if self.keys is not None and (self.keys.ndim != 2 or self.keys.shape[1] != self.left.shape[0]):
            raise InputError(
                f"WeightEdit of {self.parameter}: expected keys [key, {self.left.shape[0]}], "
                f"got {list(self.keys.shape)}."
            )
        for name in ("left", "right", *(["keys"] if self.keys is not None else [])):
            factor = getattr(self, name).detach().to("cpu", torch.float64, copy=True)
            if not bool(torch.isfinite(factor).all()):
                raise InputError(
                    f"WeightEdit of {self.parameter}: {name} holds NaN or infinity; compute it again."
                )
            object.__setattr__(self, name, factor)

    @classmethod
    def dense(cls, parameter: str, delta: Float[Tensor, "*d_in d_out"]) -> WeightEdit:
        """Keep a change that has no known factors, exactly.

        >>> WeightEdit.dense("blocks.0.mlp.b_out", torch.ones(4)).shape
        (1, 4)
        """
        matrix = delta.detach().double().reshape(-1, delta.shape[-1])
        rows, columns = matrix.shape
        if rows < columns:
            return cls(parameter, torch.eye(rows, dtype=matrix.dtype), matrix)
        return cls(parameter, matrix, torch.eye(columns, dtype=matrix.dtype))

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the parameter as a matrix."""
        return self.left.shape[0], self.right.shape[1]

    def delta(self) -> Float[Tensor, "d_in d_out"]:
        """Return the full change, fp64."""
        return self.left @ self.right

    def scaled(self, factor: float) -> WeightEdit:
        """Return the same change, multiplied by a number; nothing is written at any key by a change of 0."""
        return replace(self, right=factor * self.right, keys=self.keys if factor else None)


def content_id(edits: Iterable[WeightEdit], fingerprint: str) -> str:
    """SHA-256 (hex) of changes and of the model they belong to; keys do not count.

    >>> len(content_id([], "3f1c09ab"))
    64
    """
    digest = hashlib.sha256(fingerprint.encode())
    for edit in edits:
        for factor in (edit.left, edit.right):
            digest.update(f"\n{edit.parameter} {list(factor.shape)}\n".encode())
            digest.update(factor.contiguous().numpy().tobytes())
    return digest.hexdigest()
