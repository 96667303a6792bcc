"""``mechstyle edit``: write a fact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mechstyle.cli.options import (
    ORGANISM,
    Bos,
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
    measured_covariance,
    request_from,
)
from mechstyle.cli.output import emit
from mechstyle.errors import InputError

__all__ = ["edit"]


def edit(
    layer: Annotated[int, typer.Option("--layer", help="The layer to write into.")],
    out: Annotated[Path, typer.Option("--out", help="The edit, as safetensors.")],
    model: Model = ORGANISM,
    requests: Requests = None,
    prompt: Prompt = None,
    subject: Subject = None,
    target: Target = None,
    new: New = None,
    covariance: Annotated[
        Path | None,
        typer.Option("--covariance", help="What mechstyle covariance wrote; measured when not given."),
    ] = None,
    text: Text = None,
    n_keys: Annotated[
        int, typer.Option("--n-keys", help="Keys to measure when no covariance is given.")
    ] = 50_000,
    legacy: Annotated[
        bool, typer.Option("--legacy", help="ROME as published, with its inconsistent key.")
    ] = False,
    prepend_bos: Bos = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compute a rank-one edit (ROME) of one fact and save it. The model's own files stay as they are."""
    request = request_from(prompt, subject, target, new)
    if (request is None) == (requests is None):
        raise InputError("give either --requests FILE or --prompt, --subject, --target and --new.")
    from mechstyle.datasets import read_requests
    from mechstyle.editing.covariance import Covariance
    from mechstyle.editing.methods import rome
    from mechstyle.models import load_model, parameter
    from mechstyle.outputs import require_writable
    from mechstyle.sites import check_layer
    from mechstyle.threads import few_threads

    require_writable(out)
    if requests is not None:
        found = read_requests(requests)
        if len(found) != 1:
            raise InputError(
                f"--requests {requests}: ROME writes one request into one edit, and the file holds "
                f"{len(found)}; put each into a file of its own, or let mechstyle study edit them one by one."
            )
        request = found[0]
    assert request is not None
    moments = None if covariance is None else Covariance.load(covariance)
    hooked = load_model(model)
    check_layer(layer, hooked.cfg.n_layers)
    with few_threads(hooked):
        if moments is None:
            moments = measured_covariance(
                hooked, model, [layer], text=text, n_keys=n_keys, bos=prepend_bos, seed=seed
            )
        result = rome(
            hooked,
            request,
            layer=layer,
            covariance=moments,
            legacy=legacy,
            seed=seed,
            prepend_bos=prepend_bos,
        )
    result.save(out)
    name = result.parameters[0]
    share = float(result.delta(name).norm() / parameter(hooked, name).detach().double().norm().cpu())
    summary = {
        "out": str(out),
        "model": model,
        "layer": layer,
        "parameters": list(result.parameters),
        "relative_norm": share,
        "losses": result.provenance["settings"]["losses"],
        "request": request.to_dict(),
    }
    lines = [
        f"{request.fact.prompt!r} -> {request.new_target!r}: {name} changes by {share:.2%} of its norm",
        str(out),
    ]
    emit(summary, "\n".join(lines), as_json=as_json)
