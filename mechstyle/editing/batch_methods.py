"""MEMIT and EMMET as policies: many facts at once, in one layer or spread over several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from mechstyle.editing.covariance import Covariance
from mechstyle.editing.edit import EditSet
from mechstyle.editing.inputs import checked_layers, checked_moments, checked_requests, checked_ridge
from mechstyle.editing.keys import BARE, check_contexts, memit_contexts, sample_contexts
from mechstyle.editing.spread import write_in_layers
from mechstyle.editing.targets import TargetOptions, optimise_targets
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

__all__ = ["MEMIT_OPTIONS", "emmet", "memit"]

MEMIT_OPTIONS: Final = TargetOptions(steps=25, clamp_norm=0.75)
"""The target search of MEMIT's public code on GPT-2 XL and GPT-J."""
MOM2_SHARE: Final = 1.0
"""Default ``mom2_weight`` as a multiple of ``d_mlp``; published are 0.9 (GPT-J) and 3.1 (GPT-2 XL)."""


def memit(
    model: HookedModel,
    requests: EditRequest | Sequence[EditRequest],
    *,
    layers: int | Sequence[int],
    covariance: Mapping[int, Float[Tensor, "d_mlp d_mlp"]],
    mom2_weight: float | None = None,
    contexts: Sequence[str] | None = None,
    target_options: TargetOptions | None = None,
    legacy: bool = False,
    seed: int = 0,
    prepend_bos: bool | None = None,
    progress: bool = False,
) -> EditSet:
    """Compute the change of several layers' ``mlp.W_out`` that writes many facts at once, in least squares.

    The targets of all requests are searched together at the output of the last layer; each layer then takes
    an equal share of what is still missing. The model is unchanged; apply the result. Requests whose prompts
    are the same up to the subject's last token share one key, which then gets the mean of what they want.

    Args:
        layers: to write into, in any order; one is the plain closed form.
        covariance: layer -> second moment of keys, as ``covariance`` returns, for each of the layers.
        mom2_weight: ridge that weighs the keys to preserve against the new ones; None is ``d_mlp`` (the
            published 15,000 and 20,000 belong to GPT-J's and GPT-2 XL's widths).
        contexts: templates around the prompt, the bare ``"{}"`` among them; None samples them by ``seed``.
        target_options: None is ``MEMIT_OPTIONS``.
        legacy: as published, keys are a mean of means: the bare prompt weighs one half, and sampled contexts
            (five, that begin with common words) the other. Otherwise all contexts weigh alike.
        prepend_bos: None means the model's default.
        progress: show a progress bar on stderr.

    Raises:
        InputError: no requests, two that contradict each other, a layer named twice, or a covariance that
            lacks a layer, has another shape, or belongs to another model.
        RangeError: a layer or ``mom2_weight`` is out of range.
        ModelError: a processed model, or one with NaN weights.
        TextError: a prompt or context cannot be tokenised.
        WorkError: a target's optimisation diverged.

    Warns:
        CovarianceWarning: the covariance was collected with another ``prepend_bos``, or under other edits.
        TargetWarning: the last of the layers is the model's last, where a change cannot reach the answer.

    Meng et al. 2023 (MEMIT), section 4.

    >>> edit = memit(model, requests, layers=[3, 4, 5], covariance=moments)  # doctest: +SKIP
    """
    require_hooked(model)
    ridge = MOM2_SHARE * model.cfg.d_mlp if mom2_weight is None else mom2_weight
    return _write_many(
        model,
        requests,
        method="memit",
        layers=layers,
        covariance=covariance,
        ridge=checked_ridge(ridge, "mom2_weight", zero=False),
        contexts=contexts,
        target_options=target_options,
        legacy=legacy,
        seed=seed,
        prepend_bos=prepend_bos,
        progress=progress,
    )


