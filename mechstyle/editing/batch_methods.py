"""MEMIT, EMMET and AlphaEdit as policies: many facts at once, in one layer or spread over several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from jaxtyping import Float
from torch import Tensor

from mechstyle.editing.edit import EditSet
from mechstyle.editing.inputs import checked_bases, checked_ridge
from mechstyle.editing.keys import memit_contexts, sample_contexts
from mechstyle.editing.layer_solves import ClosedForm, LayerSolve, NullSpace
from mechstyle.editing.storage import sha256_of
from mechstyle.editing.targets import Target, TargetOptions
from mechstyle.editing.writing import Moments, Policy, Wish, carry_out
from mechstyle.errors import InputError
from mechstyle.facts import EditRequest
from mechstyle.models import HookedModel, require_hooked
from mechstyle.null_space import null_space

__all__ = ["MEMIT_OPTIONS", "alphaedit", "emmet", "memit"]

MEMIT_OPTIONS: Final = TargetOptions(steps=25, clamp_norm=0.75)
"""The target search of MEMIT's public code on GPT-2 XL and GPT-J."""
MOM2_SHARE: Final = 1.0
"""Default ``mom2_weight`` as a multiple of ``d_mlp``; published are 0.9 (GPT-J) and 3.1 (GPT-2 XL)."""
NULL_SHARE: Final = 0.2
"""Default ``threshold`` of AlphaEdit, as a multiple of the mean eigenvalue."""
L2_SHARE: Final = 0.1
"""Default ``l2`` of AlphaEdit, as a multiple of the mean squared norm of the projected keys."""
NULL_PUBLISHED: Final = 0.02
L2_PUBLISHED: Final = 10.0


