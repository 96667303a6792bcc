"""``mechstyle trace``: where a fact is recalled, or many are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mechstyle.cli.options import (
    ORGANISM,
    Bos,
    Json,
    Model,
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
from mechstyle.cli.trace_dataset import read_dataset, trace_dataset
from mechstyle.cli.tracers import CorruptionName, MetricName, Tracing
from mechstyle.errors import InputError

if TYPE_CHECKING:
    from mechstyle.facts import Fact
    from mechstyle.tracing.trace import Trace

__all__ = ["trace"]


def trace(
    out: Annotated[Path, typer.Option("--out", help="The trace, as netCDF; with --dataset a folder.")],
    model: Model = ORGANISM,
    prompt: Prompt = None,
    subject: Subject = None,
    target: Target = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            "--dataset",
            help="Many facts: our own JSON lines, the known facts, CounterFact, zsRE or pairs; its content "
            "says which.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Of the data set, the first so many.")] = None,
    skip_unknown: Annotated[
        bool,
        typer.Option("--skip-unknown/--all", help="Leave out facts that the model does not know, or not."),
    ] = True,
    kinds: Annotated[
        str,
        typer.Option(
            "--kinds",
            help="With commas between: resid, mlp, attn (windows), heads, severed_mlp, severed_attn, "
            "neurons, q, k, v, pattern.",
        ),
    ] = "resid,mlp,attn",
    metric: Annotated[
        MetricName, typer.Option("--metric", help="Of the answer; neg_kl: of the whole distribution.")
    ] = MetricName.PROB,
    answer: Annotated[
        str | None,
        typer.Option("--answer", help="What to score in place of the target; 'predicted': the model's own."),
    ] = None,
    contrast: Annotated[
        str | None, typer.Option("--contrast", help="Another continuation, whose score is subtracted.")
    ] = None,
    answer_tokens: Annotated[
        int | None, typer.Option("--answer-tokens", help="Score so many tokens of the answer; all.")
    ] = None,
    corruption: Annotated[
        CorruptionName, typer.Option("--corruption", help="What is done to the subject.")
    ] = CorruptionName.GAUSSIAN,
    noise: Annotated[
        float | None, typer.Option("--noise", help="Of gaussian and uniform, in multiples of sigma; 3.")
    ] = None,
    counterpart: Annotated[
        str | None, typer.Option("--counterpart", help="Of replacement: this subject; else one is searched.")
    ] = None,
    tokens: Annotated[
        list[str] | None,
        typer.Option(
            "--tokens",
            help="Restore a set of tokens together: NAME=ROLE or NAME=INDEX,INDEX; repeatable.",
        ),
    ] = None,
    neuron_layer: Annotated[
        int | None, typer.Option("--neuron-layer", help="The layer of the kind neurons.")
    ] = None,
    samples: Samples = 10,
    window: Window = None,
    prepend_bos: Bos = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Trace facts: corrupt a subject, restore one state at a time, see what recovers the answer.

    With --dataset every fact that the model knows is traced into the folder OUT, with report.html,
    average.csv, totals.csv, skipped.csv and summary.json; a run that was broken off goes on with the same
    command.
    """
    tracing = Tracing(
        kinds=kinds,
        metric=metric,
        corruption=corruption,
        noise=noise,
        counterpart=counterpart,
        answer=answer,
        contrast=contrast,
        answer_tokens=answer_tokens,
        tokens=tuple(tokens or ()),
        neuron_layer=neuron_layer,
        samples=samples,
        window=window,
        prepend_bos=prepend_bos,
        seed=seed,
    )
    if dataset is None:
        if limit is not None or not skip_unknown:
            raise InputError("--limit and --all belong to --dataset FILE.")
        _trace_one(model, fact_from(prompt, subject, target), tracing, out, as_json=as_json, quiet=quiet)
        return
    if any(value is not None for value in (prompt, subject, target)):
        raise InputError("give either --dataset FILE or --prompt, --subject and --target, not both.")
    tracing.check()
    trace_dataset(
        model,
        read_dataset(dataset, limit),
        tracing.tracer(),
        out,
        skip_unknown=skip_unknown,
        seed=seed,
        as_json=as_json,
        quiet=quiet,
    )


def _trace_one(model: str, fact: Fact, tracing: Tracing, out: Path, *, as_json: bool, quiet: bool) -> None:
    tracing.check()
    from mechstyle.models import load_model
    from mechstyle.outputs import require_writable
    from mechstyle.threads import few_threads
    from mechstyle.tracing.aggregate import LAST_SUBJECT, suggest_layers
    from mechstyle.tracing.kinds import PARTS

    require_writable(out)
    tracer = tracing.tracer(fact.target)
    hooked = load_model(model)
    with few_threads(hooked):
        result = tracer(hooked, fact, progress=not quiet)
    result.save(out)
    peaks = {kind: _peak(result, kind) for kind in result.kinds}
    there = "mlp" in result.kinds and LAST_SUBJECT in result.data["role"].values
    suggestion = suggest_layers(result)[0] if there else None
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
    answer, metric = result.settings["answer"], result.settings["metric"]
    what = f"P({answer!r})" if metric == "prob" else f"{metric} of {answer!r}"
    lines = [
        f"{what} after {fact.prompt!r}: {result.clean:.3f} clean, "
        f"{float(result.corrupted.mean()):.3f} corrupted"
        + ("" if result.knows else " (the model's own answer is another one)"),
        *(
            f"{kind:5s} peaks at {peak['token_str']!r}, layer {peak['layer']}"
            + "".join(f", {name} {peak[name]}" for name in PARTS if name in peak)
            + f": {peak['effect']:+.3f}"
            for kind, peak in peaks.items()
        ),
        *([] if suggestion is None else [suggestion.reason]),
        str(out),
    ]
    emit(summary, "\n".join(lines), as_json=as_json)


def _peak(result: Trace, kind: str) -> dict[str, Any]:
    """The cell with the largest mean effect."""
    effect = result.indirect_effect(kind)
    place = {str(axis): int(index) for axis, index in effect.argmax(...).items()}
    found = {"layer": result.data[kind].attrs["layer"]} if "layer" not in place else {}
    token = str(effect["token_str"].values[place["token"]])
    return {**found, **place, "token_str": token, "effect": float(effect.isel(place))}
