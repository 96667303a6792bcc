"""What goes from one side of a comparison to the other: which states, and the hooks that put them in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from mechstyle.runs import Hook
from mechstyle.sites import Site, by_position
from mechstyle.tracing.grid import Cell

__all__ = ["Entry", "Exchange", "Score", "Scored", "States", "put_in", "put_states"]

Score = Callable[[Float[Tensor, "row answer vocab"]], Float[NDArray[np.float64], " row"]]
"""The metric of each row; logits are not kept."""
Scored = tuple[Sequence[Cell], Float[NDArray[np.float64], "cell sample"]]
Entry = tuple[int, int, int | None]
"""Where a state is put in: the cell's number in the batch, the token, and the head or neuron, if any."""


@dataclass(frozen=True)
class Exchange:
    """Which states go from one side to the other, and what of the runs is read.

    Attributes:
        put: states of the source that may be put in.
        held: states of the base that may be held.
        denoising: the clean side is the source and the corrupted one the base; else the other way round.
        first: the first position at which the sides differ.
        n_last: how many positions at the end predict the answer.
    """

    put: tuple[Site, ...]
    held: tuple[Site, ...]
    denoising: bool
    first: int
    n_last: int

    @property
    def of_clean(self) -> tuple[Site, ...]:
        """What the clean run must give."""
        return self.put if self.denoising else self.held

    @property
    def of_corrupted(self) -> tuple[Site, ...]:
        """What the corrupted runs must give."""
        return self.held if self.denoising else self.put


@dataclass(frozen=True, eq=False)
class States:
    """States of one side.

    Attributes:
        at: by site; one row serves all samples, else there is a row a sample.
        start: the position of the first column.
    """

    at: Mapping[Site, Float[Tensor, "row pos *rest"]]
    start: int = 0

    def of(self, site: Site, columns: Tensor, indices: Tensor | None) -> Float[Tensor, "entry row *rest"]:
        """Those at some positions, each with its head or neuron."""
        state, columns = by_position(site.kind, self.at[site]), columns - self.start
        found = state[:, columns] if indices is None else state[:, columns, indices]
        return found.transpose(0, 1)


def put_in(
    cells: Sequence[Cell],
    sites_of: Callable[[Cell], Sequence[Site]],
    states: States,
    *,
    stop: int,
    samples: int,
) -> list[Hook]:
    """Hooks that put each cell's states in, in the cell's own rows of a batch.

    Args:
        cells: in the order of their rows.
        sites_of: which states of a cell.
        stop: the batch holds the last positions before this one.
        samples: rows of one cell.
    """
    wanted: dict[Site, list[Entry]] = {}
    for number, cell in enumerate(cells):
        for site in sites_of(cell):
            wanted.setdefault(site, []).extend((number, token, cell.index) for token in cell.tokens)
    return [put_states(site, states, entries, stop=stop, samples=samples) for site, entries in wanted.items()]


def put_states(site: Site, states: States, entries: Sequence[Entry], *, stop: int, samples: int) -> Hook:
    """One hook that puts states in; all entries have an index, or none has.

    Args:
        stop: the batch holds the last positions before this one.
        samples: rows of one cell.
    """
    device = states.at[site].device
    row, column = (torch.tensor([entry[axis] for entry in entries], device=device) for axis in (0, 1))
    numbers = [entry[2] for entry in entries if entry[2] is not None]
    index = torch.tensor(numbers, device=device) if numbers else None

    def put(state: Tensor, hook: Any) -> Tensor:
        state = state.clone()
        rows = by_position(site.kind, state).unflatten(0, (-1, samples))
        at = column - (stop - rows.shape[2])
        here = at >= 0  # A resumed run holds the last positions only.
        part = None if index is None else index[here]
        new = states.of(site, column[here], part)
        if new.ndim > 2:
            new = new[..., : rows.shape[-1]]  # Patterns: no query attends to a later key.
        if part is None:
            rows[row[here], :, at[here]] = new
        else:
            rows[row[here], :, at[here], part] = new
        return state

    return site.hook, put
