"""The way that all closed-form editors go: check, search targets, write them in layers, batch after batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechstyle.editing.application import EditHandle, active_ids, apply_edits, put_first
from mechstyle.editing.covariance import Covariance
from mechstyle.editing.edit import EditSet
from mechstyle.editing.inputs import (
    checked_batch_size,
    checked_layers,
    checked_moments,
    checked_targets,
)
from mechstyle.editing.keys import BARE, check_contexts, sample_contexts
from mechstyle.editing.layer_solves import LayerSolve
from mechstyle.editing.spread import LayerWrite, apart, write_in_layers
from mechstyle.editing.storage import sha256_of
from mechstyle.editing.target_options import Target, TargetOptions
from mechstyle.editing.target_runs import TargetKind
from mechstyle.editing.targets import search_targets
from mechstyle.facts import EditRequest, Fact
from mechstyle.models import (
    HookedModel,
    active_base,
    edited_weights,
    provenance,
    require_editable,
    resolve_bos,
)
from mechstyle.requests import check_requests, same_key

__all__ = ["KeepWarning", "Policy", "SharedKeyWarning", "Wish", "carry_out"]

Moments = Mapping[int, Float[Tensor, "d_mlp d_mlp"]]


class KeepWarning(UserWarning):
    """A fact that should stay cannot be told apart from one that is to change."""


class SharedKeyWarning(UserWarning):
    """Requests that are written together cannot be told apart and get the mean of what they want."""


@dataclass(frozen=True, eq=False)
class Policy:
    """What makes a method.

    Args:
        options: of the target search, where the caller gives none.
        kind: what the target is searched at: the MLP's output or the layer's.
        solve: makes of the layers' second moments what solves one layer.
        settings: of this method alone, for provenance.
        sample: contexts by seed, where the caller gives none.
        bare_is_half: the bare prompt weighs as much as all other contexts.
        read_bare: the residual is to hold at the bare prompt's key.
    """

    method: str
    options: TargetOptions
    kind: TargetKind
    solve: Callable[[Moments], LayerSolve]
    settings: Mapping[str, Any] = field(default_factory=dict)
    sample: Callable[[HookedModel, int], Sequence[str]] = sample_contexts
    bare_is_half: bool = False
    read_bare: bool = False


@dataclass(frozen=True, eq=False)
class Wish:
    """What every method is asked in the same words; see ``memit``."""

    requests: EditRequest | Sequence[EditRequest]
    layers: int | Sequence[int]
    covariance: Moments
    contexts: Sequence[str] | None = None
    target_options: TargetOptions | None = None
    targets: Sequence[Target] | None = None
    batch_size: int | None = None
    seed: int = 0
    prepend_bos: bool | None = None
    progress: bool = False


def carry_out(model: HookedModel, wish: Wish, policy: Policy) -> EditSet:
    """Compute the edit that a policy makes of a wish; the model is unchanged.

    Raises:
        InputError, RangeError, ModelError, TextError, WorkError: as ``memit``.

    Warns:
        CovarianceWarning, TargetWarning, KeepWarning, SharedKeyWarning: as ``memit``.

    >>> edit = carry_out(model, Wish(requests, 4, moments), policy)  # doctest: +SKIP
    """
    given, layers = check_requests(wish.requests), checked_layers(model, wish.layers)
    size = checked_batch_size(wish.batch_size, len(given))
    require_editable(model)
    bos, origin, under = resolve_bos(model, wish.prepend_bos), provenance(model), active_ids(model)
    moments = checked_moments(
        wish.covariance,
        layers,
        d_mlp=int(model.cfg.d_mlp),
        fingerprint=str(origin["fingerprint"]),
        prepend_bos=bos,
        stacklevel=4,
        edited=edited_weights(model),
    )
    options = policy.options if wish.target_options is None else wish.target_options
    targets = checked_targets(wish.targets, len(given), int(model.cfg.d_model))
    sampled = policy.sample(model, wish.seed) if wish.contexts is None else wish.contexts
    contexts = check_contexts(sampled)
    weights = _context_weights(contexts, bare_is_half=policy.bare_is_half)
    keep = _kept(model, given, bos)
    solve = policy.solve(moments)
    for first in range(0, len(given), size):
        _warn_if_shared(given[first : first + size], first)
    found: list[Target] = []
    batches: list[list[LayerWrite]] = []
    applied: list[EditHandle] = []
    with ExitStack() as undo:
        undo.callback(lambda: put_first(model, (), instead_of=applied))
        for first in range(0, len(given), size):
            some = given[first : first + size]
            own = list(targets[first : first + size])
            if not own:
                own = search_targets(
                    model,
                    some,
                    layer=layers[-1],
                    contexts=contexts,
                    options=options,
                    prepend_bos=bos,
                    kind=policy.kind,
                    progress=wish.progress,
                    stacklevel=4,
                )
            writes = write_in_layers(
                model,
                [request.phrased for request in some],
                torch.stack([target.delta for target in own]),
                layers=layers,
                solve=solve,
                contexts=contexts,
                weights=weights,
                keep=keep,
                read_bare=policy.read_bare,
                prepend_bos=bos,
            )
            found += own
            batches.append(writes)
            if first + size < len(given):
                applied.append(apply_edits(model, [write.edit for write in writes]))
    every = [write for writes in batches for write in writes]
    settings = {
        "method": policy.method,
        **policy.settings,
        "layers": list(layers),
        "active_edits": sorted(active_base(model)),
        "on_top_of": list(under),
        "batch_size": wish.batch_size,
        "seed": wish.seed,
        "prepend_bos": bos,
        "contexts": list(contexts),
        "context_weights": weights,
        "target_options": asdict(options) if wish.targets is None else None,
        "targets_sha256": sha256_of([target.delta for target in targets]) if targets else None,
        "losses": [list(target.losses) for target in found],
        "answer_nll": [list(target.answer_nll) for target in found],
        "keys": sum(writes[0].keys for writes in batches),
        "missing": [write.missing for write in every],
        "jitter": [write.jitter for write in every],
        "gram_jitter": [write.gram_jitter for write in every],
        "covariance": _described(wish.covariance, moments),
    }
    return EditSet(
        edits=tuple(write.edit for write in every),
        fingerprint=str(origin["fingerprint"]),
        provenance={**origin, "settings": settings},
        requests=given,
    )


def _kept(model: HookedModel, requests: Sequence[EditRequest], bos: bool) -> tuple[Fact, ...]:
    """The facts to keep that can be kept, all requests' together."""
    asked = tuple(dict.fromkeys(fact for request in requests for fact in request.keep))
    kept, lost = apart(model, asked, [request.phrased for request in requests], prepend_bos=bos)
    if lost:
        warnings.warn(
            f"keep: {lost[0].prompt!r}{f' and {len(lost) - 1} more' if len(lost) > 1 else ''} begins like a "
            "prompt that is to change, up to the subject's last token, so that no change of the MLP there "
            "can tell them apart; it is not kept.",
            KeepWarning,
            stacklevel=4,
        )
    return kept


def _warn_if_shared(requests: Sequence[EditRequest], first: int) -> None:
    differing = [
        group for group in same_key(requests) if len({requests[index].new_target for index in group}) > 1
    ]
    if differing:
        one, other = (first + index for index in differing[0][:2])
        warnings.warn(
            f"requests: {len(differing)} group(s) begin alike up to the subject's last token and want "
            f"different things, first requests[{one}] and requests[{other}]: the MLP sees one key there and "
            "each gets the mean. Write them in different batches only if the last one may win.",
            SharedKeyWarning,
            stacklevel=4,
        )


def _described(covariance: Moments, moments: Moments) -> dict[str, Any]:
    """Where second moments come from; of those that do not say it, a hash."""
    if isinstance(covariance, Covariance):
        return dict(covariance.provenance)
    return {"sha256": sha256_of(list(moments.values()))}


def _context_weights(contexts: Sequence[str], *, bare_is_half: bool) -> list[float]:
    """What each context counts in a key's mean: all alike, or the bare prompt as much as all others."""
    others = len(contexts) - 1
    if not bare_is_half or others == 0:
        return [1 / len(contexts)] * len(contexts)
    return [0.5 if context == BARE else 0.5 / others for context in contexts]
