"""What a trace is to do, checked before any work: kinds, layers, tokens, direction and engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from mechstyle.errors import InputError, RangeError
from mechstyle.models import HookedModel, require_hooked
from mechstyle.sites import Site, check_layer
from mechstyle.tracing.engines import Engine, choose_engine
from mechstyle.tracing.exchange import Exchange
from mechstyle.tracing.grid import Cell, Tokens, cells_of, default_window
from mechstyle.tracing.kinds import TracedKind, count_of, kinds_named

__all__ = ["Direction", "Plan", "plan_cells"]

Direction = Literal["denoising", "noising"]


@dataclass(frozen=True)
class Plan:
    """The cells that are wanted, of any prompt.

    Attributes:
        window: layers of a window.
        neuron_layer: the layer of kinds that have one; None where there are none.
        tokens: named sets of tokens, each a place of its own; None for all tokens one by one.
        direction: "denoising" puts clean states into the corrupted run, "noising" corrupted ones into the
            clean run.
        max_rows: rows in one run; None for what fits into memory.
        engine: "resume" or "whole".
    """

    kinds: tuple[TracedKind, ...]
    n_layers: int
    sizes: tuple[int | None, ...]
    window: int
    neuron_layer: int | None
    tokens: Tokens | None
    direction: Direction
    max_rows: int | None
    engine: Engine

    def layers(self, kind: TracedKind) -> Sequence[int]:
        """The layers of a kind's grid."""
        if kind.one_layer:
            assert self.neuron_layer is not None
            return [self.neuron_layer]
        return range(self.n_layers)

    def shape(self, kind: TracedKind, n_places: int) -> tuple[int, ...]:
        """Sizes of a kind's grid after the sample axis."""
        last = self.sizes[self.kinds.index(kind)]
        layers = () if kind.one_layer else (self.n_layers,)
        return (n_places, *layers, *(() if last is None else (last,)))

    def cells(self, sets: Sequence[Sequence[int]], *, first: int) -> list[Cell]:
        """All cells that may differ from the baseline.

        Args:
            sets: the tokens of each place on the token axis.
            first: the first position at which the sides differ.
        """
        return [
            cell
            for kind, n_indices in zip(self.kinds, self.sizes, strict=True)
            for cell in cells_of(
                kind,
                sets,
                layers=self.layers(kind),
                n_layers=self.n_layers,
                window=self.window,
                n_indices=n_indices,
                first=first,
            )
        ]

    def exchange(self, *, first: int, n_last: int) -> Exchange:
        """The states that the cells need from either side."""
        put = [Site(layer, kind.site) for kind in self.kinds for layer in self.layers(kind)]
        held = [
            Site(layer, kind.held)
            for kind in self.kinds
            if kind.held is not None
            for layer in range(1, self.n_layers)
        ]
        denoising = self.direction == "denoising"
        return Exchange(tuple(dict.fromkeys(put)), tuple(dict.fromkeys(held)), denoising, first, n_last)

    def record(self) -> dict[str, Any]:
        """The settings, for provenance."""
        return {
            "kinds": [kind.name for kind in self.kinds],
            "window": self.window,
            "neuron_layer": self.neuron_layer,
            "direction": self.direction,
            "engine": self.engine,
        }


def plan_cells(
    model: HookedModel,
    kinds: Sequence[str],
    *,
    window: int | None = None,
    neuron_layer: int | None = None,
    tokens: Tokens | None = None,
    direction: Direction = "denoising",
    batch_size: int | None = None,
    engine: Engine = "auto",
) -> Plan:
    """Check what is asked for, before any work.

    Args:
        window: None is 10 of 48 layers, scaled to the model's depth.
        neuron_layer: needed for, and only for, the kind "neurons".

    Raises:
        ModelError: no model.
        InputError: an unknown kind, direction or engine, or a neuron layer without neurons or the reverse.
        RangeError: `window`, `batch_size` or `neuron_layer` is out of range.

    Example:
        >>> plan_cells(model, ("resid", "heads")).engine  # doctest: +SKIP
        'resume'
    """
    require_hooked(model)
    chosen, n_layers = kinds_named(kinds), int(model.cfg.n_layers)
    for name, value in (("window", window), ("batch_size", batch_size)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise RangeError(f"{name}: expected a whole number of at least 1, got {value!r}.")
    if direction not in get_args(Direction):
        raise InputError(f"direction: expected 'denoising' or 'noising', got {direction!r}.")
    needing = [kind.name for kind in chosen if kind.one_layer]
    if needing and neuron_layer is None:
        raise InputError(
            f"neuron_layer: expected the layer whose neurons are wanted, from 0 to {n_layers - 1}, because "
            f"kinds has {needing[0]!r}; got None."
        )
    if neuron_layer is not None:
        check_layer(neuron_layer, n_layers, name="neuron_layer")
        if not needing:
            raise InputError(
                f"neuron_layer: expected None without the kind 'neurons', got {neuron_layer}. Add 'neurons' "
                "to kinds."
            )
    return Plan(
        chosen,
        n_layers,
        tuple(None if kind.index is None else count_of(model.cfg, kind.index) for kind in chosen),
        default_window(n_layers) if window is None else window,
        neuron_layer,
        tokens,
        direction,
        batch_size,
        choose_engine(model, engine),
    )