def memit(
    model: HookedModel,
    requests: EditRequest | Sequence[EditRequest],
    *,
    layers: int | Sequence[int],
    covariance: Mapping[int, Float[Tensor, "d_mlp d_mlp"]],
    mom2_weight: float | None = None,
    contexts: Sequence[str] | None = None,
    target_options: TargetOptions | None = None,
    targets: Sequence[Target] | None = None,
    batch_size: int | None = None,
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
        targets: one for each request, as ``optimise_targets(kind="resid")`` found them at the last of the
            layers; None searches them.
        batch_size: requests that are written at once, each batch on top of those before; None is all.
        legacy: as published, keys are a mean of means: the bare prompt weighs one half, and sampled contexts
            (five, that begin with common words) the other. Otherwise all contexts weigh alike.
        prepend_bos: None means the model's default.
        progress: show a progress bar on stderr.

    Raises:
        InputError: no requests, two that are the same or contradict each other, a layer named twice, targets
            that do not match the requests, or a covariance that lacks a layer, has another shape, or belongs
            to another model.
        RangeError: a layer, ``batch_size`` or ``mom2_weight`` is out of range.
        ModelError: a processed model, or one with NaN weights.
        TextError: a prompt or context cannot be tokenised.
        WorkError: a target's optimisation diverged.

    Warns:
        CovarianceWarning: the covariance was collected with another ``prepend_bos``, or under other edits.
        TargetWarning: the last of the layers is the model's last, where a change cannot reach the answer.
        KeepWarning: a fact to keep cannot be told apart from one that is to change.
        SharedKeyWarning: requests that want different things share a key.

    Meng et al. 2023 (MEMIT), section 4.

    >>> edit = memit(model, requests, layers=[3, 4, 5], covariance=moments)  # doctest: +SKIP
    """
    require_hooked(model)
    weight = MOM2_SHARE * model.cfg.d_mlp if mom2_weight is None else mom2_weight
    ridge = checked_ridge(weight, "mom2_weight", zero=False, hint="; emmet writes without a ridge")
    wish = Wish(
        requests,
        layers,
        covariance,
        contexts=contexts,
        target_options=target_options,
        targets=targets,
        batch_size=batch_size,
        seed=seed,
        prepend_bos=prepend_bos,
        progress=progress,
    )
    return carry_out(model, wish, _in_closed_form("memit", ridge, legacy))


def emmet(
    model: HookedModel,
    requests: EditRequest | Sequence[EditRequest],
    *,
    layers: int | Sequence[int],
    covariance: Mapping[int, Float[Tensor, "d_mlp d_mlp"]],
    ridge: float = 0.0,
    contexts: Sequence[str] | None = None,
    target_options: TargetOptions | None = None,
    targets: Sequence[Target] | None = None,
    batch_size: int | None = None,
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
    checked = checked_ridge(ridge, "ridge", zero=True)
    wish = Wish(
        requests,
        layers,
        covariance,
        contexts=contexts,
        target_options=target_options,
        targets=targets,
        batch_size=batch_size,
        seed=seed,
        prepend_bos=prepend_bos,
        progress=progress,
    )
    return carry_out(model, wish, _in_closed_form("emmet", checked, legacy))


def alphaedit(
    model: HookedModel,
    requests: EditRequest | Sequence[EditRequest],
    *,
    layers: int | Sequence[int],
    covariance: Mapping[int, Float[Tensor, "d_mlp d_mlp"]],
    threshold: float | None = None,
    l2: float | None = None,
    bases: Mapping[int, Float[Tensor, "d_mlp kept"]] | None = None,
    contexts: Sequence[str] | None = None,
    target_options: TargetOptions | None = None,
    targets: Sequence[Target] | None = None,
    batch_size: int | None = None,
    legacy: bool = False,
    seed: int = 0,
    prepend_bos: bool | None = None,
    progress: bool = False,
) -> EditSet:
    """Compute the change that writes many facts within the directions that preserved keys hardly use.

    As ``memit``, but each layer's change lies in the span of its second moment's eigenvectors with small
    eigenvalues, and spares the keys that active edits of the model wrote before: apply one batch before the
    next is computed, or give ``batch_size``. Edits that hold no keys, such as fine-tuning, are not spared.

    Args:
        threshold: largest eigenvalue that counts as small, as a multiple of the mean one; None is 0.2.
        l2: weight of the size of the change; None is a tenth of the keys' mean squared norm within that span,
            or of a hundredth of their whole one, where that is more.
        bases: layer -> what ``null_space`` gave for its second moment, so that many calls need it but once;
            it takes the place of ``threshold``.
        legacy: as published: contexts as in ``memit(legacy=True)``, and ``threshold`` is an absolute number
            (None: 0.02), as is ``l2`` (None: 10); what both mean then depends on the scale of the keys.

    Raises:
        InputError: as ``memit``, no eigenvalue is small enough, or bases that do not fit.
        RangeError, ModelError, TextError, WorkError: as ``memit``.

    Warns:
        NullSpaceWarning: the keys of the requests hardly reach into that span, so that little is written.
        CovarianceWarning, TargetWarning, KeepWarning, SharedKeyWarning: as ``memit``.

    Fang et al. 2024 (AlphaEdit), eq. 14.

    >>> edit = alphaedit(model, requests, layers=[0, 1], covariance=moments)  # doctest: +SKIP
    """
    require_hooked(model)
    weight = (L2_PUBLISHED if legacy else L2_SHARE) if l2 is None else l2
    checked = checked_ridge(weight, "l2", zero=False)
    limit = (NULL_PUBLISHED if legacy else NULL_SHARE) if threshold is None else threshold
    small = checked_ridge(limit, "threshold", zero=True)
    if bases is not None and not all(isinstance(one, Tensor) for one in bases.values()):
        raise InputError("bases: expected a mapping layer -> matrix, as null_space returns them.")
    if bases is not None and threshold is not None:
        raise InputError("threshold: the given bases were made with one of their own; leave it out.")

    def solve(moments: Moments) -> NullSpace:
        if bases is None:
            found = {layer: null_space(one, small, absolute=legacy) for layer, one in moments.items()}
        else:
            found = checked_bases(bases, moments)
        return NullSpace(found, checked, absolute=legacy or l2 is not None)

    wish = Wish(
        requests,
        layers,
        covariance,
        contexts=contexts,
        target_options=target_options,
        targets=targets,
        batch_size=batch_size,
        seed=seed,
        prepend_bos=prepend_bos,
        progress=progress,
    )
    own = {
        "threshold": small if bases is None else None,
        "bases_sha256": None if bases is None else sha256_of(bases[layer] for layer in sorted(bases)),
        "l2": checked,
        "l2_is_relative": l2 is None and not legacy,
    }
    return carry_out(model, wish, _policy("alphaedit", solve, own, legacy))


def _in_closed_form(method: str, ridge: float, legacy: bool) -> Policy:
    return _policy(method, partial(ClosedForm, ridge=ridge), {"ridge": ridge}, legacy)


def _policy(
    method: str, solve: Callable[[Moments], LayerSolve], settings: Mapping[str, Any], legacy: bool
) -> Policy:
    return Policy(
        method,
        MEMIT_OPTIONS,
        "resid",
        solve,
        {**settings, "legacy": legacy},
        sample=memit_contexts if legacy else sample_contexts,
        bare_is_half=legacy,
    )
