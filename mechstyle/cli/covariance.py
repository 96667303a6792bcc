"""``mechstyle covariance``: second moments of keys, measured once and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mechstyle.cli.options import (
    ORGANISM,
    Bos,
    Cache,
    Json,
    Model,
    Quiet,
    Seed,
    Text,
    layers_from,
    measured_covariance,
)
from mechstyle.cli.output import emit
from mechstyle.errors import WorkError

__all__ = ["covariance"]


def covariance(
    layers: Annotated[str, typer.Option("--layers", help="Layers with commas between: 4,5.")],
    out: Annotated[Path, typer.Option("--out", help="The second moments, as safetensors.")],
    model: Model = ORGANISM,
    text: Text = None,
    n_keys: Annotated[
        int, typer.Option("--n-keys", help="Key vectors to average; 10 a neuron suffice.")
    ] = 50_000,
    cache: Cache = True,
    prepend_bos: Bos = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure the uncentred second moments of MLP keys over text, for one or several layers in one pass.

    While it works OUT.checkpoint keeps what was measured: after Ctrl-C or a crash the same command goes on
    from there.
    """
    chosen = layers_from(layers)
    from mechstyle.models import load_model
    from mechstyle.outputs import require_writable
    from mechstyle.sites import check_layer
    from mechstyle.threads import few_threads

    require_writable(out)
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    hooked = load_model(model)
    for layer in chosen:
        check_layer(layer, hooked.cfg.n_layers, name="--layers")
    with few_threads(hooked):
        try:
            measured = measured_covariance(
                hooked,
                model,
                chosen,
                text=text,
                n_keys=n_keys,
                bos=prepend_bos,
                seed=seed,
                cache=cache,
                checkpoint=checkpoint,
                progress=not quiet,
            )
        except KeyboardInterrupt:
            raise WorkError(_how_to_go_on(checkpoint)) from None
        moments = measured.examined()
    moments.save(out)
    checkpoint.unlink(missing_ok=True)
    condition = moments.provenance["condition"]
    settings = moments.provenance["settings"]
    summary = {
        "out": str(out),
        "model": model,
        "count": moments.count,
        "layers": list(moments),
        "condition_numbers": {layer: one["condition_number"] for layer, one in condition.items()},
        "jitters": {layer: one["jitter"] for layer, one in condition.items()},
        "n_texts": settings["n_texts"],
        "text_sha256": settings["text_sha256"],
    }
    lines = [f"{moments.count} keys of {settings['n_texts']} texts"]
    for layer, one in condition.items():
        number = "infinite" if one["condition_number"] is None else f"{one['condition_number']:.3g}"
        ridge = f"a ridge of {one['jitter']:.3g}" if one["jitter"] else "no ridge"
        lines.append(f"layer {layer}: condition number {number}, inverted with {ridge}")
    emit(summary, "\n".join([*lines, str(out)]), as_json=as_json)


def _how_to_go_on(checkpoint: Path) -> str:
    if not checkpoint.exists():
        return "interrupted before anything was measured; run the same command to begin again."
    return (
        f"interrupted; {checkpoint} keeps what was measured: run the same command to go on, or remove the "
        "file to begin again."
    )
