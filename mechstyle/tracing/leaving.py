"""What leaves a layer when a state inside of it is put in: one run of the block serves all tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from jaxtyping import Float
from torch import Tensor

from mechstyle.models import HookedModel
from mechstyle.runs import Recording, rerun_blocks
from mechstyle.sites import Site
from mechstyle.tracing.exchange import States, put_states

__all__ = ["Leaving"]


@dataclass(frozen=True, eq=False)
class Leaving:
    """Blocks of the base run again with states of the source.

    Outputs of attention and MLP, single heads, queries, rows of a pattern and neurons change what leaves
    their layer at their own token only: within a block a position reads others' inputs. So one run of the
    block, with the states of all tokens put in at once, holds the outcome for each token.

    Attributes:
        base: the recorded runs that receive.
        source: states that are put in.
        samples: rows of one cell.
    """

    model: HookedModel
    base: Recording
    source: States
    samples: int

    def __call__(
        self, site: Site, indices: Sequence[int | None], positions: range
    ) -> Float[Tensor, "index sample pos d_model"]:
        """What leaves the site's layer at these positions, for each head or neuron that is put in."""
        entries = [(row, at, index) for (row, index), at in product(enumerate(indices), positions)]
        after = rerun_blocks(
            self.model,
            self.base,
            self.base,
            hooks=[put_states(site, self.source, entries, stop=positions.stop, samples=self.samples)],
            layers=[site.layer],
            positions=positions,
            copies=len(indices) * self.samples // self.base.n_rows,
        )[0]
        return after.reshape(len(indices), self.samples, *after.shape[1:])
