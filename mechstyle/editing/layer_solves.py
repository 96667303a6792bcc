"""How one layer is solved: the closed form, or an update within the null space of preserved keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from mechstyle.null_space import null_space_update
from mechstyle.solve import LowRank, closed_form_update

__all__ = ["ClosedForm", "LayerSolve", "NullSpace"]


class LayerSolve(Protocol):
    """What a method does in one layer, given keys and residuals: pure tensors."""

    def __call__(
        self,
        layer: int,
        keys: Float[Tensor, "key d_mlp"],
        residual: Float[Tensor, "key d_model"],
        *,
        read_keys: Float[Tensor, "key d_mlp"] | None,
        previous: Float[Tensor, "earlier d_mlp"],
    ) -> LowRank:
        """The change of the layer's ``mlp.W_out``."""
        ...


@dataclass(frozen=True, eq=False)
class ClosedForm:
    """ROME and EMMET (``ridge`` 0) and MEMIT; keys written before are not looked at."""

    moments: Mapping[int, Float[Tensor, "d_mlp d_mlp"]]
    ridge: float = 0.0

    def __call__(
        self,
        layer: int,
        keys: Float[Tensor, "key d_mlp"],
        residual: Float[Tensor, "key d_model"],
        *,
        read_keys: Float[Tensor, "key d_mlp"] | None,
        previous: Float[Tensor, "earlier d_mlp"],
    ) -> LowRank:
        """See ``closed_form_update``."""
        return closed_form_update(keys, residual, self.moments[layer].to(keys.device), self.ridge, read_keys)


@dataclass(frozen=True, eq=False)
class NullSpace:
    """AlphaEdit: ``l2`` is relative to the mean squared norm of the projected keys, unless ``absolute``."""

    bases: Mapping[int, Float[Tensor, "d_mlp kept"]]
    l2: float
    absolute: bool = False

    def __call__(
        self,
        layer: int,
        keys: Float[Tensor, "key d_mlp"],
        residual: Float[Tensor, "key d_model"],
        *,
        read_keys: Float[Tensor, "key d_mlp"] | None,
        previous: Float[Tensor, "earlier d_mlp"],
    ) -> LowRank:
        """See ``null_space_update``."""
        basis = self.bases[layer].to(keys)
        scale = 1.0 if self.absolute else float((keys @ basis).square().sum(-1).mean())
        return null_space_update(keys, residual, basis, self.l2 * scale, previous)
