"""The linear part of vectors that predicts a label: how well it does, and how to take it out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechstyle.errors import InputError

__all__ = ["Eraser", "fit_eraser", "leave_one_out"]

TOLERANCE = 1e-6
"""Directions whose variance is a smaller share of the largest hold nothing but rounding."""


@dataclass(frozen=True, eq=False)
class Eraser:
    """An affine map after which no linear predictor of the labels beats a constant (Belrose et al. 2023).

    Attributes:
        mean: of the fitted vectors.
        removed: the matrix Q of ``x - Q (x - mean)``.
        rank: its rank.
    """

    mean: Float[Tensor, " d"]
    removed: Float[Tensor, "d d"]
    rank: int

    def shift(self, vectors: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
        """What has to be added to vectors."""
        mean, removed = self.mean.to(vectors), self.removed.to(vectors)
        return -(vectors - mean) @ removed.T


def fit_eraser(vectors: Float[Tensor, "row d"], labels: Int[Tensor, " row"]) -> Eraser:
    """Fit the smallest change that leaves no covariance with the labels: LEACE, in fp64.

    ``x - W⁺ P W (x - mean)``, where ``W`` whitens the vectors and ``P`` projects on the columns of their
    whitened covariance with the labels (one-hot). Vectors outside of the span of the fitted ones keep what
    lies outside.

    Raises:
        InputError: fewer than two labels, shapes that do not fit, or numbers that are not finite.

    Example:
        >>> fit_eraser(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]),
        ...            torch.tensor([0, 1, 0, 1])).removed.round().tolist()
        [[1.0, 0.0], [0.0, 0.0]]
    """
    x, z = _checked(vectors, labels)
    mean = x.mean(0)
    centred, wanted = x - mean, z - z.mean(0)
    values, basis = torch.linalg.eigh(centred.T @ centred / len(x))
    kept = values > TOLERANCE * values[-1]
    root, basis = values[kept].sqrt(), basis[:, kept]
    whitened = basis.T @ (centred.T @ wanted / len(x)) / root[:, None]
    left, sizes, _ = torch.linalg.svd(whitened, full_matrices=False)
    left = left[:, sizes > TOLERANCE * sizes[0]]
    removed = (basis * root) @ left @ left.T @ (basis / root).T
    return Eraser(mean, removed, left.shape[1])


def leave_one_out(
    vectors: Float[Tensor, "row d"], labels: Int[Tensor, " row"], *, ridge: float = 0.1
) -> float:
    """Share of labels that ridge regression on all other vectors gets right.

    Args:
        ridge: in multiples of the vectors' mean variance.

    Raises:
        InputError: as `fit_eraser`.

    Example:
        >>> leave_one_out(torch.tensor([[0.0], [0.1], [1.0], [1.1]]), torch.tensor([0, 0, 1, 1]))
        1.0
    """
    x, z = _checked(vectors, labels)
    centred = x - x.mean(0)
    weight = ridge * len(x) * centred.var(0, correction=0).mean()
    inputs = torch.cat([torch.ones_like(x[:, :1]), centred], 1)
    penalty = weight * torch.eye(inputs.shape[1], dtype=x.dtype, device=x.device)
    penalty[0, 0] = 0.0
    hat = inputs @ torch.linalg.solve(inputs.T @ inputs + penalty, inputs.T)
    # A linear smoother's prediction of a row from all others needs no second fit.
    own = hat.diagonal()[:, None]
    predicted = (hat @ z - own * z) / (1 - own)
    return float((predicted.argmax(1) == z.argmax(1)).double().mean())


def _checked(vectors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors in fp64 and labels one-hot."""
    if vectors.ndim != 2 or labels.shape != vectors.shape[:1]:
        raise InputError(
            f"vectors: expected [row, d] and a label for each row, got {list(vectors.shape)} and "
            f"{list(labels.shape)}."
        )
    if not bool(torch.isfinite(vectors).all()):
        raise InputError("vectors: expected finite numbers, got NaN or infinity.")
    _, numbers = labels.unique(return_inverse=True)
    if len(numbers) == 0 or int(numbers.max()) < 1:
        raise InputError("labels: expected at least two different ones.")
    exact = vectors.detach().double()
    return exact, torch.nn.functional.one_hot(numbers).to(exact)
