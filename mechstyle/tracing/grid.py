"""The cells of a trace: which states each one puts in, at which tokens and in which layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from mechstyle.errors import InputError, RangeError
from mechstyle.sites import Site
from mechstyle.tokens import EncodedPrompt
from mechstyle.tracing.kinds import TracedKind

__all__ = ["Cell", "Tokens", "cells_of", "default_window", "token_sets", "window_layers"]

Tokens = Mapping[str, "Sequence[int] | str"]
"""Name of a set -> indices of its tokens, or the role that they have."""


@dataclass(frozen=True)
class Cell:
    """One cell of a grid: this kind of state is put in at these tokens, in these layers.

    Attributes:
        tokens: in rising order.
        layer: the layer that the cell is said to be of.
        layers: the layers whose states are put in.
        index: the head, key-and-value head or neuron; None for all of the state.
        at: its place in the grid of its kind, after the sample axis.
    """

    kind: TracedKind
    tokens: tuple[int, ...]
    layer: int
    layers: range
    index: int | None
    at: tuple[int, ...]

    @property
    def joins(self) -> int:
        """The layer whose input, or inside, is the first to differ."""
        return self.layers[0] + (self.kind.reach != "later")

    @property
    def put(self) -> list[Site]:
        """The states that are put in."""
        return [Site(layer, self.kind.site) for layer in self.layers]

    def held(self, n_layers: int) -> list[Site]:
        """The states that stay as they were."""
        kind = self.kind.held
        return [] if kind is None else [Site(layer, kind) for layer in range(self.layer + 1, n_layers)]


def cells_of(
    kind: TracedKind,
    sets: Sequence[Sequence[int]],
    *,
    layers: Sequence[int],
    n_layers: int,
    window: int = 1,
    n_indices: int | None = None,
    first: int = 0,
) -> list[Cell]:
    """All cells of one kind that may differ from the baseline.

    Args:
        sets: the tokens of each place on the token axis.
        layers: the layers of the grid.
        window: layers of one cell, for kinds that have windows.
        n_indices: heads or neurons of a layer, for kinds that have them.
        first: tokens before this one are the same on both sides.

    Example:
        >>> cells_of(KINDS["resid"], [[4]], layers=range(1), n_layers=1)[0].tokens
        (4,)
    """
    width = window if kind.windowed else 1
    indices: Sequence[int | None] = [None] if n_indices is None else range(n_indices)
    found = []
    for (column, tokens), layer in product(enumerate(sets), layers):
        changed = tuple(sorted(token for token in tokens if token >= first))
        spread = window_layers(layer, width, n_layers)
        place = (column,) if kind.one_layer else (column, layer)
        found += [
            Cell(kind, changed, layer, spread, index, place if index is None else (*place, index))
            for index in indices
            if changed
        ]
    return found


def token_sets(tokens: Tokens | None, encoded: EncodedPrompt) -> dict[str, tuple[int, ...]] | None:
    """The indices of every named set, or None where each token is a place of its own.

    Raises:
        InputError: no sets, an empty one, a token twice, or a role that no token of the prompt has.
        RangeError: an index that is none of the prompt's tokens.

    Example:
        >>> token_sets({"subject": [1, 2], "end": "last prompt token"}, encoded)
        {'subject': (1, 2), 'end': (5,)}
    """
    if tokens is None:
        return None
    if not isinstance(tokens, Mapping) or not tokens:
        raise InputError(
            "tokens: expected a dict of names and token indices or a role, such as "
            f"{{'subject': [1, 2], 'end': 'last prompt token'}}, got {tokens!r}."
        )
    return {_named(name): _indices(name, chosen, encoded) for name, chosen in tokens.items()}


def _named(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise InputError(f"tokens: expected texts as names of the sets, got {name!r}.")
    return name


def _indices(name: str, chosen: Sequence[int] | str, encoded: EncodedPrompt) -> tuple[int, ...]:
    if isinstance(chosen, str):
        found = tuple(index for index, role in enumerate(encoded.roles) if role == chosen)
        if not found:
            roles = ", ".join(dict.fromkeys(encoded.roles))
            raise InputError(f"tokens: {name!r} expected a role of this prompt ({roles}), got {chosen!r}.")
        return found
    whole = isinstance(chosen, Sequence) and all(
        isinstance(index, int) and not isinstance(index, bool) for index in chosen
    )
    if not whole or not chosen or len(set(chosen)) < len(chosen):
        raise InputError(
            f"tokens: {name!r} expected one or more different token indices or a role, got {chosen!r}."
        )
    if not 0 <= min(chosen) <= max(chosen) < encoded.n_prompt:
        raise RangeError(
            f"tokens: {name!r} expected indices from 0 to {encoded.n_prompt - 1}, the tokens of the prompt, "
            f"got {list(chosen)}."
        )
    return tuple(sorted(chosen))


def default_window(n_layers: int) -> int:
    """ROME's window of 10 layers of 48, scaled to a model's depth and at least 1.

    Example:
        >>> default_window(48), default_window(12)
        (10, 2)
    """
    return min(10, max(1, round(n_layers * 10 / 48)))


def window_layers(layer: int, window: int, n_layers: int) -> range:
    """The layers of a window centred on `layer`: max(0, l - w // 2) to min(n, l + ceil(w / 2)) - 1.

    Example:
        >>> list(window_layers(5, 4, 12)), list(window_layers(0, 4, 12))
        ([3, 4, 5, 6], [0, 1])
    """
    return range(max(0, layer - window // 2), min(n_layers, layer + math.ceil(window / 2)))
