"""Edit every fact at every layer, and put its causal trace beside it (Hase et al. 2023)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import pandas as pd
from jaxtyping import Float
from rich.console import Console
from rich.progress import track
from torch import Tensor

from mechstyle.editing.edit import EditSet
from mechstyle.editing.inputs import checked_layers
from mechstyle.editing.keys import sample_contexts
from mechstyle.editing.methods import rome
from mechstyle.editing.target_options import TargetOptions, TargetWarning
from mechstyle.editing.targets import optimise_targets
from mechstyle.errors import InputError
from mechstyle.evaluation.scores import evaluate
from mechstyle.facts import EditRequest
from mechstyle.models import (
    HookedModel,
    fingerprint,
    provenance,
    require_editable,
    require_hooked,
    resolve_bos,
)
from mechstyle.requests import check_requests
from mechstyle.sites import Kind
from mechstyle.study.localisation import EFFECT, LocalisationCheck
from mechstyle.tracing.causal_trace import causal_trace
from mechstyle.tracing.trace import Trace

__all__ = ["Editor", "localisation_vs_editability"]

Moments = Mapping[int, Float[Tensor, "d_mlp d_mlp"]]
Editor = Callable[[HookedModel, Sequence[EditRequest], int], Sequence[EditSet]]
"""What makes an edit of each request at one layer."""
Item = TypeVar("Item")
KINDS: tuple[Kind, ...] = ("mlp", "resid")
LAST_SUBJECT = "last subject token"
DIMS = ("sample", "token", "layer")


def localisation_vs_editability(
    model: HookedModel,
    requests: Sequence[EditRequest],
    *,
    covariance: Moments | None = None,
    layers: Sequence[int] | None = None,
    editor: Editor | None = None,
    traces: Sequence[Trace] | None = None,
    samples: int = 10,
    contexts: Sequence[str] | None = None,
    target_options: TargetOptions | None = None,
    seed: int = 0,
    prepend_bos: bool | None = None,
    progress: bool = False,
) -> LocalisationCheck:
    """Edit each request alone at each layer, and compare its success there with the trace's effect there.

    Requests whose fact the model does not know are left out and counted: their traces show nothing. The model
    is as before when this returns.

    Args:
        covariance: layer -> second moment of keys, for ROME; not needed with an `editor`.
        layers: to edit; None is those of the covariance, or all of the model with an `editor`.
        editor: (model, requests, layer) -> an edit a request; None is ROME, targets searched in one batch.
        traces: of the requests, in their order, with any kinds over (token, layer); None traces the kinds
            "mlp" and "resid".
        samples: noise draws of such a trace.
        contexts: of ROME; None samples them from the model by `seed`.

    Raises:
        InputError: fewer than two requests that the model knows, or than two layers; traces of other facts
            or of another model; a covariance that lacks a layer.
        RangeError: a layer or `samples` is out of range.
        ModelError: a processed model, or one with NaN weights.
        TextError: a prompt cannot be tokenised.

    Hase et al. 2023.

    >>> check = localisation_vs_editability(model, requests, covariance=moments)  # doctest: +SKIP
    >>> check.variance_explained("mlp").loc["layer", "r2"]  # doctest: +SKIP
    0.63
    """
    require_hooked(model)
    given = check_requests(requests)
    require_editable(model)
    bos = resolve_bos(model, prepend_bos)
    tried = _layers(model, layers, covariance, editor)
    if traces is None:
        bar = _bar(given, "tracing", progress)
        traces = [
            causal_trace(model, one.fact, kinds=KINDS, samples=samples, seed=seed, prepend_bos=bos)
            for one in bar
        ]
    found = _checked_traces(model, given, traces)
    known = [number for number, trace in enumerate(found) if trace.knows]
    if len(known) < 2:
        raise InputError(
            f"requests: expected at least two facts that the model knows, got {len(known)} of {len(given)}; "
            "the trace of an unknown fact shows nothing. Evaluate first which facts it completes."
        )
    some = [given[number] for number in known]
    if editor is None:
        sampled = sample_contexts(model, seed) if contexts is None else tuple(contexts)
        editor = _rome(covariance or {}, sampled, target_options, bos)
    rows = []
    for layer in _bar(tried, "editing", progress):
        with warnings.catch_warnings():
            if layer == int(model.cfg.n_layers) - 1:  # where nothing can be reached: that is a result here
                warnings.simplefilter("ignore", TargetWarning)
            edits = editor(model, some, layer)
        scored = evaluate(model, some, edits=edits, prepend_bos=bos).rows
        for number, row in zip(known, _scores(scored), strict=True):
            rows.append({"fact": number, "layer": layer, **row, **_effects(found[number], layer)})
    record = provenance(
        model,
        layers=list(tried),
        n_requests=len(given),
        seed=seed,
        prepend_bos=bos,
        edit=edits[0].provenance["settings"]["method"],
        trace={name: found[0].settings[name] for name in ("metric", "window", "samples")},
        kinds=_kinds(found[0]),
    )
    return LocalisationCheck(pd.DataFrame(rows), len(given) - len(known), record)


def _layers(
    model: HookedModel, layers: Sequence[int] | None, covariance: Moments | None, editor: Editor | None
) -> tuple[int, ...]:
    if editor is None and not isinstance(covariance, Mapping):
        raise InputError(
            "covariance: expected a mapping layer -> matrix, as covariance() returns, for ROME; "
            f"got {type(covariance).__name__}. Or pass an editor."
        )
    if layers is None:
        layers = range(int(model.cfg.n_layers)) if covariance is None else sorted(covariance)
    tried = checked_layers(model, layers)
    if len(tried) < 2:
        raise InputError(f"layers: expected two or more to compare, got {list(tried)}.")
    absent = [] if editor is not None else [layer for layer in tried if layer not in (covariance or {})]
    if absent:
        raise InputError(
            f"covariance: lacks layers {absent}; collect it with layers={list(tried)}, or name its own."
        )
    return tried


def _checked_traces(
    model: HookedModel, requests: Sequence[EditRequest], traces: Sequence[Trace]
) -> tuple[Trace, ...]:
    """The traces, after checking that they belong to the requests and to this model."""
    found = tuple(traces)
    if len(found) != len(requests):
        raise InputError(f"traces: expected one a request, {len(requests)}, got {len(found)}.")
    own = fingerprint(model)
    for number, (trace, request) in enumerate(zip(found, requests, strict=True)):
        if trace.provenance["fingerprint"] != own:
            raise InputError(f"traces[{number}]: made with another model. Trace the requests with this one.")
        if trace.settings.get("fact") != request.fact.to_dict():
            raise InputError(
                f"traces[{number}]: of another fact than requests[{number}], {request.fact.prompt!r}. "
                "Give traces in the order of the requests."
            )
        if _kinds(trace) != _kinds(found[0]) or not _kinds(trace):
            raise InputError(
                f"traces[{number}]: expected the same kinds over token and layer as in the others; "
                f"got {', '.join(trace.kinds)}."
            )
    return found


def _kinds(trace: Trace) -> list[str]:
    """The kinds that have a value for every token and layer."""
    return [kind for kind in trace.kinds if trace.data[kind].dims == DIMS]


def _effects(trace: Trace, layer: int) -> dict[str, float]:
    place = {"token": trace.token(LAST_SUBJECT), "layer": layer}
    return {EFFECT + kind: float(trace.indirect_effect(kind).isel(place)) for kind in _kinds(trace)}


def _rome(
    covariance: Moments, contexts: Sequence[str], options: TargetOptions | None, prepend_bos: bool
) -> Editor:
    """ROME, request by request, with the targets of all requests searched together."""

    def edits(model: HookedModel, requests: Sequence[EditRequest], layer: int) -> list[EditSet]:
        targets = optimise_targets(
            model, requests, layer=layer, contexts=contexts, options=options, prepend_bos=prepend_bos
        )
        return [
            rome(
                model,
                request,
                layer=layer,
                covariance=covariance,
                contexts=contexts,
                targets=[target],
                prepend_bos=prepend_bos,
            )
            for request, target in zip(requests, targets, strict=True)
        ]

    return edits


def _scores(rows: pd.DataFrame) -> list[dict[str, object]]:
    """Of each request, in order: P(new) before and after on its own prompt, and the rewrite score."""
    own = rows[rows["kind"] == "rewrite"]
    before, after = (own[own["stage"] == stage].sort_values("request") for stage in ("before", "after"))
    found: list[dict[str, object]] = []
    for old, new in zip(before.itertuples(), after.itertuples(), strict=True):
        room = 1 - float(old.p_new)
        rise = float(new.p_new) - float(old.p_new)
        found.append(
            {
                "subject": new.subject,
                "success": rise / room if room > 0 else 0.0,
                "p_before": float(old.p_new),
                "p_after": float(new.p_new),
                "efficacy": bool(new.success),
            }
        )
    return found


def _bar(items: Sequence[Item], what: str, shown: bool) -> Iterable[Item]:
    return track(items, what, console=Console(stderr=True), disable=not shown, transient=True)
