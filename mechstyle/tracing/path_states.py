"""What two runs leave behind for path patching, and the hooks that read and set states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechstyle.runs import Hook
from mechstyle.tracing.path_ends import Place

__all__ = ["Inputs", "read_inputs", "reading", "set_inputs", "spread"]

Inputs = Mapping[Place, Float[Tensor, "row pos ..."]]
"""Receivers' inputs: of their heads alone, where they have heads."""


def reading(names: Sequence[str]) -> tuple[list[Hook], dict[str, Tensor]]:
    """Hooks that copy the states at some places, and where the copies will be."""
    found: dict[str, Tensor] = {}

    def reader(name: str) -> Hook:
        def read(state: Tensor, hook: Any) -> None:
            found[name] = state.detach().clone()

        return name, read

    return [reader(name) for name in names], found


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
    """Hooks that set the receivers' inputs; a run may hold their first rows, and their last positions, only."""

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
