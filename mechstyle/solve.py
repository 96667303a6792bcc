"""The one closed form behind ROME, EMMET and MEMIT: pure tensors, no model.

With keys ``K [batch, d_in]``, a residual ``R [batch, d_out]`` (the change of output wanted at each key) and
the uncentred second moment ``C [d_in, d_in]`` of the keys to be preserved, the update of a linear map ``m = k
W + b`` is

    ``ΔW = C⁻¹ Kᵀ (K C⁻¹ Kᵀ + ridge · I)⁻¹ R``

``ridge = 0`` and one key is ROME, ``ridge = 0`` and a batch is EMMET, ``ridge > 0`` is MEMIT (by the
push-through identity the same matrix as ``(ridge · C + Kᵀ K)⁻¹ Kᵀ R``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mechstyle.errors import InputError, RangeError, WorkError

__all__ = ["LowRank", "closed_form_update"]

Form = Literal["auto", "batch", "dense"]

_SYMMETRY_TOLERANCE = 1e-5  # relative to the largest entry; covariances saved in fp32 stay well below it
_MISS = 1e-6  # relative to the residual: what the written keys may be off by
_DROWNED_JITTER = 1e-6  # relative to the mean diagonal: beyond it no digits are missing for want of jitter
_MOST_JITTER = 1.0  # relative to the mean diagonal: beyond it the matrix was never positive semi-definite


@dataclass(frozen=True)
class LowRank:
    """A matrix in factored form, ``left @ right``, and what had to be added to the diagonals to compute it.

    ``jitter`` was added to the covariance (or to ``ridge · C + Kᵀ K`` in the dense form), ``gram_jitter`` to
    the Gram matrix of the keys. Both are 0 when the matrices were positive definite as given.
    """

    left: Float[Tensor, "d_in rank"]
    right: Float[Tensor, "rank d_out"]
    jitter: float = 0.0
    gram_jitter: float = 0.0

    def dense(self) -> Float[Tensor, "d_in d_out"]:
        """Return the full matrix."""
        return self.left @ self.right


def closed_form_update(
    keys: Float[Tensor, "batch d_in"],
    residual: Float[Tensor, "batch d_out"],
    covariance: Float[Tensor, "d_in d_in"],
    ridge: float = 0.0,
    read_keys: Float[Tensor, "batch d_in"] | None = None,
    *,
    form: Form = "auto",
) -> LowRank:
    """Compute the update of a linear map that writes ``residual`` at ``keys`` and disturbs other keys least.

    Everything is computed in fp64 on the device of ``keys``. At ``ridge=0`` the written keys change by
    exactly ``residual``, and among all such updates this one has the smallest ``tr(ΔWᵀ C ΔW)``.

    Args:
        keys: one key a row.
        residual: the wanted change of the output at each key.
        covariance: uncentred second moment of the keys to preserve, symmetric positive semi-definite. When it
            is singular the smallest multiple of the identity (of a geometric grid) is added that makes the
            Cholesky factorisation succeed and the keys be written to six digits, and it is reported as
            ``LowRank.jitter``.
        ridge: 0 writes the residual exactly; larger values trade it against the preserved keys.
        read_keys: the keys at which the residual is to hold when they differ from ``keys`` (the Gram matrix
            is then ``K_read C⁻¹ Kᵀ``): published ROME takes the direction from an averaged key and the
            divisor from the bare prompt's key.
        form: ``"batch"`` solves ``batch x batch``, ``"dense"`` ``d_in x d_in``; ``"auto"`` takes the smaller,
            and ``batch x batch`` where the other is singular, since its jitter would stand in for ``C``.

    Raises:
        InputError: a tensor has the wrong shape, holds NaN or infinity, or the covariance is not symmetric.
        RangeError: ``ridge`` is negative or not finite.
        WorkError: no unique solution exists (``read_keys`` orthogonal to ``C⁻¹ keys``).

    Meng et al. 2022 (ROME) eq. 2, Meng et al. 2023 (MEMIT) eq. 14, Gupta et al. 2024 (EMMET) eq. 12.

    >>> import torch
    >>> update = closed_form_update(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0]]), torch.eye(2))
    >>> update.dense().tolist()
    [[0.5], [0.0]]
    """
    _check(keys, residual, covariance, ridge, read_keys, form)
    keys = keys.detach().double()
    residual = residual.detach().to(keys)
    covariance = covariance.detach().to(keys)
    covariance = (covariance + covariance.T) / 2
    read = keys if read_keys is None else read_keys.detach().to(keys)
    n_keys, d_in = keys.shape
    if form == "batch" or (form == "auto" and n_keys < d_in):
        return _batch_form(keys, residual, covariance, ridge, read)
    update = _dense_form(keys, residual, covariance, ridge, read)
    if form == "auto" and update.jitter:  # dependent keys leave directions open that C has to settle
        return _batch_form(keys, residual, covariance, ridge, read)
    return update


def _batch_form(keys: Tensor, residual: Tensor, covariance: Tensor, ridge: float, read: Tensor) -> LowRank:
    """``left = C⁻¹ Kᵀ``, ``right = (K_read C⁻¹ Kᵀ + ridge I)⁻¹ R``.

    The smallest jitter that factors a singular ``C`` makes its unused directions so cheap that, where there
    are more keys than these, all others drown in rounding; a larger one then gives them their digits back.
    """
    first = update = _batch_solve(keys, residual, covariance, ridge, read, 0.0)
    scale = float(covariance.diagonal().mean())
    while _miss(update, residual, ridge, read) > _MISS:
        if update.jitter > _DROWNED_JITTER * scale:
            return first
        more = 10.0 * update.jitter or torch.finfo(keys.dtype).eps * scale
        update = _batch_solve(keys, residual, covariance, ridge, read, more)
    return update


def _miss(update: LowRank, residual: Tensor, ridge: float, read: Tensor) -> float:
    """How far the read keys' change is from what was solved for, relative to the residual."""
    written = read @ update.left @ update.right + ridge * update.right
    return float((written - residual).norm() / residual.norm().clamp(min=torch.finfo(residual.dtype).tiny))


