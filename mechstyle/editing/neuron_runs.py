"""Runs with one layer's neurons replaced at each prompt's last token, resumed or whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechstyle.blocks import may_resume
from mechstyle.metrics import answer_logprobs
from mechstyle.models import HookedModel
from mechstyle.runs import Recording, capture, logits, record, resume
from mechstyle.sites import Site
from mechstyle.tokens import Batch, EncodedPrompt, pad

__all__ = ["NeuronRuns", "neuron_runs"]


class NeuronRuns(Protocol):
    """Runs of some prompts with their answers."""

    def observed(self) -> Float[Tensor, "row layer d_mlp"]:
        """What the neurons of every layer are at each prompt's last token."""
        ...

    def answer_logp(
        self, layer: int, neurons: Float[Tensor, "point row d_mlp"]
    ) -> Float[Tensor, "point row"]:
        """log P(answer) with these in place of the layer's own neurons there, with gradients."""
        ...


def neuron_runs(model: HookedModel, encoded: Sequence[EncodedPrompt]) -> NeuronRuns:
    """Resumed runs where the model allows them and carries no hooks, else whole ones."""
    side = "left" if may_resume(model) else "right"
    batch = pad(encoded, pad_id=0, side=side)
    last = batch.shift + torch.tensor([one.n_prompt - 1 for one in encoded])
    if side == "left":
        mask = None if bool(batch.attention_mask.all()) else batch.attention_mask
        base = record(model, batch.ids, attention_mask=mask, sites=_sites(model))
        return _Resumed(model, batch.ids, last, base)
    return _Whole(model, batch, last, batch.shift + torch.tensor([len(one) for one in encoded]))


@dataclass(frozen=True, eq=False)
class _Resumed:
    """Rows end together: nothing below the layer or before the first of the last prompt tokens is run."""

    model: HookedModel
    ids: Int[Tensor, "row pos"]
    last: Int[Tensor, " row"]
    base: Recording

    def observed(self) -> Tensor:
        return _at(self.base.states, _sites(self.model), self.last)

    def answer_logp(self, layer: int, neurons: Tensor) -> Tensor:
        start, width, points = int(self.last.min()), self.ids.shape[1], len(neurons)
        entering = self.base.entering(layer, start).repeat(points, 1, 1)
        found = resume(
            self.model,
            {layer: lambda: entering},
            base=self.base,
            start=start,
            n_last=width - start,
            hooks=[(Site(layer, "key").hook, _putting(neurons, self.last - start))],
            grad=True,
        )
        ids, first = self.ids[:, start:].repeat(points, 1), (self.last + 1 - start).repeat(points)
        logp: Tensor = answer_logprobs(found, ids, first).unflatten(0, (points, -1))
        return logp


@dataclass(frozen=True, eq=False)
class _Whole:
    """Whole sequences, padded on the right, which every backend runs alike."""

    model: HookedModel
    batch: Batch
    last: Int[Tensor, " row"]
    stop: Int[Tensor, " row"]

    def observed(self) -> Tensor:
        sites = _sites(self.model)
        states = capture(self.model, self.batch.ids, sites, attention_mask=self.batch.attention_mask)
        return _at(states, sites, self.last)

    def answer_logp(self, layer: int, neurons: Tensor) -> Tensor:
        points = len(neurons)
        ids, mask = (one.repeat(points, 1) for one in (self.batch.ids, self.batch.attention_mask))
        hooks = [(Site(layer, "key").hook, _putting(neurons, self.last))]
        found = logits(self.model, ids, attention_mask=mask, hooks=hooks, grad=True)
        first, stop = (self.last + 1).repeat(points), self.stop.repeat(points)
        logp: Tensor = answer_logprobs(found, ids, first, stop=stop).unflatten(0, (points, -1))
        return logp


def _sites(model: HookedModel) -> list[Site]:
    return [Site(layer, "key") for layer in range(int(model.cfg.n_layers))]


def _at(
    states: Mapping[Site, Tensor], sites: Sequence[Site], last: Int[Tensor, " row"]
) -> Float[Tensor, "row layer d_mlp"]:
    """The states of all layers at each row's last prompt token."""
    rows = torch.arange(len(last))
    return torch.stack([states[site][rows.to(states[site].device), last] for site in sites], dim=1)


def _putting(neurons: Float[Tensor, "point row d_mlp"], column: Int[Tensor, " row"]) -> Callable[..., Tensor]:
    """A hook that puts neurons at one column of each row."""

    def put(state: Tensor, hook: Any) -> Tensor:
        flat = neurons.flatten(0, 1).to(state)
        rows = torch.arange(len(flat), device=state.device)
        return state.index_put((rows, column.repeat(len(neurons)).to(state.device)), flat)

    return put
