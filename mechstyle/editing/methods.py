"""ROME as a policy: which key, which target, and how they go into the one closed form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from mechstyle.editing.edit import EditSet
from mechstyle.editing.inputs import checked_layers, single_request
from mechstyle.editing.layer_solves import ClosedForm
from mechstyle.editing.targets import Target, TargetOptions
from mechstyle.editing.writing import Policy, Wish, carry_out
from mechstyle.facts import EditRequest
from mechstyle.models import HookedModel, require_hooked

__all__ = ["rome"]


def rome(
    model: HookedModel,
    request: EditRequest | Sequence[EditRequest],
    *,
    layer: int | Sequence[int],
    covariance: Mapping[int, Float[Tensor, "d_mlp d_mlp"]],
    contexts: Sequence[str] | None = None,
    target_options: TargetOptions | None = None,
    targets: Sequence[Target] | None = None,
    legacy: bool = False,
    seed: int = 0,
    prepend_bos: bool | None = None,
) -> EditSet:
    """Compute the rank-one change of one layer's ``mlp.W_out`` that makes the model give a new target.

    The whole new target counts, teacher-forced. The model is unchanged; apply the result. With facts to keep
    the change has one rank more for each.

    Args:
        request: one request, or a sequence of exactly one.
        layer: to write into; several share the change between them, as in MEMIT: the target is then that of
            the last.
        covariance: layer -> second moment of keys, as ``covariance`` returns.
        contexts: templates around the prompt, the bare ``"{}"`` among them; None samples them from the model
            by ``seed`` (twenty short runs: for many edits call ``sample_contexts`` once).
        targets: one, as ``optimise_targets`` found it; None searches it.
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
        KeepWarning: a fact to keep cannot be told apart from the request.

    Meng et al. 2022 (ROME), section 3; the consistent key is that of Gupta et al. 2024 (r-ROME).

    >>> edit = rome(model, request, layer=4, covariance=moments)  # doctest: +SKIP
    >>> with edit.applied(model):  # doctest: +SKIP
    ...     scores = evaluate(model, [request])
    """
    require_hooked(model)
    one = single_request(request)
    wish = Wish(
        one,
        checked_layers(model, layer, name="layer"),
        covariance,
        contexts=contexts,
        target_options=target_options,
        targets=targets,
        seed=seed,
        prepend_bos=prepend_bos,
    )
    policy = Policy("rome", TargetOptions(), "mlp", ClosedForm, {"legacy": legacy}, read_bare=legacy)
    edit = carry_out(model, wish, policy)
    found = edit.provenance["settings"]
    alone = {name: found[name][0] for name in ("losses", "answer_nll")}
    return replace(
        edit, provenance={**edit.provenance, "settings": {**found, "layer": found["layers"][-1], **alone}}
    )