def _batch_solve(
    keys: Tensor, residual: Tensor, covariance: Tensor, ridge: float, read: Tensor, at_least: float
) -> LowRank:
    factor, jitter = _cholesky(covariance, "covariance", at_least)
    left = torch.cholesky_solve(keys.T, factor)
    gram = read @ left
    gram.diagonal().add_(ridge)
    if read is not keys:
        return LowRank(left, _solve_general(gram, residual), jitter)
    gram_factor, gram_jitter = _cholesky((gram + gram.T) / 2, "keys")
    return LowRank(left, torch.cholesky_solve(residual, gram_factor), jitter, gram_jitter)


def _dense_form(keys: Tensor, residual: Tensor, covariance: Tensor, ridge: float, read: Tensor) -> LowRank:
    """``left = (ridge C + Kᵀ K_read)⁻¹ Kᵀ R``, ``right = I``."""
    normal = ridge * covariance + keys.T @ read
    identity = torch.eye(residual.shape[1], dtype=keys.dtype, device=keys.device)
    if read is not keys:
        return LowRank(_solve_general(normal, keys.T @ residual), identity)
    factor, jitter = _cholesky(normal, "keys")
    return LowRank(torch.cholesky_solve(keys.T @ residual, factor), identity, jitter)


def _cholesky(matrix: Tensor, argument: str, at_least: float = 0.0) -> tuple[Tensor, float]:
    """Factor ``matrix + jitter · I`` with the smallest jitter (of a geometric grid) that works."""
    size = matrix.shape[0]
    scale = float(matrix.diagonal().mean())
    floor = torch.finfo(matrix.dtype).eps * size * float(matrix.diagonal().max().clamp(min=0.0))
    jitter = at_least
    while jitter <= _MOST_JITTER * scale:
        shifted = matrix.clone()
        shifted.diagonal().add_(jitter)
        factor, info = torch.linalg.cholesky_ex(shifted)
        # A pivot lost in rounding means a singular matrix, also where the factorisation ran through.
        if int(info) == 0 and float(factor.diagonal().min()) ** 2 > floor:
            return factor, jitter
        jitter = 10.0 * jitter if jitter else torch.finfo(matrix.dtype).eps * scale
        if jitter == 0.0:
            break
    raise InputError(
        f"{argument}: expected a positive semi-definite, non-zero {size} x {size} matrix, got one that a "
        f"ridge of its own mean diagonal ({scale:.3g}) does not make positive definite; "
        "collect the covariance again from more text, and check that no key is all zeros"
    )


def _solve_general(matrix: Tensor, right: Tensor) -> Tensor:
    solution: Tensor
    solution, info = torch.linalg.solve_ex(matrix, right)
    if int(info) != 0 or not bool(torch.isfinite(solution).all()):
        raise WorkError(
            "read_keys: expected keys that meet the written ones (K_read C⁻¹ Kᵀ invertible), "
            "got a singular matrix; raise `ridge`, or leave `read_keys` out"
        )
    return solution


def _check(
    keys: Tensor, residual: Tensor, covariance: Tensor, ridge: float, read_keys: Tensor | None, form: Form
) -> None:
    if form not in ("auto", "batch", "dense"):
        raise InputError(f"form: expected 'auto', 'batch' or 'dense', got {form!r}")
    if keys.ndim != 2 or 0 in keys.shape:
        raise InputError(
            f"keys: expected shape [batch, d_in], not empty, got {list(keys.shape)}; add a batch axis"
        )
    n_keys, d_in = keys.shape
    if residual.ndim != 2 or residual.shape[0] != n_keys or residual.shape[1] == 0:
        raise InputError(
            f"residual: expected shape [{n_keys}, d_out], one row for each key, got {list(residual.shape)}"
        )
    if tuple(covariance.shape) != (d_in, d_in):
        raise InputError(
            f"covariance: expected shape [{d_in}, {d_in}] to go with keys of width {d_in}, "
            f"got {list(covariance.shape)}; is it from another layer or model?"
        )
    if read_keys is not None and read_keys.shape != keys.shape:
        raise InputError(
            f"read_keys: expected the shape of keys {list(keys.shape)}, got {list(read_keys.shape)}"
        )
    named = {"keys": keys, "residual": residual, "covariance": covariance, "read_keys": read_keys}
    for name, tensor in named.items():
        if tensor is not None and not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"{name}: expected finite numbers, got NaN or infinity; check the run that made it"
            )
    asymmetry = float((covariance - covariance.T).abs().max())
    largest = float(covariance.abs().max())
    if asymmetry > _SYMMETRY_TOLERANCE * largest:
        raise InputError(
            f"covariance: expected a symmetric matrix, got entries that differ from their mirror by "
            f"{asymmetry:.3g} (largest entry {largest:.3g}); pass the second moment E[k kᵀ] itself"
        )
    if not math.isfinite(ridge) or ridge < 0:
        raise RangeError(f"ridge: expected a finite number >= 0, got {ridge}")
