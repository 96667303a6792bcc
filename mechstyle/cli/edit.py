"""``mechstyle edit``: write facts."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

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
    measured_covariance,
    request_from,
)
from mechstyle.cli.output import emit
from mechstyle.errors import InputError

if TYPE_CHECKING:
    from mechstyle.editing.edit import EditSet
    from mechstyle.models import HookedModel

__all__ = ["Method", "edit"]

_SHOWN: Final = 5
"""Requests that are written out on the terminal."""


class Method(StrEnum):
    """How facts are written."""

    ROME = "rome"
    MEMIT = "memit"
    EMMET = "emmet"


def edit(
    out: Annotated[Path, typer.Option("--out", help="The edit, as safetensors.")],
    method: Annotated[
        Method,
        typer.Option(
            "--method", help="rome writes one request; memit and emmet write all of a file at once."
        ),
    ] = Method.ROME,
    layer: Annotated[int | None, typer.Option("--layer", help="The layer to write into.")] = None,
    layers: Annotated[
        str | None,
        typer.Option("--layers", help="Layers to spread memit or emmet over, with commas between: 0,1,2."),
    ] = None,
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
    cache: Cache = True,
    mom2_weight: Annotated[
        float | None,
        typer.Option("--mom2-weight", help="Of memit: how much the keys to preserve weigh; default d_mlp."),
    ] = None,
    ridge: Annotated[
        float | None,
        typer.Option("--ridge", help="Of emmet: 0, the default, writes each fact exactly."),
    ] = None,
    legacy: Annotated[
        bool, typer.Option("--legacy", help="As published: rome's inconsistent key, the others' contexts.")
    ] = False,
    prepend_bos: Bos = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compute an edit and save it: one fact by ROME, many by MEMIT or EMMET. The model's own files stay."""
    asked = request_from(prompt, subject, target, new)
    if (asked is None) == (requests is None):
        raise InputError("give either --requests FILE or --prompt, --subject, --target and --new.")
    chosen = _chosen_layers(method, layer, layers)
    for option, value, owner in (
        ("--mom2-weight", mom2_weight, Method.MEMIT),
        ("--ridge", ridge, Method.EMMET),
    ):
        if value is not None and method != owner:
            raise InputError(f"{option} belongs to --method {owner}, not to --method {method}.")
    from mechstyle.datasets import read_requests
    from mechstyle.editing.batch_methods import emmet, memit
    from mechstyle.editing.covariance import Covariance
    from mechstyle.editing.inputs import checked_requests, checked_ridge
    from mechstyle.editing.methods import rome
    from mechstyle.models import load_model
    from mechstyle.outputs import require_writable
    from mechstyle.sites import check_layer
    from mechstyle.threads import few_threads

    require_writable(out)
    found = [asked] if asked is not None else read_requests(requests) if requests is not None else []
    if method == Method.ROME and len(found) != 1:
        raise InputError(
            f"--requests {requests}: ROME writes one request into one edit, and the file holds {len(found)}; "
            "write them together by --method memit or emmet, put each into a file of its own, or let "
            "mechstyle study edit them one by one."
        )
    checked_requests(found)
    if mom2_weight is not None:
        checked_ridge(mom2_weight, "--mom2-weight", zero=False)
    if ridge is not None:
        checked_ridge(ridge, "--ridge", zero=True)
    moments = None if covariance is None else Covariance.load(covariance)
    hooked = load_model(model)
    for one in chosen:
        check_layer(one, hooked.cfg.n_layers, name="--layer" if layers is None else "--layers")
    with few_threads(hooked):
        if moments is None:
            moments = measured_covariance(
                hooked, model, chosen, text=text, n_keys=n_keys, bos=prepend_bos, seed=seed, cache=cache
            )
        if method == Method.ROME:
            result = rome(
                hooked,
                found[0],
                layer=chosen[0],
                covariance=moments,
                legacy=legacy,
                seed=seed,
                prepend_bos=prepend_bos,
            )
        elif method == Method.MEMIT:
            result = memit(
                hooked,
                found,
                layers=chosen,
                covariance=moments,
                mom2_weight=mom2_weight,
                legacy=legacy,
                seed=seed,
                prepend_bos=prepend_bos,
                progress=not quiet,
            )
        else:
            result = emmet(
                hooked,
                found,
                layers=chosen,
                covariance=moments,
                ridge=0.0 if ridge is None else ridge,
                legacy=legacy,
                seed=seed,
                prepend_bos=prepend_bos,
                progress=not quiet,
            )
    result.save(out)
    summary: dict[str, Any] = {"out": str(out), "model": model, "method": str(method), "layers": chosen}
    _report(summary, result, hooked, as_json=as_json)


def _chosen_layers(method: Method, layer: int | None, layers: str | None) -> list[int]:
    if (layer is None) == (layers is None):
        raise InputError("give either --layer, such as --layer 4, or --layers, such as --layers 3,4,5.")
    chosen = layers_from(layers) if layers is not None else [layer] if layer is not None else []
    if method == Method.ROME and len(chosen) != 1:
        raise InputError(
            f"--layers {layers}: ROME writes into one layer; give --layer, or --method memit or emmet."
        )
    if len(set(chosen)) < len(chosen):
        raise InputError(f"--layers {layers}: expected different layers.")
    return sorted(chosen)


def _report(summary: dict[str, Any], result: EditSet, model: HookedModel, *, as_json: bool) -> None:
    from mechstyle.weights import parameter_value

    shares = {
        name: float(result.delta(name).norm() / parameter_value(model, name).detach().double().norm().cpu())
        for name in result.parameters
    }
    requests = [request.to_dict() for request in result.requests]
    summary |= {
        "parameters": list(result.parameters),
        "relative_norms": shares,
        "losses": result.provenance["settings"]["losses"],
        "requests": requests,
    }
    if summary["method"] == Method.ROME:
        (name,) = result.parameters
        summary |= {"layer": summary["layers"][0], "relative_norm": shares[name], "request": requests[0]}
    lines = [f"{one.fact.prompt!r} -> {one.new_target!r}" for one in result.requests[:_SHOWN]]
    if len(result.requests) > _SHOWN:
        lines.append(f"and {len(result.requests) - _SHOWN} more")
    lines += [f"{name} changes by {share:.2%} of its norm" for name, share in shares.items()]
    emit(summary, "\n".join([*lines, summary["out"]]), as_json=as_json)
