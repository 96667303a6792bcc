"""The cells of a trace: which layers each one restores."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mechstyle.sites import Kind

__all__ = ["Cell", "cells_of", "default_window", "window_layers"]


@dataclass(frozen=True)
class Cell:
    """One cell of a grid: this kind of state is put back at this token, in these layers."""

    kind: Kind
    token: int
    layer: int
    layers: range


def cells_of(kind: Kind, tokens: range, *, window: int, n_layers: int) -> list[Cell]:
    """All cells of one kind: one layer for "resid", else a window of layers.

    Example:
        >>> cells_of("resid", range(4, 5), window=2, n_layers=1)
        [Cell(kind='resid', token=4, layer=0, layers=range(0, 1))]
    """
    width = 1 if kind == "resid" else window
    return [
        Cell(kind, token, layer, window_layers(layer, width, n_layers))
        for token in tokens
        for layer in range(n_layers)
    ]


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
