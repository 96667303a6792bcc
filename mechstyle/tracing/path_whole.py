"""Path patching by whole runs: the form that needs nothing but hooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechstyle.models import HookedModel
from mechstyle.runs import Hook, logits
from mechstyle.tracing.path_ends import Place, Sender, SenderKind
from mechstyle.tracing.path_states import read_inputs, reading, set_inputs

__all__ = ["WholePaths"]

OUTPUTS = {"head": "blocks.{}.attn.hook_z", "mlp": "blocks.{}.hook_mlp_out"}
States = Mapping[str, Float[Tensor, "1 pos ..."]]


@dataclass(frozen=True, eq=False)
class WholePaths:
    """Two runs and the outputs of their heads and MLPs.

    Attributes:
        base_logits, source_logits: those that predict the answer's tokens.
        ids: the tokens of the base run.
        base, source: states by hook name.
        run_mlps: MLPs above a sender see what it changed; else their outputs are held at the base's.
    """

    model: HookedModel
    base_logits: Float[Tensor, "1 answer vocab"]
    source_logits: Float[Tensor, "1 answer vocab"]
    ids: Int[Tensor, "1 pos"]
    base: States
    source: States
    places: Sequence[Place]
    run_mlps: bool

    @classmethod
    def of(
        cls,
        model: HookedModel,
        base: Int[Tensor, "1 pos"],
        source: Int[Tensor, "1 pos"],
        places: Sequence[Place],
        *,
        n_answer: int,
        run_mlps: bool,
    ) -> WholePaths:
        """Run both prompts."""
        names = [hook.format(layer) for hook in OUTPUTS.values() for layer in range(int(model.cfg.n_layers))]
        found = []
        for ids in (base, source):
            readers, states = reading(names)
            found.append((logits(model, ids, hooks=readers, n_last=n_answer), states))
        (base_logits, base_states), (source_logits, source_states) = found
        return cls(
            model, base_logits, source_logits, base, base_states, source_states, places, run_mlps
        )  # fmt: skip

    def patched(
        self, senders: Sequence[Sender], positions: Sequence[int], *, max_rows: int
    ) -> Iterator[tuple[Sequence[Sender], Float[Tensor, "row answer vocab"]]]:
        """Logits for every sender, patched at all of these positions.

        Args:
            max_rows: rows, which are senders, in one batch.
        """
        for first in range(0, len(senders), max_rows):
            some = senders[first : first + max_rows]
            ids = self.ids.expand(len(some), -1)
            readers, received = read_inputs(self.places)
            n_answer = self.base_logits.shape[1]
            logits(self.model, ids, hooks=[*readers, *self._sending(some, positions)], n_last=1)
            yield some, logits(self.model, ids, hooks=set_inputs(received), n_last=n_answer)

    def _sending(self, senders: Sequence[Sender], positions: Sequence[int]) -> list[Hook]:
        """Hooks that hold what is held at the base's, and set each row's sender to the source's."""
        hooks = []
        for kind, name in OUTPUTS.items():
            for layer in range(int(self.model.cfg.n_layers)):
                here = [
                    (row, sender)
                    for row, sender in enumerate(senders)
                    if (sender.kind, sender.layer) == (kind, layer)
                ]
                held = kind == "head" or not self.run_mlps
                if held or here:
                    hooks.append(self._hook(kind, name.format(layer), here, positions, held))
        return hooks

    def _hook(
        self,
        kind: SenderKind,
        name: str,
        here: Sequence[tuple[int, Sender]],
        positions: Sequence[int],
        held: bool,
    ) -> Hook:
        base, source = self.base[name], self.source[name]

        def send(state: Tensor, hook: Any) -> Tensor:
            state = base.repeat(len(state), *[1] * (base.ndim - 1)) if held else state.clone()
            for row, sender in here:
                part: Any = (positions,) if kind == "mlp" else (positions, sender.head)
                state[(row, *part)] = source[(0, *part)]
            return state

        return name, send
