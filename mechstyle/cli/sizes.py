"""What an edit will change and how large its file will be, told before it is computed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from mechstyle.cli.tuning import Tuning

if TYPE_CHECKING:
    from mechstyle.facts import EditRequest
    from mechstyle.models import HookedModel

__all__ = ["Asked", "Extent", "Size", "beside_the_weights", "dense", "low_rank", "trained", "unknown"]

_NUMBER: Final = 8
"""Bytes of a number in a file of an edit."""
_SETTINGS: Final = 4_000
"""Bytes of settings, contexts and versions in a file of an edit, about."""
_PLAIN: Final = 1_000
"""The same, where there are few settings and no contexts."""
_LOSSES: Final = 40
"""Bytes of what is noted of each step of a search."""
_STEPS: Final = 25


@dataclass(frozen=True)
class Extent:
    """What an edit changes.

    Args:
        parameters: name -> shape.
        n_bytes: of its file, about; None when nobody can tell before it is computed.
        remark: what there is to say about it.
    """

    parameters: dict[str, tuple[int, ...]] = field(default_factory=dict)
    n_bytes: int | None = None
    remark: str = ""


@dataclass(frozen=True)
class Asked:
    """What an edit will be computed from."""

    model: HookedModel
    tuning: Tuning
    layers: Sequence[int]
    requests: Sequence[EditRequest]
    prepend_bos: bool | None


Size: TypeAlias = Callable[[Asked], Extent]


def low_rank(asked: Asked) -> Extent:
    """Of a closed form: in each layer a factor, a row and a key for each different key."""
    from mechstyle.editing.spread import apart, shared_keys
    from mechstyle.models import parameter_value, resolve_bos
    from mechstyle.sites import Site

    model, requests = asked.model, asked.requests
    bos = resolve_bos(model, asked.prepend_bos)
    phrased = [request.phrased for request in requests]
    stay = tuple(dict.fromkeys(fact for request in requests for fact in request.keep))
    rank = int(shared_keys(model, phrased, prepend_bos=bos).max()) + 1
    kept, _ = apart(model, stay, phrased, prepend_bos=bos)
    rank += len(kept)
    names = [Site(layer, "mlp").parameter for layer in asked.layers]
    shapes = {name: tuple(parameter_value(model, name).shape) for name in names}
    numbers = sum(rank * (2 * d_in + d_out) for d_in, d_out in shapes.values())
    steps = _STEPS if asked.tuning.steps is None else asked.tuning.steps
    return Extent(shapes, numbers * _NUMBER + _SETTINGS + _texts(requests) + len(requests) * steps * _LOSSES)


def dense(asked: Asked) -> Extent:
    """Of fine-tuning: whole parameters."""
    from mechstyle.models import parameter

    shapes = {
        f"blocks.{layer}.{kind}": tuple(parameter(asked.model, f"blocks.{layer}.{kind}").shape)
        for kind in trained(asked.tuning)
        for layer in asked.layers
    }
    numbers = 0
    for shape in shapes.values():
        rows, columns = _rows(shape), shape[-1]
        numbers += rows * columns + min(rows, columns) ** 2
    return Extent(shapes, numbers * _NUMBER + _SETTINGS + _texts(asked.requests))


def unknown(asked: Asked) -> Extent:
    """Of knowledge neurons: nobody knows before they are found."""
    return Extent(remark="rows of mlp.W_out, in the layers where the neurons of the facts are found")


def beside_the_weights(asked: Asked) -> Extent:
    """Of a memory: requests, and a state for each phrasing where prompts are compared at a layer."""
    entries = sum(len(request.phrased) for request in asked.requests)
    states = entries * len(asked.layers) * int(asked.model.cfg.d_model)
    size = states * _NUMBER + _PLAIN + _texts(asked.requests)
    return Extent(n_bytes=size, remark="nothing in the weights; they stay as they are")


def trained(tuning: Tuning) -> tuple[str, ...]:
    """The parameters of each layer that fine-tuning changes.

    Example:
        >>> trained(Tuning(parameters="mlp.W_in,mlp.W_out"))
        ('mlp.W_in', 'mlp.W_out')
    """
    names = "mlp.W_out" if tuning.parameters is None else tuning.parameters
    return tuple(name.strip() for name in names.split(","))


def _rows(shape: Sequence[int]) -> int:
    rows = 1
    for size in shape[:-1]:
        rows *= size
    return rows


def _texts(requests: Sequence[EditRequest]) -> int:
    return sum(len(json.dumps(request.to_dict())) for request in requests)