def emmet(
    model: HookedModel,
    requests: EditRequest | Sequence[EditRequest],
    *,
    layers: int | Sequence[int],
    covariance: Mapping[int, Float[Tensor, "d_mlp d_mlp"]],
    ridge: float = 0.0,
    contexts: Sequence[str] | None = None,
    target_options: TargetOptions | None = None,
    legacy: bool = False,
    seed: int = 0,
    prepend_bos: bool | None = None,
    progress: bool = False,
) -> EditSet:
    """Compute the change that writes many facts at once, each exactly (equality-constrained).

    As ``memit``, but the closed form meets every target at its key, as long as there are no more keys than
    ``d_mlp``; with one request and one layer it is ROME given the same key and target.

    Args:
        ridge: added to the Gram matrix of the keys; above 0 this *is* MEMIT with that ``mom2_weight``
            (published effective ridges are 100 on GPT-2 XL and 0.1 on GPT-J).

    Raises:
        InputError, RangeError, ModelError, TextError, WorkError: as ``memit``.

    Gupta et al. 2024 (EMMET), eq. 12.

    >>> edit = emmet(model, requests, layers=4, covariance=moments)  # doctest: +SKIP
    """
    require_hooked(model)
    return _write_many(
        model,
        requests,
        method="emmet",
        layers=layers,
        covariance=covariance,
        ridge=checked_ridge(ridge, "ridge", zero=True),
        contexts=contexts,
        target_options=target_options,
        legacy=legacy,
        seed=seed,
        prepend_bos=prepend_bos,
        progress=progress,
    )


def _write_many(
    model: HookedModel,
    requests: EditRequest | Sequence[EditRequest],
    *,
    method: str,
    layers: int | Sequence[int],
    covariance: Mapping[int, Tensor],
    ridge: float,
    contexts: Sequence[str] | None,
    target_options: TargetOptions | None,
    legacy: bool,
    seed: int,
    prepend_bos: bool | None,
    progress: bool,
) -> EditSet:
    given, chosen_layers = checked_requests(requests), checked_layers(model, layers)
    require_editable(model)
    bos, origin = resolve_bos(model, prepend_bos), provenance(model)
    moments = checked_moments(
        covariance,
        chosen_layers,
        d_mlp=int(model.cfg.d_mlp),
        fingerprint=str(origin["fingerprint"]),
        prepend_bos=bos,
        stacklevel=4,
        edited=edited_weights(model),
    )
    options = MEMIT_OPTIONS if target_options is None else target_options
    if contexts is not None:
        chosen = check_contexts(contexts)
    else:
        chosen = memit_contexts(model, seed) if legacy else sample_contexts(model, seed)
    weights = _context_weights(chosen, bare_is_half=legacy)
    targets = optimise_targets(
        model,
        given,
        layer=chosen_layers[-1],
        contexts=chosen,
        options=options,
        prepend_bos=bos,
        kind="resid",
        progress=progress,
    )
    writes = write_in_layers(
        model,
        [request.fact for request in given],
        torch.stack([target.output + target.delta for target in targets]),
        layers=chosen_layers,
        moments=moments,
        ridge=ridge,
        contexts=chosen,
        weights=weights,
        prepend_bos=bos,
    )
    settings = {
        "method": method,
        "legacy": legacy,
        "active_edits": sorted(active_base(model)),
        "layers": list(chosen_layers),
        "ridge": ridge,
        "seed": seed,
        "prepend_bos": bos,
        "contexts": list(chosen),
        "context_weights": weights,
        "target_options": asdict(options),
        "losses": [list(target.losses) for target in targets],
        "answer_nll": [list(target.answer_nll) for target in targets],
        "keys": writes[0].keys,
        "missing": [write.missing for write in writes],
        "jitter": [write.jitter for write in writes],
        "gram_jitter": [write.gram_jitter for write in writes],
        "covariance": dict(covariance.provenance) if isinstance(covariance, Covariance) else None,
    }
    return EditSet(
        edits=tuple(write.edit for write in writes),
        fingerprint=str(origin["fingerprint"]),
        provenance={**origin, "settings": settings},
        requests=given,
    )


def _context_weights(contexts: Sequence[str], *, bare_is_half: bool) -> list[float]:
    """What each context counts in a key's mean: all alike, or the bare prompt as much as all others."""
    others = len(contexts) - 1
    if not bare_is_half or others == 0:
        return [1 / len(contexts)] * len(contexts)
    return [0.5 if context == BARE else 0.5 / others for context in contexts]
