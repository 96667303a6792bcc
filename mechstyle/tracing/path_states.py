"""What two runs leave behind for path patching, and the hooks that read and set states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from mechstyle.runs import Hook
from mechstyle.sites import Site
from mechstyle.tracing.path_ends import Place

__all__ = ["Inputs", "Pair", "read_inputs", "reading", "set_inputs", "spread"]

Inputs = Mapping[Place, Float[Tensor, "row pos ..."]]
"""Receivers' inputs: of their heads alone, where they have heads."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Two runs and the receivers.

    Attributes:
        base, source: the tokens of the run that receives, and of the one that sends.
        n_answer: how many positions at the end predict the answer.
        run_mlps: MLPs above a sender see what it changed; else their outputs are held at the base's.
    """

    base: Int[Tensor, "1 pos"]
    source: Int[Tensor, "1 pos"]
    places: tuple[Place, ...]
    n_answer: int
    run_mlps: bool


def reading(sites: Sequence[Site]) -> tuple[list[Hook], dict[Site, Tensor]]:
    """Hooks that copy the states at some sites, and where the copies will be."""
    found: dict[Site, Tensor] = {}

    def reader(site: Site) -> Hook:
        def read(state: Tensor, hook: Any) -> None:
            found[site] = state.detach().clone()

        return site.hook, read

    return [reader(site) for site in sites], found


def read_inputs(places: Sequence[Place]) -> tuple[list[Hook], dict[Place, Tensor]]:
    """Hooks that copy the receivers' inputs, and where the copies will be."""
    found: dict[Place, Tensor] = {}

    def reader(place: Place) -> Hook:
        def read(state: Tensor, hook: Any) -> None:
            mine = state if place.heads is None else state[:, :, list(place.heads)]
            found[place] = mine.detach().clone()

        return place.hook, read

    return [reader(place) for place in places], found


def set_inputs(inputs: Inputs) -> list[Hook]:
    """Hooks that set the receivers' inputs; a run may hold only their first rows and last positions."""

    def setter(place: Place, values: Tensor) -> tuple[str, Callable[..., Tensor]]:
        def put(state: Tensor, hook: Any) -> Tensor:
            own = values[: len(state), -state.shape[1] :]
            if place.heads is None:
                return own
            state = state.clone()
            state[:, :, list(place.heads)] = own
            return state

        return place.hook, put

    return [setter(place, values) for place, values in inputs.items()]


def spread(
    base: Inputs, changed: Inputs, positions: Int[Tensor, " pos"], *, rows: int, start: int
) -> dict[Place, Tensor]:
    """Inputs of many rows from a position on: those of the one base row, but where they were changed.

    Args:
        changed: for the first rows, and these positions only.
    """
    found = {}
    for place, state in base.items():
        whole = state[:, start:].repeat(rows, *[1] * (state.ndim - 1))
        if place in changed:
            whole[: len(changed[place]), positions - start] = changed[place]
        found[place] = whole
    return found
