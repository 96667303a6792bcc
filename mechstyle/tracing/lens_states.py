"""States of one prompt by layer, and the model's own final norm and unembedding for any of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechstyle.blocks import may_resume
from mechstyle.models import HookedModel
from mechstyle.runs import Recording, capture, default_memory, logits, record, resume
from mechstyle.sites import Site

__all__ = ["LensState", "LensStates", "Unembed", "read_states"]

LensState = Literal["resid", "mlp", "attn"]
COPIES = 6
"""Copies of logits in fp32 that a lens holds at once: their logarithms and those of the final ones."""


class Unembed(Protocol):
    """The model's final norm and unembedding, for states at the last positions of its prompt."""

    def __call__(self, states: Float[Tensor, "row last d_model"]) -> Float[Tensor, "row last vocab"]:
        """Logits of the states."""
        ...


@dataclass(frozen=True, eq=False)
class LensStates:
    """States of a prompt.

    Attributes:
        of: by kind, a row a layer. "resid" has one row more: first comes what enters layer 0.
        unembed: gives the logits of any of them.
        cells: how many states may be unembedded at once.
    """

    of: Mapping[LensState, Float[Tensor, "layer pos d_model"]]
    unembed: Unembed
    cells: int

    def columns(self) -> Iterator[slice]:
        """Positions that are looked at together."""
        n_positions = self.of["resid"].shape[1]
        # Half of the memory is for the final distributions there.
        width = min(n_positions, max(1, self.cells // 2))
        return (slice(first, min(first + width, n_positions)) for first in range(0, n_positions, width))

    def rows(self, state: LensState, columns: slice) -> Iterator[slice]:
        """Layers of a kind that are looked at together, at so many positions."""
        n_rows, most = len(self.of[state]), max(1, self.cells // (2 * (columns.stop - columns.start)))
        return (slice(first, min(first + most, n_rows)) for first in range(0, n_rows, most))


def read_states(model: HookedModel, ids: Int[Tensor, "1 pos"], kinds: Sequence[LensState]) -> LensStates:
    """Run a prompt once and keep the states of these kinds, and of the residual stream in any case.

    Example:
        >>> states = read_states(model, ids, ["mlp"])  # doctest: +SKIP
        >>> states.unembed(states.of["resid"][-1:]).shape  # doctest: +SKIP
        torch.Size([1, 7, 5000])
    """
    layers = range(int(model.cfg.n_layers))
    sites = {kind: [Site(layer, kind) for layer in layers] for kind in kinds if kind != "resid"}
    inner = [site for some in sites.values() for site in some]
    unembed: Unembed
    if may_resume(model):
        recording = record(model, ids, sites=inner)
        residual, found, unembed = recording.residuals, recording.states, _Resumed(model, recording)
    else:
        entering: list[Tensor] = []

        def read(state: Tensor, hook: Any) -> None:
            entering.append(state.detach().clone())

        after = [Site(layer, "resid") for layer in layers]
        found = capture(model, ids, [*inner, *after], hooks=[("blocks.0.hook_resid_pre", read)])
        residual, unembed = (entering[0], *(found[site] for site in after)), _Whole(model, ids)
    states: dict[LensState, Tensor] = {"resid": torch.cat(list(residual))}
    for kind, some in sites.items():
        states[kind] = torch.cat([found[site] for site in some])
    bytes_of_one = 4 * COPIES * int(model.cfg.d_vocab)
    return LensStates(states, unembed, max(1, default_memory(model) // bytes_of_one))


@dataclass(frozen=True, eq=False)
class _Resumed:
    """Runs that begin above the last layer."""

    model: HookedModel
    recording: Recording

    def __call__(self, states: Float[Tensor, "row last d_model"]) -> Float[Tensor, "row last vocab"]:
        width, top = states.shape[1], int(self.model.cfg.n_layers)
        start = self.recording.n_positions - width
        return resume(self.model, {top: lambda: states}, base=self.recording, start=start, n_last=width)


@dataclass(frozen=True, eq=False)
class _Whole:
    """Whole runs in which the states take the place of what leaves the last layer."""

    model: HookedModel
    ids: Int[Tensor, "1 pos"]

    def __call__(self, states: Float[Tensor, "row last d_model"]) -> Float[Tensor, "row last vocab"]:
        width = states.shape[1]

        def replaced(state: Tensor, hook: Any) -> Tensor:
            return torch.cat([state[:, :-width], states.to(state.dtype)], dim=1)

        last = Site(int(self.model.cfg.n_layers) - 1, "resid").hook
        ids = self.ids.expand(len(states), -1)
        return logits(self.model, ids, hooks=[(last, replaced)], n_last=width)
