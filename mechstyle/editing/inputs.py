"""Checks of what editors are given, before any work."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from mechstyle.editing.covariance import Covariance, CovarianceWarning
from mechstyle.editing.target_options import Target
from mechstyle.errors import InputError, RangeError
from mechstyle.facts import EditRequest
from mechstyle.models import HookedModel
from mechstyle.sites import check_layer

__all__ = [
    "checked_bases",
    "checked_batch_size",
    "checked_layers",
    "checked_moments",
    "checked_ridge",
    "checked_targets",
    "single_request",
]

_PROBED: Final = 16
"""Columns of a basis that are compared with all others."""
_ORTHONORMAL: Final = 1e-6


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


def checked_layers(
    model: HookedModel, layers: int | Sequence[int], *, name: str = "layers"
) -> tuple[int, ...]:
    """The layers to write, in rising order.

    Raises:
        InputError: there are none, or one comes twice.
        RangeError: one is out of range.
    """
    listed = list(layers) if isinstance(layers, Iterable) else [layers]
    chosen = sorted(check_layer(layer, model.cfg.n_layers, name=name) for layer in listed)
    if not chosen or len(set(chosen)) < len(chosen):
        raise InputError(f"{name}: expected one or more different layers, got {listed}.")
    return tuple(chosen)


def checked_ridge(ridge: float, name: str, *, zero: bool, hint: str = "") -> float:
    """A ridge of the closed form, given as the argument ``name``; ``zero`` says whether 0 is one.

    Raises:
        RangeError: it is no finite number, or too small.
    """
    number = isinstance(ridge, Real) and not isinstance(ridge, bool) and math.isfinite(ridge)
    if not number or ridge < 0 or (ridge == 0 and not zero):
        wanted = "0 or more" if zero else "above 0"
        raise RangeError(f"{name}: expected a finite number {wanted}, got {ridge!r}{hint}.")
    return float(ridge)


def checked_batch_size(batch_size: int | None, n_requests: int) -> int:
    """How many requests are written at once.

    Raises:
        RangeError: it is no whole number of 1 or more.
    """
    if batch_size is None:
        return n_requests
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise RangeError(f"batch_size: expected a whole number of at least 1, or None, got {batch_size!r}.")
    return batch_size


def checked_targets(targets: Sequence[Target] | None, n_requests: int, d_model: int) -> Sequence[Target]:
    """Targets that were searched before, or none.

    Raises:
        InputError: not one ``Target`` of this width for each request.
    """
    if targets is None:
        return ()
    if not isinstance(targets, Sequence) or len(targets) != n_requests:
        found = len(targets) if isinstance(targets, Sequence) else f"a {type(targets).__name__}"
        raise InputError(f"targets: expected one for each of the {n_requests} requests, got {found}.")
    for index, target in enumerate(targets):
        if not isinstance(target, Target):
            raise InputError(f"targets[{index}]: expected a Target, got a {type(target).__name__}.")
        if tuple(target.delta.shape) != (d_model,) or not bool(torch.isfinite(target.delta).all()):
            raise InputError(
                f"targets[{index}]: expected {d_model} finite numbers, got shape {list(target.delta.shape)}; "
                "search it again for this model."
            )
    return targets


def checked_bases(
    bases: Mapping[int, Float[Tensor, "d_mlp kept"]], moments: Mapping[int, Float[Tensor, "d_mlp d_mlp"]]
) -> dict[int, Float[Tensor, "d_mlp kept"]]:
    """The basis of each layer's free directions, after checking that they fit the moments.

    Raises:
        InputError: one is missing, has another height, or its columns are not orthonormal.
    """
    absent = [layer for layer in moments if layer not in bases]
    if absent:
        raise InputError(f"bases: expected one for layer {absent[0]}, got layers {sorted(bases)}.")
    for layer, moment in moments.items():
        basis = bases[layer]
        if basis.ndim != 2 or len(basis) != len(moment) or basis.shape[1] == 0:
            raise InputError(
                f"bases: expected shape [{len(moment)}, kept] at layer {layer}, got {list(basis.shape)}."
            )
        # All columns against a few of them: the whole product would cost what the basis saves.
        some = torch.linspace(0, basis.shape[1] - 1, min(_PROBED, basis.shape[1])).long()
        gram = basis.double().T @ basis[:, some.to(basis.device)].double()
        gram[some, torch.arange(len(some))] -= 1.0
        if not bool(gram.abs().max() < _ORTHONORMAL):
            raise InputError(f"bases: the columns at layer {layer} are not orthonormal; use null_space's.")
    return {layer: bases[layer] for layer in moments}


def checked_moments(
    covariance: Mapping[int, Float[Tensor, "d_mlp d_mlp"]],
    layers: Sequence[int],
    *,
    d_mlp: int,
    fingerprint: str,
    prepend_bos: bool,
    stacklevel: int,
    edited: Mapping[str, str] | None = None,
) -> dict[int, Float[Tensor, "d_mlp d_mlp"]]:
    """The matrix of each layer, after checking that they belong to this model and edit.

    Args:
        stacklevel: of the warning, counted from here.
        edited: the weights that the model's active edits cover (``edited_weights``); None without any.

    Raises:
        InputError: they do not, or one holds NaN or infinity.

    Warns:
        CovarianceWarning: they were collected with another ``prepend_bos``, or under edits not active now.
    """
    if not isinstance(covariance, Mapping):
        raise InputError(
            f"covariance: expected a mapping layer -> matrix, as covariance() returns, "
            f"got {type(covariance).__name__}."
        )
    absent = [layer for layer in layers if layer not in covariance]
    if absent:
        named = ", ".join(map(str, absent))
        raise InputError(
            f"covariance: expected layer{'s' if len(absent) > 1 else ''} {named} in it, "
            f"got layers {sorted(covariance)}; collect it with layers={list(layers)}."
        )
    moments = {layer: covariance[layer] for layer in layers}
    for layer, moment in moments.items():
        if tuple(moment.shape) != (d_mlp, d_mlp):
            raise InputError(
                f"covariance: expected shape [{d_mlp}, {d_mlp}] at layer {layer}, got {list(moment.shape)}; "
                "it belongs to another model."
            )
        if not bool(torch.isfinite(moment).all()):
            raise InputError(f"covariance: layer {layer} holds NaN or infinity; collect it again.")
    if isinstance(covariance, Covariance):
        _check_origin(covariance, fingerprint, prepend_bos, edited or {}, stacklevel + 1)
    return moments


def _check_origin(
    covariance: Covariance, fingerprint: str, prepend_bos: bool, edited: Mapping[str, str], stacklevel: int
) -> None:
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
            stacklevel=stacklevel,
        )
    # One of the model without edits serves an edited model: that is how edits are usually stacked.
    under = covariance.provenance.get("settings", {}).get("edited_weights") or {}
    if under and under != edited:
        warnings.warn(
            f"covariance: collected while edits of {', '.join(under)} were active that are not now; "
            "collect it again.",
            CovarianceWarning,
            stacklevel=stacklevel,
        )
