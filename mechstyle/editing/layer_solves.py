"""How one layer is solved: the closed form, or an update within the null space of preserved keys."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from jaxtyping import Float
from torch import Tensor

from mechstyle.null_space import null_space_update
from mechstyle.solve import LowRank, closed_form_update

__all__ = ["ClosedForm", "LayerRows", "LayerSolve", "NullSpace", "NullSpaceWarning"]


LEAST_SHARE: Final = 0.01
"""Of the keys' squared norm that should lie in the free directions."""


class NullSpaceWarning(UserWarning):
    """What is to be written lies almost wholly in directions that must stay."""


@dataclass(frozen=True, eq=False)
class LayerRows:
    """What is to be written in one layer, a row for each key.

    Args:
        residual: the wanted change of the layer's output at each key.
        read_keys: the keys at which it is to hold, where they are others.
        previous: gives the keys that earlier edits wrote at.
    """

    layer: int
    keys: Float[Tensor, "key d_mlp"]
    residual: Float[Tensor, "key d_model"]
    read_keys: Float[Tensor, "key d_mlp"] | None
    previous: Callable[[], Float[Tensor, "earlier d_mlp"]]


LayerSolve: TypeAlias = Callable[[LayerRows], LowRank]
"""What a method does in one layer: pure tensors."""


@dataclass(frozen=True, eq=False)
class ClosedForm:
    """ROME and EMMET (``ridge`` 0) and MEMIT; keys written before are not looked at."""

    moments: Mapping[int, Float[Tensor, "d_mlp d_mlp"]]
    ridge: float = 0.0

    def __call__(self, rows: LayerRows) -> LowRank:
        """See ``closed_form_update``."""
        moment = self.moments[rows.layer].to(rows.keys.device)
        return closed_form_update(rows.keys, rows.residual, moment, self.ridge, rows.read_keys)


@dataclass(frozen=True, eq=False)
class NullSpace:
    """AlphaEdit: ``l2`` is relative to the mean squared norm of the projected keys, unless ``absolute``.

    Where keys hardly reach into the free directions, it is relative to a share of the whole keys: otherwise
    the change would grow without bounds to write what can only be written at the preserved keys' cost.
    """

    bases: Mapping[int, Float[Tensor, "d_mlp kept"]]
    l2: float
    absolute: bool = False

    def __call__(self, rows: LayerRows) -> LowRank:
        """See ``null_space_update``."""
        basis = self.bases[rows.layer].to(rows.keys)
        whole = float(rows.keys.square().sum(-1).mean())
        free = float((rows.keys @ basis).square().sum(-1).mean())
        if free < LEAST_SHARE * whole:
            warnings.warn(
                f"alphaedit: at layer {rows.layer} only {free / whole:.2g} of the requests' squared keys is "
                "in the directions that preserved keys leave free, so that little is written; raise the "
                "threshold.",
                NullSpaceWarning,
                stacklevel=5,
            )
        scale = 1.0 if self.absolute else max(free, LEAST_SHARE * whole)
        return null_space_update(rows.keys, rows.residual, basis, self.l2 * scale, rows.previous())
