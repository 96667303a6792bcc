"""Path patching by whole runs: the form that needs nothing but hooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from jaxtyping import Float
from torch import Tensor

from mechstyle.models import HookedModel
from mechstyle.runs import Hook, logits
from mechstyle.sites import Kind, Site
from mechstyle.tracing.path_ends import Sender, SenderKind
from mechstyle.tracing.path_states import Pair, read_inputs, reading, set_inputs

__all__ = ["WholePaths"]

OUTPUTS: Final[Mapping[SenderKind, Kind]] = MappingProxyType({"heads": "z", "mlp": "mlp"})
States = Mapping[Site, Float[Tensor, "1 pos ..."]]


@dataclass(frozen=True, eq=False)
class WholePaths:
    """Two runs and the outputs of their heads and MLPs.

    Attributes:
        base_logits, source_logits: those that predict the answer's tokens.
        base, source: what heads and MLPs send in either run.
    """

    model: HookedModel
    pair: Pair
    base_logits: Float[Tensor, "1 answer vocab"]
    source_logits: Float[Tensor, "1 answer vocab"]
    base: States
    source: States

    @classmethod
    def of(cls, model: HookedModel, pair: Pair) -> WholePaths:
        """Run both prompts."""
        sites = [Site(layer, kind) for kind in OUTPUTS.values() for layer in range(int(model.cfg.n_layers))]
        found = []
        for ids in (pair.base, pair.source):
            readers, states = reading(sites)
            found.append((logits(model, ids, hooks=readers, n_last=pair.n_answer), states))
        (base_logits, base_states), (source_logits, source_states) = found
        return cls(model, pair, base_logits, source_logits, base_states, source_states)

    def patched(
        self, senders: Sequence[Sender], positions: Sequence[int], *, max_rows: int
    ) -> Iterator[tuple[Sequence[Sender], Float[Tensor, "row answer vocab"]]]:
        """Logits for every sender, patched at all of these positions.

        Args:
            max_rows: rows, which are senders, in one batch.
        """
        for first in range(0, len(senders), max_rows):
            some = senders[first : first + max_rows]
            ids = self.pair.base.expand(len(some), -1)
            readers, received = read_inputs(self.pair.places)
            logits(self.model, ids, hooks=[*readers, *self._sending(some, positions)], n_last=1)
            yield some, logits(self.model, ids, hooks=set_inputs(received), n_last=self.pair.n_answer)

    def _sending(self, senders: Sequence[Sender], positions: Sequence[int]) -> list[Hook]:
        """Hooks that hold what is held at the base's, and set each row's sender to the source's."""
        hooks = []
        for kind, output in OUTPUTS.items():
            for layer in range(int(self.model.cfg.n_layers)):
                here = [
                    (row, sender)
                    for row, sender in enumerate(senders)
                    if (sender.kind, sender.layer) == (kind, layer)
                ]
                held = kind == "heads" or not self.pair.run_mlps
                if held or here:
                    hooks.append(self._hook(Site(layer, output), here, positions, held))
        return hooks

    def _hook(
        self,
        site: Site,
        here: Sequence[tuple[int, Sender]],
        positions: Sequence[int],
        held: bool,
    ) -> Hook:
        base, source = self.base[site], self.source[site]

        def send(state: Tensor, hook: Any) -> Tensor:
            state = base.repeat(len(state), *[1] * (base.ndim - 1)) if held else state.clone()
            for row, sender in here:
                part: Any = (positions,) if sender.head is None else (positions, sender.head)
                state[(row, *part)] = source[(0, *part)]
            return state

        return site.hook, send
