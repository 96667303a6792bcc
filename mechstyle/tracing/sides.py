"""The two sides of a comparison: a clean run and a corrupted one, of equal width."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from mechstyle.runs import Hook

__all__ = ["Side"]


@dataclass(frozen=True, eq=False)
class Side:
    """One side: token ids, and what is done to them on the way in.

    A clean side has one row; a corrupted one has a row a noise draw or counterpart.

    Attributes:
        ids: the tokens that are run; the answer's last token predicts nothing and is left out.
        hooks: what corrupts the rows, at the embedding; row ``i`` of a batch of many cells is row
            ``i % n_rows`` of the side, so a hook must work for any multiple of the side's rows.
    """

    ids: Int[Tensor, "row pos"]
    hooks: tuple[Hook, ...] = ()

    @property
    def n_rows(self) -> int:
        """Rows of the side."""
        return len(self.ids)
