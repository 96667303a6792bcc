"""``mechstyle trace``: where a fact is recalled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from mechstyle.cli.options import (
    ORGANISM,
    Bos,
    Json,
    Model,
    Noise,
    Prompt,
    Quiet,
    Samples,
    Seed,
    Subject,
    Target,
    Window,
    fact_from,
)
from mechstyle.cli.output import emit

if TYPE_CHECKING:
    from mechstyle.sites import Kind

__all__ = ["trace"]


def trace(
    out: Annotated[Path, typer.Option("--out", help="The trace, as netCDF.")],
    model: Model = ORGANISM,
    prompt: Prompt = None,
    subject: Subject = None,
    target: Target = None,
    kinds: Annotated[
        str, typer.Option("--kinds", help="Of resid, mlp, attn, with commas between.")
    ] = "resid,mlp,attn",
    noise: Noise = 3.0,
    samples: Samples = 10,
    window: Window = None,
    prepend_bos: Bos = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Trace one fact: corrupt its subject, restore one state at a time, see what recovers the answer."""
    fact = fact_from(prompt, subject, target)
    from mechstyle.models import load_model
    from mechstyle.outputs import require_writable
    from mechstyle.threads import few_threads
    from mechstyle.tracing.aggregate import suggest_layers
    from mechstyle.tracing.causal_trace import causal_trace

    require_writable(out)
    hooked = load_model(model)
    with few_threads(hooked):
        result = causal_trace(
            hooked,
            fact,
            kinds=cast("tuple[Kind, ...]", tuple(part.strip() for part in kinds.split(","))),
            noise=noise,
            samples=samples,
            seed=seed,
            window=window,
            prepend_bos=prepend_bos,
            progress=not quiet,
        )
    result.save(out)
    peaks = {}
    for kind in result.kinds:
        effect = result.indirect_effect(kind)
        best = effect.argmax(...)
        token, layer = int(best["token"]), int(best["layer"])
        text = str(effect["token_str"].values[token])
        peaks[kind] = {
            "token": token,
            "token_str": text,
            "layer": layer,
            "effect": float(effect[token, layer]),
        }
    suggestion = suggest_layers(result)[0] if "mlp" in result.kinds else None
    summary = {
        "out": str(out),
        "model": model,
        "fact": fact.to_dict(),
        "knows": result.knows,
        "clean": result.clean,
        "corrupted": float(result.corrupted.mean()),
        "total_effect": float(result.total_effect()),
        "peaks": peaks,
        "suggested_layer": None if suggestion is None else suggestion.layer,
    }
    lines = [
        f"P({fact.target!r}) after {fact.prompt!r}: {result.clean:.3f} clean, "
        f"{float(result.corrupted.mean()):.3f} corrupted"
        + ("" if result.knows else " (the model's own answer is another one)"),
        *(
            f"{kind:5s} peaks at {peak['token_str']!r}, layer {peak['layer']}: +{peak['effect']:.3f}"
            for kind, peak in peaks.items()
        ),
        *([] if suggestion is None else [suggestion.reason]),
        str(out),
    ]
    emit(summary, "\n".join(lines), as_json=as_json)
