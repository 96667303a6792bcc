"""Checks of what editors are given, before any work."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from mechstyle.editing.covariance import Covariance, CovarianceWarning
from mechstyle.errors import InputError
from mechstyle.facts import EditRequest
from mechstyle.models import HookedModel
from mechstyle.sites import check_layer

__all__ = ["checked_layers", "checked_moment", "checked_requests", "single_request"]


def single_request(request: EditRequest | Sequence[EditRequest]) -> EditRequest:
    """The one request of an editor that writes one at a time.

    Raises:
        InputError: there are several, none, or something else.
    """
    requests = list(request) if isinstance(request, Sequence) else [request]
    if len(requests) != 1 or not isinstance(requests[0], EditRequest):
        found = len(requests) if len(requests) != 1 else f"a {type(requests[0]).__name__}"
        raise InputError(
            f"request: ROME writes one EditRequest at a time, got {found}; "
            "call rome once for each and apply the edits one on top of the other."
        )
    return requests[0]


def checked_requests(requests: EditRequest | Sequence[EditRequest]) -> tuple[EditRequest, ...]:
    """The requests of an editor that writes many at once.

    Raises:
        InputError: there are none, something else is among them, or two want different things of one prompt.
    """
    given = (requests,) if isinstance(requests, EditRequest) else tuple(requests)
    if not given:
        raise InputError("requests: expected at least one EditRequest, got none.")
    seen: dict[str, str] = {}
    for index, request in enumerate(given):
        if not isinstance(request, EditRequest):
            raise InputError(f"requests[{index}]: expected an EditRequest, got {type(request).__name__}.")
        prompt = request.fact.prompt
        if seen.setdefault(prompt, request.new_target) != request.new_target:
            raise InputError(
                f"requests[{index}]: wants {request.new_target!r} after {prompt!r}, and an earlier request "
                f"wants {seen[prompt]!r}; keep one of them."
            )
    return given


def checked_layers(model: HookedModel, layers: int | Sequence[int]) -> tuple[int, ...]:
    """The layers to write, in rising order.

    Raises:
        InputError: there are none, or one comes twice.
        RangeError: one is out of range.
    """
    listed = [layers] if isinstance(layers, int) else list(layers)
    chosen = sorted(check_layer(layer, model.cfg.n_layers, name="layers") for layer in listed)
    if not chosen or len(set(chosen)) < len(chosen):
        raise InputError(f"layers: expected one or more different layers, got {listed}.")
    return tuple(chosen)


def checked_moment(
    covariance: Mapping[int, Float[Tensor, "d_mlp d_mlp"]],
    layer: int,
    *,
    d_mlp: int,
    fingerprint: str,
    prepend_bos: bool,
) -> Float[Tensor, "d_mlp d_mlp"]:
    """The layer's matrix, after checking that it belongs to this model and edit.

    Raises:
        InputError: it does not.

    Warns:
        CovarianceWarning: it was collected with another ``prepend_bos``.
    """
    if not isinstance(covariance, Mapping):
        raise InputError(
            f"covariance: expected a mapping layer -> matrix, as covariance() returns, "
            f"got {type(covariance).__name__}."
        )
    if layer not in covariance:
        raise InputError(
            f"covariance: expected layer {layer} in it, got layers {sorted(covariance)}; "
            f"collect it with layers=[{layer}]."
        )
    moment = covariance[layer]
    if tuple(moment.shape) != (d_mlp, d_mlp):
        raise InputError(
            f"covariance: expected shape [{d_mlp}, {d_mlp}] at layer {layer}, got {list(moment.shape)}; "
            "it belongs to another model."
        )
    if isinstance(covariance, Covariance):
        found = str(covariance.provenance.get("fingerprint", fingerprint))
        if found != fingerprint:
            raise InputError(
                f"covariance: expected one of this model (fingerprint {fingerprint[:12]}), "
                f"got one of another ({found[:12]}); collect it again."
            )
        collected = covariance.provenance.get("settings", {}).get("prepend_bos", prepend_bos)
        if collected != prepend_bos:
            warnings.warn(
                f"covariance: collected with prepend_bos={collected}, but the edit uses "
                f"prepend_bos={prepend_bos}; collect it again with the same setting.",
                CovarianceWarning,
                stacklevel=4,
            )
    return moment
