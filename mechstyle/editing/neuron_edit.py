"""Editing knowledge neurons: another answer, or none, in the rows of ``W_out`` that carry a fact."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from mechstyle.editing.application import active_ids
from mechstyle.editing.edit import EditSet
from mechstyle.editing.neurons import KnowledgeNeurons, Neuron, Rule, knowledge_neurons
from mechstyle.editing.weight_edit import WeightEdit
from mechstyle.editing.writing import KeepWarning
from mechstyle.errors import InputError, ModelError, RangeError, TextError
from mechstyle.facts import EditRequest
from mechstyle.models import (
    HookedModel,
    fingerprint,
    parameter_value,
    provenance,
    require_editable,
    require_hooked,
    resolve_bos,
)
from mechstyle.requests import check_requests
from mechstyle.sites import Site, check_layer
from mechstyle.tokens import encode_fact

__all__ = ["NeuronMode", "NeuronWarning", "neuron_edit"]

NeuronMode = Literal["write", "suppress", "amplify"]
Place = tuple[int, int]
Given = KnowledgeNeurons | Sequence[KnowledgeNeurons] | Sequence[Neuron] | Sequence[Place]

_GAINS: Final = MappingProxyType({"suppress": -1.0, "amplify": 1.0})
"""What is added to a row, as a multiple of itself."""


class NeuronWarning(UserWarning):
    """A fact has no knowledge neurons, so that its edit is zero."""


def neuron_edit(
    model: HookedModel,
    requests: EditRequest | Sequence[EditRequest],
    *,
    neurons: Given | None = None,
    mode: NeuronMode = "write",
    old_factor: float = 1.0,
    new_factor: float = 8.0,
    relative: bool = True,
    templates: Sequence[str] = (),
    steps: int = 20,
    threshold: float = 0.2,
    share: float = 0.7,
    rule: Rule = "middle",
    prepend_bos: bool | None = None,
) -> EditSet:
    """Compute the change of the rows of ``mlp.W_out`` that belong to a fact's knowledge neurons.

    "write" takes the old answer out of each row and puts the new one in: ``-= a * e_old``, ``+= b * e_new``,
    where ``e`` is the unembedding column of the answer's *first* token. "suppress" sets the rows to zero and
    "amplify" doubles them. The model is unchanged; apply the result. Requests that share a neuron add up;
    a neuron is suppressed or amplified once. Facts to ``keep`` are not heeded: nothing here could hold them.

    Args:
        neurons: found before: those of one request, a list with those of each, or (layer, index) pairs that
            serve every request; None finds them with ``templates``, ``steps``, ``threshold``, ``share`` and
            ``rule``, which are not used otherwise. Provenance has each search's settings as ``searches``.
        old_factor: ``a``; published is 1.
        new_factor: ``b``; published is 8.
        relative: as in the public code, factors count in lengths of the row, so that ``b = 1`` adds a vector
            as long as the row; otherwise they multiply the column as it is, as in the paper.
        templates: as in ``knowledge_neurons``, and so are the other options of the search.
        prepend_bos: None means the model's default.

    Raises:
        InputError: no requests, two that contradict each other, an unknown mode, or neurons that do not match
            the requests or are none.
        RangeError: a neuron, a factor or an option is out of range.
        ModelError: neurons of another model, a processed model, or one with NaN weights.
        TextError: a prompt cannot be tokenised, or both answers begin with the same token.

    Warns:
        NeuronWarning: a fact has no knowledge neurons; its part of the edit is zero.
        KeepWarning: a request has facts to keep.

    Dai et al. 2022 (Knowledge Neurons in Pretrained Transformers), sections 4.3 and 5; their public code.

    >>> edit = neuron_edit(model, request, templates=["The instrument of {} is the"])  # doctest: +SKIP
    """
    require_hooked(model)
    given = check_requests(requests)
    if mode not in get_args(NeuronMode):
        raise InputError(f"mode: expected one of {', '.join(get_args(NeuronMode))}, got {mode!r}.")
    for name, factor in (("old_factor", old_factor), ("new_factor", new_factor)):
        if isinstance(factor, bool) or not isinstance(factor, Real) or not math.isfinite(factor):
            raise RangeError(f"{name}: expected a finite number, got {factor!r}.")
    require_editable(model)
    bos, origin = resolve_bos(model, prepend_bos), provenance(model)
    tokens = [_first_tokens(model, request, bos) for request in given] if mode == "write" else []

    def find(request: EditRequest) -> KnowledgeNeurons:
        return knowledge_neurons(
            model, request, templates=templates, steps=steps, threshold=threshold, share=share, rule=rule,
            prepend_bos=bos,
        )  # fmt: skip

    places, searches = _places(model, given, neurons, find)
    for request, own in zip(given, places, strict=True):
        if not own:
            warnings.warn(
                f"requests: {request.fact.prompt!r} has no knowledge neurons, so nothing is written for it; "
                "lower threshold or share, or give other templates.",
                NeuronWarning,
                stacklevel=2,
            )
    n_kept = len({fact for request in given for fact in request.keep})
    if n_kept:
        warnings.warn(
            f"keep: neuron_edit does not heed the {n_kept} fact(s) to keep; rome, memit, emmet, alphaedit "
            "and finetune do.",
            KeepWarning,
            stacklevel=2,
        )
    if mode == "write":
        edits = _written(model, places, tokens, old_factor, new_factor, relative)
    else:
        edits = _scaled(model, places, _GAINS[mode])
    settings = {
        "method": "neuron_edit",
        "mode": mode,
        "neurons": [[list(place) for place in own] for own in places],
        "neurons_given": neurons is not None,
        "old_factor": old_factor,
        "new_factor": new_factor,
        "relative": relative,
        "searches": searches,
        "prepend_bos": bos,
        "on_top_of": list(active_ids(model)),
    }
    return EditSet(edits, str(origin["fingerprint"]), {**origin, "settings": settings}, given)


def _first_tokens(model: HookedModel, request: EditRequest, bos: bool) -> tuple[int, int]:
    """First tokens of the old and of the new answer."""
    old, new = (
        int(encode_fact(model, request.fact, target=target, prepend_bos=bos).target_ids[0])
        for target in (request.fact.target, request.new_target)
    )
    if old == new:
        raise TextError(
            f"requests: both {request.fact.target!r} and {request.new_target!r} begin with the token "
            f"{model.tokenizer.decode([old])!r}, which is all that neuron_edit writes; use another editor."
        )
    return old, new


def _places(
    model: HookedModel,
    requests: Sequence[EditRequest],
    neurons: Given | None,
    find: Callable[[EditRequest], KnowledgeNeurons],
) -> tuple[list[tuple[Place, ...]], list[dict[str, Any]] | None]:
    """The neurons of each request, checked, and the settings that they were found with, if that is known."""
    if neurons is None:
        return _of_searches([find(request) for request in requests])
    listed = [neurons] if isinstance(neurons, KnowledgeNeurons) else list(neurons)
    if not listed:
        raise InputError("neurons: expected at least one, got none; leave the argument out to find them.")
    found = [one for one in listed if isinstance(one, KnowledgeNeurons)]
    if not found:
        own = tuple(dict.fromkeys(_place(model, one) for one in listed))
        return [own] * len(requests), None
    if len(found) != len(listed) or len(found) != len(requests):
        raise InputError(
            f"neurons: expected one KnowledgeNeurons for each of the {len(requests)} requests, got "
            f"{len(found)} in a list of {len(listed)}."
        )
    here = fingerprint(model)
    for one in found:
        if one.fingerprint != here:
            raise ModelError(
                f"neurons: found in another model (fingerprint {one.fingerprint[:12]}) than the one given "
                f"({here[:12]}); find them again."
            )
    return _of_searches(found)


def _of_searches(
    found: Sequence[KnowledgeNeurons],
) -> tuple[list[tuple[Place, ...]], list[dict[str, Any]]]:
    places = [tuple((neuron.layer, neuron.index) for neuron in one.neurons) for one in found]
    return places, [dict(one.provenance.get("settings", {})) for one in found]


def _place(model: HookedModel, pair: object) -> Place:
    """A pair (layer, index) of the model."""
    if isinstance(pair, Neuron):
        pair = (pair.layer, pair.index)
    if isinstance(pair, (str, KnowledgeNeurons)) or not isinstance(pair, Sequence) or len(pair) != 2:
        raise InputError(f"neurons: expected pairs (layer, index), got {pair!r}.")
    layer, index = check_layer(pair[0], int(model.cfg.n_layers), name="neurons"), pair[1]
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < model.cfg.d_mlp:
        raise RangeError(f"neurons: expected an index from 0 to {model.cfg.d_mlp - 1}, got {index!r}.")
    return layer, index


def _written(
    model: HookedModel,
    places: Sequence[Sequence[Place]],
    tokens: Sequence[tuple[int, int]],
    old_factor: float,
    new_factor: float,
    relative: bool,
) -> tuple[WeightEdit, ...]:
    """Every request's old answer out of, and new answer into, its neurons' rows."""
    columns = parameter_value(model, "unembed.W_U")
    changes: dict[Place, Tensor] = {}
    for own, (old, new) in zip(places, tokens, strict=True):
        for layer, index in own:
            row = parameter_value(model, Site(layer, "key").parameter)[index].double().cpu()
            change = changes.setdefault((layer, index), torch.zeros_like(row))
            for token, factor in ((old, -old_factor), (new, new_factor)):
                column = columns[:, token].double().cpu()
                change += factor * (column * (row.norm() / column.norm()) if relative else column)
    return _edits(model, changes)


def _scaled(model: HookedModel, places: Sequence[Sequence[Place]], gain: float) -> tuple[WeightEdit, ...]:
    """Each neuron's row times ``1 + gain``."""
    every = dict.fromkeys(place for own in places for place in own)
    return _edits(
        model,
        {
            (layer, index): gain * parameter_value(model, Site(layer, "key").parameter)[index].double().cpu()
            for layer, index in every
        },
    )


def _edits(model: HookedModel, changes: Mapping[Place, Float[Tensor, " d_model"]]) -> tuple[WeightEdit, ...]:
    """One change a layer: a one-hot column and a row for each neuron."""
    edits = []
    for layer in sorted({layer for layer, _ in changes}):
        rows = {index: row for (own, index), row in sorted(changes.items()) if own == layer}
        left = torch.zeros(int(model.cfg.d_mlp), len(rows), dtype=torch.float64)
        left[list(rows), range(len(rows))] = 1.0
        edits.append(WeightEdit(Site(layer, "key").parameter, left, torch.stack(list(rows.values()))))
    return tuple(edits)
