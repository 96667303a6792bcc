"""``mechstyle edit``: write facts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mechstyle.cli import canaries, tuning
from mechstyle.cli.edit_order import EditOrder, carry_out
from mechstyle.cli.methods import METHODS, Method, MethodSpec, require_own_options
from mechstyle.cli.options import (
    ORGANISM,
    Bos,
    Cache,
    Json,
    Model,
    New,
    Prompt,
    Quiet,
    Requests,
    Seed,
    Subject,
    Target,
    Text,
    layers_from,
    request_from,
)
from mechstyle.errors import InputError

__all__ = ["edit"]


def edit(
    out: Annotated[Path | None, typer.Option("--out", help="The edit, as safetensors.")] = None,
    ledger: Annotated[
        Path | None,
        typer.Option("--ledger", help="Instead of --out: the folder of a ledger that the edit is added to."),
    ] = None,
    each: Annotated[
        Path | None,
        typer.Option(
            "--each",
            help="Instead of --out: a folder for an edit of its own for each request, as `mechstyle evaluate "
            "--edits NAME=FOLDER` takes them. The same command goes on after a kill.",
        ),
    ] = None,
    method: Annotated[
        Method,
        typer.Option("--method", help="rome writes one request at a time; the others all that there are."),
    ] = Method.ROME,
    layers: Annotated[
        str | None,
        typer.Option("--layers", "--layer", help="The layer to write into, or several: 0,1,2."),
    ] = None,
    model: Model = ORGANISM,
    requests: Requests = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=1, help="Take the first requests of the file only; all of it must be readable."
        ),
    ] = None,
    prompt: Prompt = None,
    subject: Subject = None,
    target: Target = None,
    new: New = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            min=1,
            help="Requests that are written at once, each batch on top of those before; all. In a ledger "
            "each batch is an entry.",
        ),
    ] = None,
    sweep: Annotated[
        int | None,
        typer.Option(
            "--sweep",
            min=1,
            help="Without --layers: try the layers of --covariance with the first requests, take the best.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all and show what would be written; write nothing.")
    ] = False,
    covariance: tuning.CovarianceFile = None,
    text: Text = None,
    n_keys: tuning.NKeys = None,
    cache: Cache = True,
    legacy: tuning.Legacy = False,
    mom2_weight: tuning.Mom2Weight = None,
    ridge: tuning.Ridge = None,
    threshold: tuning.Threshold = None,
    l2: tuning.L2 = None,
    steps: tuning.Steps = None,
    lr: tuning.LearningRate = None,
    weight_decay: tuning.WeightDecay = None,
    kl_factor: tuning.KlFactor = None,
    clamp_norm: tuning.ClampNorm = None,
    norm_constraint: tuning.NormConstraint = None,
    parameters: tuning.Parameters = None,
    preserve: tuning.Preserve = None,
    mode: tuning.Mode = None,
    share: tuning.Share = None,
    epsilon: tuning.Epsilon = None,
    template: tuning.Template = None,
    health: canaries.Health = False,
    known_facts: canaries.KnownFacts = None,
    max_perplexity_ratio: canaries.MaxPerplexity = None,
    max_delta_ratio: canaries.MaxDelta = None,
    min_known: canaries.MinKnown = None,
    prepend_bos: Bos = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compute an edit and save it, or add it to a ledger. The model's own files stay as they are."""
    asked = request_from(prompt, subject, target, new)
    if (asked is None) == (requests is None):
        raise InputError("give either --requests FILE or --prompt, --subject, --target and --new.")
    n_places = sum(place is not None for place in (out, ledger, each))
    if n_places > 1 or (n_places == 0 and not dry_run):
        raise InputError(
            "give one of --out FILE, for the edit, --ledger DIR, to add it there, and --each DIR, for an "
            "edit of each request."
        )
    if each is not None and (batch_size is not None or dry_run):
        raise InputError("--each: with an edit for each request, leave --batch-size and --dry-run out.")
    given = tuning.Tuning(
        covariance=covariance,
        text=text,
        n_keys=n_keys,
        legacy=legacy or None,
        mom2_weight=mom2_weight,
        ridge=ridge,
        threshold=threshold,
        l2=l2,
        steps=steps,
        lr=lr,
        weight_decay=weight_decay,
        kl_factor=kl_factor,
        clamp_norm=clamp_norm,
        norm_constraint=norm_constraint,
        parameters=parameters,
        preserve=preserve,
        mode=mode,
        share=share,
        epsilon=epsilon,
        template=template,
    )
    canary = canaries.Canary(
        health=health,
        known_facts=known_facts,
        max_perplexity_ratio=max_perplexity_ratio,
        max_delta_ratio=max_delta_ratio,
        min_known=min_known,
    )
    spec = METHODS[method]
    require_own_options(method, replace(given, text=None) if canary.reads_text else given)
    _require_sense(method, spec, canary, ledger=ledger, layers=layers, batch_size=batch_size)
    if sweep is not None and (not spec.moments or layers is not None or covariance is None or dry_run):
        raise InputError(
            "--sweep tries the layers of --covariance FILE for a method with a closed form, in place of "
            "--layers; a --dry-run tries nothing."
        )
    given.require_numbers(cosine=spec.layers == "allowed")
    carry_out(
        EditOrder(
            method=method,
            spec=spec,
            model=model,
            asked=asked,
            file=requests,
            limit=limit,
            layers=None if layers is None else tuple(layers_from(layers)),
            tuning=given,
            batch_size=batch_size,
            sweep=sweep,
            canary=canary,
            out=out,
            ledger=ledger,
            each=each,
            dry_run=dry_run,
            cache=cache,
            seed=seed,
            prepend_bos=prepend_bos,
            as_json=as_json,
            quiet=quiet,
        )
    )


def _require_sense(
    method: Method,
    spec: MethodSpec,
    canary: canaries.Canary,
    *,
    ledger: Path | None,
    layers: str | None,
    batch_size: int | None,
) -> None:
    """Refuse what does not go together.

    Raises:
        InputError: an option lacks the one it belongs to.
    """
    if ledger is not None and not spec.weights:
        raise InputError(
            f"--ledger holds changes of weights, and --method {method} makes none; give --out FILE."
        )
    if canary.given and ledger is None:
        raise InputError(
            "--health and its limits belong to --ledger DIR: they say whether an entry is let in."
        )
    if layers is not None and spec.layers == "none":
        raise InputError(f"--layers does not belong to --method {method}, which finds its own places.")
    if layers is not None and len(set(layers_from(layers))) < len(layers_from(layers)):
        raise InputError(f"--layers {layers}: expected different layers.")
    if batch_size is not None and ledger is None and not spec.batches:
        owners = ", ".join(other for other, row in METHODS.items() if row.batches)
        raise InputError(
            f"--batch-size belongs to --method {owners}, or to --ledger DIR, where each batch is an entry; "
            f"--method {method} writes one file of all requests."
        )
    if batch_size not in (None, 1) and spec.one_by_one:
        raise InputError(f"--batch-size {batch_size}: {method} writes one request at a time.")
