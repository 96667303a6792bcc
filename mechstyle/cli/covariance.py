"""``mechstyle covariance``: second moments of keys, measured once and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mechstyle.cli.options import (
    ORGANISM,
    Bos,
    Json,
    Model,
    Quiet,
    Seed,
    Text,
    layers_from,
    measured_covariance,
)
from mechstyle.cli.output import emit

__all__ = ["covariance"]


def covariance(
    layers: Annotated[str, typer.Option("--layers", help="Layers with commas between: 4,5.")],
    out: Annotated[Path, typer.Option("--out", help="The second moments, as safetensors.")],
    model: Model = ORGANISM,
    text: Text = None,
    n_keys: Annotated[
        int, typer.Option("--n-keys", help="Key vectors to average; 10 a neuron suffice.")
    ] = 50_000,
    prepend_bos: Bos = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure the uncentred second moments of MLP keys over text, for one or several layers in one pass."""
    chosen = layers_from(layers)
    from mechstyle.models import load_model
    from mechstyle.outputs import require_writable
    from mechstyle.sites import check_layer
    from mechstyle.threads import few_threads

    require_writable(out)
    hooked = load_model(model)
    for layer in chosen:
        check_layer(layer, hooked.cfg.n_layers, name="--layers")
    with few_threads(hooked):
        moments = measured_covariance(
            hooked, model, chosen, text=text, n_keys=n_keys, bos=prepend_bos, seed=seed
        )
    moments.save(out)
    conditions = {str(layer): moments.condition_number(layer) for layer in moments}
    summary = {
        "out": str(out),
        "model": model,
        "count": moments.count,
        "layers": list(moments),
        "condition_numbers": {
            layer: value if value != float("inf") else None for layer, value in conditions.items()
        },
    }
    lines = [
        f"{moments.count} keys",
        *(f"layer {layer}: condition number {value:.3g}" for layer, value in conditions.items()),
        str(out),
    ]
    emit(summary, "\n".join(lines), as_json=as_json)
