"""Updates that keys of a preserved set cannot see: pure tensors, no model.

With ``U [d_in, kept]`` an orthonormal basis of the directions in which the preserved keys hardly reach, keys
``K [batch, d_in]``, residual ``R [batch, d_out]`` and keys ``K_p`` written before, the update of a linear map
``m = k W + b`` is, with ``P = U Uᵀ``,

    ``ΔW = (P (KᵀK + K_pᵀK_p) + l2 · I)⁻¹ P Kᵀ R``

whose columns lie in the span of ``U``, so that a key orthogonal to ``U`` gives what it gave before.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mechstyle.errors import InputError, RangeError
from mechstyle.solve import LowRank

__all__ = ["null_space", "null_space_update"]


def null_space(
    covariance: Float[Tensor, "d_in d_in"], threshold: float, *, absolute: bool = False
) -> Float[Tensor, "d_in kept"]:
    """Return the eigenvectors of a second moment whose eigenvalues are small, fp64, as columns.

    Args:
        threshold: largest eigenvalue that counts as small, as a multiple of the mean eigenvalue.
        absolute: take ``threshold`` as it is, in squared units of the keys; what it means then depends on
            their scale.

    Raises:
        InputError: not a square finite matrix, or no eigenvalue is small enough.
        RangeError: ``threshold`` is negative or not finite.

    Fang et al. 2024 (AlphaEdit), eq. 4.

    >>> null_space(torch.diag(torch.tensor([1.0, 0.0])), 0.01).abs().tolist()
    [[0.0], [1.0]]
    """
    if not math.isfinite(threshold) or threshold < 0:
        raise RangeError(f"threshold: expected a finite number of 0 or more, got {threshold}.")
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1] or covariance.numel() == 0:
        raise InputError(f"covariance: expected a square matrix, got shape {list(covariance.shape)}.")
    if not bool(torch.isfinite(covariance).all()):
        raise InputError("covariance: holds NaN or infinity; collect it again.")
    exact = covariance.detach().double()
    values, vectors = torch.linalg.eigh((exact + exact.T) / 2)
    mean = float(values.mean())
    limit = threshold if absolute else threshold * mean
    # Eigenvalues that are zero in exact arithmetic come out as rounding of the largest.
    limit = max(limit, torch.finfo(values.dtype).eps * len(values) * float(values[-1].abs()))
    kept: Tensor = vectors[:, values <= limit]
    if kept.shape[1] == 0:
        raise InputError(
            f"covariance: none of its {len(values)} eigenvalues (smallest {float(values[0]):.3g}, mean "
            f"{mean:.3g}) is at most {limit:.3g}, so no direction is free to write into; raise the threshold."
        )
    return kept


def null_space_update(
    keys: Float[Tensor, "batch d_in"],
    residual: Float[Tensor, "batch d_out"],
    basis: Float[Tensor, "d_in kept"],
    l2: float,
    previous: Float[Tensor, "earlier d_in"] | None = None,
) -> LowRank:
    """Compute the update that writes ``residual`` at ``keys`` within the span of ``basis``, least squares.

    Args:
        basis: orthonormal columns, as ``null_space`` returns them.
        l2: weight of the size of the update, in squared units of the keys.
        previous: keys written before, whose outputs are to stay.

    Raises:
        InputError: shapes that do not fit, or numbers that are not finite.
        RangeError: ``l2`` is not a finite number above 0.

    Fang et al. 2024 (AlphaEdit), eq. 11 and 14.

    >>> update = null_space_update(torch.ones(1, 2), torch.ones(1, 1), torch.eye(2)[:, :1], l2=1.0)
    >>> update.dense().tolist()
    [[0.5], [0.0]]
    """
    earlier = keys[:0] if previous is None else previous
    _check(keys, residual, basis, earlier, l2)
    free = basis.detach().double()
    all_keys = torch.cat([keys.detach().to(free), earlier.detach().to(free)]) @ free
    n_keys, n_free = len(keys), free.shape[1]
    # (GᵀG + l2)⁻¹ Gᵀ = Gᵀ (GGᵀ + l2)⁻¹: whichever of both is smaller is solved.
    if len(all_keys) < n_free:
        gram = all_keys @ all_keys.T
        chosen = torch.eye(len(all_keys), dtype=free.dtype, device=free.device)[:, :n_keys]
        gram.diagonal().add_(l2)
        inner = all_keys.T @ torch.cholesky_solve(chosen, torch.linalg.cholesky(gram))
    else:
        normal = all_keys.T @ all_keys
        normal.diagonal().add_(l2)
        inner = torch.cholesky_solve(all_keys[:n_keys].T, torch.linalg.cholesky(normal))
    return LowRank(free @ inner, residual.detach().to(free))


def _check(keys: Tensor, residual: Tensor, basis: Tensor, earlier: Tensor, l2: float) -> None:
    if not math.isfinite(l2) or l2 <= 0:
        raise RangeError(f"l2: expected a finite number above 0, got {l2}.")
    if keys.ndim != 2 or 0 in keys.shape:
        raise InputError(f"keys: expected shape [batch, d_in], not empty, got {list(keys.shape)}.")
    d_in = keys.shape[1]
    if residual.ndim != 2 or len(residual) != len(keys):
        raise InputError(f"residual: expected shape [{len(keys)}, d_out], got {list(residual.shape)}.")
    if basis.ndim != 2 or basis.shape[0] != d_in or basis.shape[1] == 0:
        raise InputError(f"basis: expected shape [{d_in}, kept], not empty, got {list(basis.shape)}.")
    if earlier.ndim != 2 or earlier.shape[1] != d_in:
        raise InputError(f"previous: expected shape [earlier, {d_in}], got {list(earlier.shape)}.")
    for name, tensor in {"keys": keys, "residual": residual, "basis": basis, "previous": earlier}.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{name}: expected finite numbers, got NaN or infinity.")
