"""ROME as a policy: which key, which target, and how they go into the one closed form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from jaxtyping import Float
from torch import Tensor

from mechstyle.editing.covariance import Covariance
from mechstyle.editing.edit import EditSet
from mechstyle.editing.inputs import checked_moments, single_request
from mechstyle.editing.keys import BARE, check_contexts, sample_contexts, subject_keys
from mechstyle.editing.targets import TargetOptions, optimise_target
from mechstyle.editing.weight_edit import WeightEdit
from mechstyle.facts import EditRequest
from mechstyle.models import (
    HookedModel,
    active_base,
    edited_weights,
    provenance,
    require_editable,
    require_hooked,
    resolve_bos,
)
from mechstyle.sites import Site, check_layer
from mechstyle.solve import closed_form_update
from mechstyle.weights import parameter_value

__all__ = ["rome"]


def rome(
    model: HookedModel,
    request: EditRequest | Sequence[EditRequest],
    *,
    layer: int,
    covariance: Mapping[int, Float[Tensor, "d_mlp d_mlp"]],
    contexts: Sequence[str] | None = None,
    target_options: TargetOptions | None = None,
    legacy: bool = False,
    seed: int = 0,
    prepend_bos: bool | None = None,
) -> EditSet:
    """Compute the rank-one change of one layer's ``mlp.W_out`` that makes the model give a new target.

    The whole new target counts, teacher-forced. The model is unchanged; apply the result.

    Args:
        request: one request, or a sequence of exactly one.
        covariance: layer -> second moment of keys, as ``covariance`` returns.
        contexts: templates around the prompt, the bare ``"{}"`` among them; None samples them from the model
            by ``seed`` (twenty short runs: for many edits call ``sample_contexts`` once).
        legacy: False uses the key averaged over contexts everywhere, and the optimised change as the change
            wanted at that key. True is as published: direction from the averaged key, residual and divisor
            from the bare prompt, an inconsistency that can disable a model after many edits (Gupta et al.
            2024).
        prepend_bos: None means the model's default.

    Raises:
        InputError: several requests, or a covariance without this layer, of another shape or from another
            model.
        RangeError: the layer is out of range.
        ModelError: a processed model, or one with NaN weights.
        TextError: a prompt or context cannot be tokenised.
        WorkError: the target's optimisation diverged.

    Warns:
        CovarianceWarning: the covariance was collected with another ``prepend_bos``, or under other edits.
        TargetWarning: the layer is the last one, where a change cannot reach the answer; the edit is zero.

    Meng et al. 2022 (ROME), section 3; the consistent key is that of Gupta et al. 2024 (r-ROME).

    >>> edit = rome(model, request, layer=4, covariance=moments)  # doctest: +SKIP
    >>> with edit.applied(model):  # doctest: +SKIP
    ...     scores = evaluate(model, [request])
    """
    require_hooked(model)
    one = single_request(request)
    layer = check_layer(layer, model.cfg.n_layers)
    require_editable(model)
    bos = resolve_bos(model, prepend_bos)
    origin = provenance(model)
    moment = checked_moments(
        covariance,
        [layer],
        d_mlp=int(model.cfg.d_mlp),
        fingerprint=str(origin["fingerprint"]),
        prepend_bos=bos,
        stacklevel=3,
        edited=edited_weights(model),
    )[layer]
    options = TargetOptions() if target_options is None else target_options
    chosen = sample_contexts(model, seed) if contexts is None else check_contexts(contexts)

    target = optimise_target(model, one, layer=layer, contexts=chosen, options=options, prepend_bos=bos)
    keys = subject_keys(model, one.fact, layer=layer, contexts=chosen, prepend_bos=bos).double()
    average, bare = keys.mean(0, keepdim=True), keys[chosen.index(BARE)][None]
    residual = target.delta.double()[None]
    if legacy:
        # What the bare key gives now is taken from the weights themselves, so that it then gives exactly v*.
        site = Site(layer, "mlp")
        weights = parameter_value(model, site.parameter).double()
        bias = parameter_value(model, str(site.bias)).double()
        residual = (target.output + target.delta).double() - (bare @ weights + bias)
    update = closed_form_update(average, residual, moment.to(keys.device), read_keys=bare if legacy else None)

    name = Site(layer, "key").parameter
    settings = {
        "method": "rome",
        "legacy": legacy,
        "layer": layer,
        "active_edits": sorted(active_base(model)),
        "seed": seed,
        "prepend_bos": bos,
        "contexts": list(chosen),
        "target_options": asdict(options),
        "losses": list(target.losses),
        "answer_nll": list(target.answer_nll),
        "jitter": update.jitter,
        "covariance": dict(covariance.provenance) if isinstance(covariance, Covariance) else None,
    }
    return EditSet(
        edits=(WeightEdit(name, update.left, update.right),),
        fingerprint=str(origin["fingerprint"]),
        provenance={**origin, "settings": settings},
        requests=(one,),
    )
