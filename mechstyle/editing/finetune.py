"""Fine-tuning as an editor: FT, FT-L, and FT that preserves; and where its gradients go."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from mechstyle.editing.application import active_ids
from mechstyle.editing.edit import EditSet
from mechstyle.editing.finetune_options import FinetuneOptions
from mechstyle.editing.finetune_rows import preserved_rows, request_rows
from mechstyle.editing.finetune_steps import Finetuned, FinetunePlan, tune
from mechstyle.editing.inputs import checked_layers
from mechstyle.editing.weight_edit import WeightEdit
from mechstyle.errors import InputError, RangeError
from mechstyle.facts import EditRequest, Fact
from mechstyle.models import (
    HookedModel,
    active_base,
    named_weights,
    parameter,
    provenance,
    require_editable,
    require_hooked,
    resolve_bos,
)
from mechstyle.requests import check_requests

__all__ = ["FinetuneOptions", "finetune", "gradient_log"]


def finetune(
    model: HookedModel,
    requests: EditRequest | Sequence[EditRequest],
    *,
    layers: int | Sequence[int] | None = None,
    parameters: str | Sequence[str] = ("mlp.W_out",),
    options: FinetuneOptions | None = None,
    preserve: Sequence[str | Fact] = (),
    schedule: Callable[[int], Collection[int]] | None = None,
    log_all: bool = False,
    seed: int = 0,
    prepend_bos: bool | None = None,
    progress: bool = False,
) -> EditSet:
    """Compute the change of the chosen weights that a few steps of Adam on the new targets make.

    All phrasings of all requests are prompts, each counts alike. The steps go over copies in fp32 at least,
    rounded to the model's dtype for each run; the model, its gradients and its flags are not touched. Other
    parameters are frozen. Where edits are active, it trains on top of them.

    The edit holds a log of the gradients, before each update: read it with ``gradient_log``.

    Args:
        layers: those that are trained; None is all.
        parameters: what is trained in each of them, by the names behind ``"blocks.0."``, such as
            ``"mlp.W_in"``, ``"mlp.b_out"`` or ``"attn.W_Q"``.
        preserve: texts, and facts whose targets should stay; they count with each request's ``keep`` as the
            options' ``kl_factor`` and ``data_factor`` say.
        schedule: step (from 0) -> the layers, out of ``layers``, that this step's update changes; the others
            keep the very bits they have. It is asked for all steps beforehand. None changes all in each step.
        log_all: log the gradients of all layers, also of frozen ones.
        seed: of the order of batches, where not everything fits into one.
        prepend_bos: None means the model's default.
        progress: show a progress bar on stderr.

    Raises:
        InputError: no requests, or two that want different things of one prompt; no layers, or unknown names
            of parameters; a factor above 0 without anything to preserve, or texts without a factor.
        RangeError: a layer or the seed is out of range.
        ModelError: a processed model, one with NaN weights, or parameters that a ``TransformerBridge`` ties
            or lacks.
        TextError: a prompt or text cannot be tokenised.
        WorkError: the loss, the gradients or the weights became NaN or infinite; the step is told.

    Meng et al. 2022 (ROME), baselines FT and FT+L; Zhu et al. 2020; Mitchell et al. 2022.

    >>> options = FinetuneOptions(norm_constraint=1e-3)
    >>> edit = finetune(model, request, layers=0, options=options)  # doctest: +SKIP
    >>> edit.provenance["settings"]["known_at"]  # doctest: +SKIP
    7
    """
    require_hooked(model)
    wishes = check_requests(requests)
    chosen = checked_layers(model, range(int(model.cfg.n_layers)) if layers is None else layers)
    options = FinetuneOptions() if options is None else options
    if not isinstance(options, FinetuneOptions):
        raise InputError(f"options: expected FinetuneOptions, got {type(options).__name__}.")
    seen_layers = range(int(model.cfg.n_layers)) if log_all else chosen
    kinds = _checked_kinds(model, parameters, seen_layers)
    unfrozen = _unfrozen(schedule, chosen, options.steps)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise RangeError(f"seed: expected an integer of 0 or more, got {seed!r}.")
    require_editable(model)
    bos = resolve_bos(model, prepend_bos)
    rows = request_rows(model, wishes, prepend_bos=bos)
    stay = tuple(dict.fromkeys(fact for request in wishes for fact in request.keep))
    kept = preserved_rows(model, preserve, prepend_bos=bos) + preserved_rows(model, stay, prepend_bos=bos)
    kl_factor = _checked_factors(options, preserve, len(kept))
    origin = provenance(model)

    plan = FinetunePlan(
        moving=tuple(tuple(_names(kinds, some)) for some in unfrozen),
        watched=tuple(_names(kinds, seen_layers)),
        rows=rows,
        kept=kept if kl_factor > 0 or options.data_factor > 0 else (),
        kl_factor=kl_factor,
        options=options,
        seed=seed,
    )
    found = tune(model, plan, progress=progress)

    settings = {
        "method": "finetune",
        "options": {**asdict(options), "kl_factor": kl_factor},
        "layers": list(chosen),
        "parameters": list(kinds),
        "schedule": None if schedule is None else [list(some) for some in unfrozen],
        "n_preserved": len(plan.kept),
        "preserved_sha256": _hash((*preserve, *stay)) if plan.kept else None,
        "active_edits": sorted(active_base(model)),
        "on_top_of": list(active_ids(model)),
        "seed": seed,
        "prepend_bos": bos,
        "losses": found.log.losses,
        "total_losses": found.log.totals,
        "known": found.log.known,
        "n_steps": found.n_steps,
        "final_loss": found.final_loss,
        "known_at": found.known_at,
        "gradient_layers": list(seen_layers),
        "gradient_norms": _norms_by_kind(found, kinds, len(seen_layers)),
    }
    return EditSet(
        edits=tuple(WeightEdit.dense(name, delta) for name, delta in found.deltas.items()),
        fingerprint=str(origin["fingerprint"]),
        provenance={**origin, "settings": settings},
        requests=wishes,
    )


def gradient_log(edit: EditSet) -> pd.DataFrame:
    """Where the gradients of a fine-tuning went: a row for each step, layer and kind of parameter.

    Columns: ``step`` (updates made before), ``layer``, ``parameter``, ``norm`` of its gradient of the total
    loss, ``loss`` of the new targets (nats), ``known``: all of them are, token by token, the most probable
    ones. To follow a fact until it is known, take the rows that are not ``known``.

    Raises:
        InputError: the edit does not come from ``finetune``.

    >>> log = gradient_log(edit)  # doctest: +SKIP
    >>> log[~log.known].pivot_table(index="layer", columns="step", values="norm")  # doctest: +SKIP
    """
    settings: Any = edit.provenance.get("settings", {})
    if settings.get("method") != "finetune":
        found = settings.get("method", "unknown origin")
        raise InputError(f"edit: expected one of finetune, got one of {found}.")
    rows = [
        (step, layer, kind, norm, settings["losses"][step], settings["known"][step])
        for kind, steps in settings["gradient_norms"].items()
        for step, norms in enumerate(steps)
        for layer, norm in zip(settings["gradient_layers"], norms, strict=True)
    ]
    columns = ["step", "layer", "parameter", "norm", "loss", "known"]
    return pd.DataFrame(sorted(rows, key=lambda row: row[:2]), columns=columns)


def _hash(preserved: Sequence[str | Fact]) -> str:
    """SHA-256 (hex) of texts and facts in their order."""
    listed = [one.to_dict() if isinstance(one, Fact) else one for one in preserved]
    return hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()


def _names(kinds: Sequence[str], layers: Iterable[int]) -> list[str]:
    return [f"blocks.{layer}.{kind}" for kind in kinds for layer in layers]


def _norms_by_kind(found: Finetuned, kinds: Sequence[str], width: int) -> dict[str, list[list[float]]]:
    """Kind -> [step, layer]; the log has all layers of the first kind, then those of the next."""
    return {
        kind: [norms[place * width : (place + 1) * width] for norms in found.log.norms]
        for place, kind in enumerate(kinds)
    }


def _checked_kinds(
    model: HookedModel, parameters: str | Sequence[str], layers: Iterable[int]
) -> tuple[str, ...]:
    kinds = (parameters,) if isinstance(parameters, str) else parameters
    if not isinstance(kinds, Sequence) or not kinds or len(set(kinds)) < len(kinds):
        raise InputError(f"parameters: expected one or more different names, got {parameters!r}.")
    known = named_weights(model)
    for layer in layers:
        start = f"blocks.{layer}."
        inside = [name.removeprefix(start) for name in known if name.startswith(start)]
        unknown = [kind for kind in kinds if kind not in inside]
        if unknown:
            raise InputError(
                f"parameters: layer {layer} has no {unknown[0]!r}; it has {', '.join(sorted(inside))}."
            )
        for kind in kinds:
            parameter(model, start + kind)
    return tuple(kinds)


def _unfrozen(
    schedule: Callable[[int], Collection[int]] | None, layers: Sequence[int], steps: int
) -> list[tuple[int, ...]]:
    """The layers that change, for each step."""
    if schedule is None:
        return [tuple(layers)] * steps
    found = []
    for step in range(steps):
        some = schedule(step)
        if not isinstance(some, Collection) or isinstance(some, str) or not set(some) <= set(layers):
            raise InputError(
                f"schedule: expected some of layers {list(layers)} at step {step}, got {some!r}; "
                "name every layer that is ever trained in layers."
            )
        found.append(tuple(sorted({int(layer) for layer in some})))
    if not any(found):
        raise InputError(f"schedule: expected layers in at least one of {steps} steps, got none in any.")
    return found


def _checked_factors(options: FinetuneOptions, preserve: Sequence[str | Fact], n_kept: int) -> float:
    """The factor of the KL divergence."""
    factor = options.kl_factor
    if factor is None:
        factor = 1.0 if n_kept and options.data_factor == 0 else 0.0
    factors = {"kl_factor": factor, "data_factor": options.data_factor}
    named = [name for name, value in factors.items() if value > 0]
    if named and not n_kept:
        raise InputError(
            f"preserve: {named[0]} is above 0, but there is nothing to preserve; give texts or Facts, or "
            "requests with keep."
        )
    if preserve and not named:
        raise InputError(
            "preserve: kl_factor and data_factor are both 0, so the texts would not count; raise one, or "
            "leave the texts out."
        )
    return factor
