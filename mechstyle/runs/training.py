"""Runs with other values in the place of some parameters, with gradients; the model is never touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mechstyle.bridge import is_bridge
from mechstyle.models import HookedModel
from mechstyle.runs.full import logits
from mechstyle.weights import parameter

__all__ = ["ReplacedRuns"]


class ReplacedRuns:
    """Runs of a model in which some parameters are replaced for the length of a run.

    Gradients reach the values that are put in and nothing else: the model's own parameters, their
    ``requires_grad`` and their ``grad`` stay as they are, also when a run is interrupted. Hooks on the model
    work. On a ``TransformerBridge`` the values go to the Hugging Face weights behind the names.

    Args:
        names: the parameters that runs may replace, by the names of a ``HookedTransformer``.

    Raises:
        ModelError: the model has no parameter of a name, or, on a bridge, none of its own.

    Example:
        >>> runs = ReplacedRuns(model, ["blocks.0.mlp.W_out"])  # doctest: +SKIP
        >>> runs.logits({"blocks.0.mlp.W_out": leaf}, ids).sum().backward()  # doctest: +SKIP
    """

    def __init__(self, model: HookedModel, names: Sequence[str]) -> None:
        self._holder = _Holder(model)
        # Each place that holds a weight, once: a bridge has several paths to one place, and putting a weight
        # back over two of them would leave the replacement in the model.
        slots = {
            f"{path}.{name}": weight
            for path, module in self._holder.named_modules()
            for name, weight in module._parameters.items()
            if weight is not None
        }
        self._own = {name: weight.detach() for name, weight in slots.items()}
        live = {name: parameter(model, name) for name in names}
        if is_bridge(model):
            self._places = {name: _places(view, self._own) for name, view in live.items()}
        else:
            self._places = {
                name: tuple(_Place(slot) for slot, weight in slots.items() if weight is own)
                for name, own in live.items()
            }

    def logits(
        self,
        values: Mapping[str, Float[Tensor, "..."]],
        ids: Int[Tensor, "batch pos"],
        *,
        attention_mask: Int[Tensor, "batch pos"] | None = None,
        n_last: int | None = None,
    ) -> Float[Tensor, "batch pos vocab"]:
        """Run whole sequences with the values in the place of the parameters, and keep the graph.

        Args:
            values: by name, in the model's dtype and shapes; parameters that are left out keep their own.
            attention_mask: as in ``runs.logits``.
            n_last: as there.

        Raises:
            InputError: as ``runs.logits``.
        """
        weights = dict(self._own)
        for name, value in values.items():
            for place in self._places[name]:
                weights[place.name] = place.filled(weights[place.name], value)
        arguments = {"ids": ids, "attention_mask": attention_mask, "n_last": n_last}
        found: Tensor = torch.func.functional_call(self._holder, weights, (), arguments, tie_weights=False)
        return found


class _Holder(nn.Module):
    """A module around the model, so that the library's own run is what is called."""

    def __init__(self, model: HookedModel) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, ids: Tensor, attention_mask: Tensor | None, n_last: int | None) -> Tensor:
        return logits(self.model, ids, attention_mask=attention_mask, grad=True, n_last=n_last)


@dataclass(frozen=True, eq=False)
class _Place:
    """Where a value goes: all of a parameter, or those of its elements whose memory the value has."""

    name: str
    into: Int[Tensor, " element"] | None = None
    source: Int[Tensor, " element"] | None = None

    def filled(self, weight: Tensor, value: Tensor) -> Tensor:
        if self.into is None or self.source is None:
            return value
        flat = weight.reshape(-1).index_put((self.into,), value.reshape(-1)[self.source])
        return flat.view(weight.shape)


def _places(view: Tensor, weights: Mapping[str, Tensor]) -> tuple[_Place, ...]:
    """The parameters in whose memory a view lies; a fused one and its parts share theirs."""
    wanted, order = _addresses(view).sort()
    found = []
    for name, weight in weights.items():
        if weight.untyped_storage().data_ptr() == view.untyped_storage().data_ptr():
            addresses = _addresses(weight)
            place = torch.searchsorted(wanted, addresses).clamp(max=len(wanted) - 1)
            into = (wanted[place] == addresses).nonzero()[:, 0]
            if len(into):
                found.append(_Place(name, into, order[place[into]]))
    return tuple(found)


def _addresses(view: Tensor) -> Int[Tensor, " element"]:
    """Place of every element in the memory that the view is of, in the view's own order."""
    found = torch.tensor(view.storage_offset(), device=view.device)
    for size, stride in zip(view.shape, view.stride(), strict=True):
        found = found[..., None] + stride * torch.arange(size, device=view.device)
    return found.reshape(-1)
