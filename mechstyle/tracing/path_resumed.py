"""Path patching by runs with held attention and resumed runs: what cannot change is not computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechstyle.models import HookedModel
from mechstyle.runs import Recording, logits, record, resume
from mechstyle.runs.held import run_held
from mechstyle.sites import Site
from mechstyle.tracing.path_ends import Sender
from mechstyle.tracing.path_states import Inputs, Pair, read_inputs, reading, set_inputs, spread
from mechstyle.weights import parameter_value

__all__ = ["ResumedPaths"]


@dataclass(frozen=True, eq=False)
class ResumedPaths:
    """A base run, and what each sender adds to the residual stream when it comes from the source run.

    Attributes:
        base_logits, source_logits: those that predict the answer's tokens.
        base: the base run.
        inputs: the receivers' inputs in it.
        changes: a layer's output of a head (row: head) or of the MLP, source minus base.
    """

    model: HookedModel
    pair: Pair
    base_logits: Float[Tensor, "1 answer vocab"]
    source_logits: Float[Tensor, "1 answer vocab"]
    base: Recording
    inputs: Inputs
    changes: Mapping[Site, Float[Tensor, "head pos d_model"]]

    @classmethod
    def of(cls, model: HookedModel, pair: Pair) -> ResumedPaths:
        """Run both prompts."""
        layers = range(int(model.cfg.n_layers))
        readers, inputs = read_inputs(pair.places)
        sites = [Site(layer, kind) for layer in layers for kind in ("attn", "mlp", "z")]
        recorded = record(model, pair.base, sites=sites, hooks=readers)
        here = recorded.states
        senders, there = reading([site for site in sites if site.kind != "attn"])
        source_logits = logits(model, pair.source, hooks=senders, n_last=pair.n_answer)
        changes = {}
        for layer in layers:
            mlp, attn, z = (Site(layer, kind) for kind in ("mlp", "attn", "z"))
            changes[mlp] = there[mlp] - here[mlp]
            by_head = (there[z] - here[z])[0].transpose(0, 1)
            changes[attn] = by_head @ parameter_value(model, attn.parameter).detach()
        top, start = len(layers), recorded.n_positions - pair.n_answer
        final = {top: lambda: recorded.entering(top, start)}
        base_logits = resume(model, final, base=recorded, start=start, n_last=pair.n_answer)
        return cls(model, pair, base_logits, source_logits, recorded, inputs, changes)

    def patched(
        self, senders: Sequence[Sender], positions: Sequence[int], *, max_rows: int
    ) -> Iterator[tuple[Sequence[Sender], Float[Tensor, "row answer vocab"]]]:
        """Logits for every sender that a receiver hears; the others change nothing.

        Args:
            senders: in the order of layers.
            positions: in rising order; at all of them the sender is patched.
            max_rows: rows, which are senders, in one batch.
        """
        n_answer, top = self.pair.n_answer, int(self.model.cfg.n_layers)
        heard = [sender for sender in senders if self._joins(sender) <= top]
        if all(place.joins == top for place in self.inputs):
            positions = [position for position in positions if position >= self.base.n_positions - n_answer]
        if not positions:
            return
        at = torch.tensor(positions, device=self.base.residuals[0].device)
        for first in range(0, len(heard), max_rows):
            some = heard[first : first + max_rows]
            yield some, self._run(some, at)

    def received(self, senders: Sequence[Sender], positions: Int[Tensor, " pos"]) -> Inputs:
        """The receivers' inputs, at some positions, when a sender is patched there and attention is held.

        A row is a sender; senders that do not reach a receiver have no row there: they are the last ones.
        """
        readers, found = read_inputs(list(self.inputs))
        added = {
            Site(layer, "mlp" if kind == "mlp" else "attn"): self._change(list(group), positions)
            for (layer, kind), group in groupby(senders, key=lambda sender: (sender.layer, sender.kind))
        }
        run_held(
            self.model, added, base=self.base, positions=positions, run_mlps=self.pair.run_mlps, hooks=readers
        )
        return found

    def _run(self, senders: Sequence[Sender], positions: Tensor) -> Tensor:
        n_answer = self.pair.n_answer
        start = min(int(positions[0]), self.base.n_positions - n_answer)
        received = self.received(senders, positions)
        inputs = spread(self.inputs, received, positions, rows=len(senders), start=start)
        joining: dict[int, Callable[[], Tensor]] = {}
        first = 0
        for layer, group in groupby(senders, key=self._joins):
            rows = slice(first, first := first + len(list(group)))
            joining[layer] = lambda layer=layer, rows=rows: (  # type: ignore[misc]
                self._entering(layer, rows, inputs, start)
            )
        return resume(
            self.model, joining, base=self.base, start=start, n_last=n_answer, hooks=set_inputs(inputs)
        )

    def _entering(self, layer: int, rows: slice, inputs: Inputs, start: int) -> Tensor:
        """What enters the first layer that changes: the base's, but for receivers just below it."""
        residual = self.base.entering(layer, start).expand(rows.stop - rows.start, -1, -1)
        for place, values in inputs.items():
            if place.layer < layer == place.joins:
                if place.kind == "resid":
                    return values[rows]
                residual = residual + values[rows] - self.inputs[place][:, start:]
        return residual

    def _joins(self, sender: Sender) -> int:
        """The layer from which on a sender's rows must be run; beyond the last one if nobody hears it."""
        parallel = bool(self.model.cfg.parallel_attn_mlp)
        heard = [place.joins for place in self.inputs if place.hears(sender, parallel=parallel)]
        return min(heard, default=int(self.model.cfg.n_layers) + 1)

    def _change(self, senders: Sequence[Sender], positions: Tensor) -> Tensor:
        """What the senders of one layer and kind add at these positions."""
        first = senders[0]
        if first.kind == "mlp":
            return self.changes[Site(first.layer, "mlp")][:, positions]
        heads = [sender.head for sender in senders]
        return self.changes[Site(first.layer, "attn")][heads][:, positions]
