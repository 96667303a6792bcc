"""``mechstyle study``: the main job, from a model and facts to a report."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mechstyle.cli.options import (
    Bos,
    Cache,
    Json,
    New,
    Paraphrases,
    Prompt,
    Quiet,
    Requests,
    Subject,
    Target,
    Text,
    Window,
    request_from,
)
from mechstyle.cli.output import emit
from mechstyle.documents.hub import HUB
from mechstyle.errors import FileError, InputError
from mechstyle.facts import EditRequest

if TYPE_CHECKING:
    from mechstyle.report.record import Report

__all__ = ["study"]

SETTINGS: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "n_facts": (int,),
    "layer": (int,),
    "seed": (int,),
    "samples": (int,),
    "noise": (int, float),
    "window": (int,),
    "prepend_bos": (bool,),
    "text": (str,),
    "n_keys": (int,),
    "cache": (bool,),
}
"""What a configuration file may set, beside ``requests``: a JSONL file, or a list of tables."""


def study(
    out: Annotated[Path, typer.Option("--out", help="Folder for report, results, edits and traces.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="An embedded model's name, a Hugging Face folder or hub id; organism-m."
        ),
    ] = None,
    prompt: Prompt = None,
    subject: Subject = None,
    target: Target = None,
    new: New = None,
    paraphrase: Paraphrases = None,
    requests: Requests = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="A TOML file with the same settings; options win over it.")
    ] = None,
    n_facts: Annotated[
        int | None, typer.Option("--n-facts", help="How many of the organism's own facts; 3.")
    ] = None,
    layer: Annotated[
        int | None, typer.Option("--layer", help="The layer to edit; chosen when not given.")
    ] = None,
    samples: Annotated[int | None, typer.Option("--samples", help="Noise draws in a trace; 10.")] = None,
    noise: Annotated[float | None, typer.Option("--noise", help="Noise in multiples of sigma; 3.")] = None,
    window: Window = None,
    text: Text = None,
    n_keys: Annotated[
        int | None, typer.Option("--n-keys", help="Keys in the second moments; 20 a neuron.")
    ] = None,
    cache: Cache = True,
    prepend_bos: Bos = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of every random choice; 0.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Trace facts, choose a layer, write each fact, score it, and report; by default three organism facts.

    Writes OUT/report.html, OUT/results.json, OUT/edit.safetensors and OUT/trace.nc; the second and later
    facts have edit-2.safetensors, trace-2.nc and so on. The last line on stdout is the report's path.
    """
    request = request_from(prompt, subject, target, new, paraphrase)
    if request is not None and requests is not None:
        raise InputError("give either --requests FILE or --prompt, --subject, --target and --new, not both.")
    settings = {} if config is None else _read_config(config)
    if requests is not None:
        settings["requests"] = str(requests)
    given = {
        "model": model,
        "n_facts": n_facts,
        "layer": layer,
        "seed": seed,
        "samples": samples,
        "noise": noise,
        "window": window,
        "prepend_bos": prepend_bos,
        "text": text,
        "n_keys": n_keys,
        "cache": None if cache else False,
    }
    settings.update({name: value for name, value in given.items() if value is not None})
    wanted = (request,) if request is not None else _requests(settings.pop("requests", ()), config)
    settings.pop("requests", None)

    from mechstyle.study import StudyConfig, run_study

    chosen = StudyConfig(out=out, requests=wanted, **settings)
    report = run_study(chosen, progress=not quiet)
    summary = _summary(report)
    emit(summary, "\n".join([*summary["findings"], str(report.html)]), as_json=as_json)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"--config: cannot read {path}: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise FileError(f"--config: {path} is not TOML: {error}.") from error
    unknown = sorted(set(settings) - {*SETTINGS, "requests"})
    if unknown:
        raise InputError(
            f"--config {path}: unknown settings {', '.join(unknown)}; "
            f"known: {', '.join([*SETTINGS, 'requests'])}."
        )
    for name, value in settings.items():
        kinds = SETTINGS.get(name, (str, list))
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise InputError(f"--config {path}: {name} must be {wanted}, got {value!r}.")
    for name in ("text", "requests"):
        if isinstance(settings.get(name), str) and not settings[name].startswith(HUB):
            settings[name] = str(path.parent / settings[name])
    return settings


def _requests(source: Any, config: Path | None) -> tuple[EditRequest, ...]:
    """Requests from a JSONL file, or from tables of a configuration file."""
    if isinstance(source, str):
        from mechstyle.datasets import read_edit_file

        return tuple(read_edit_file(Path(source)))
    found = []
    for index, table in enumerate(source):
        if not isinstance(table, Mapping):
            raise InputError(f"--config {config}: requests[{index}] must be a table, got {table!r}.")
        found.append(EditRequest.from_dict(table))
    return tuple(found)


def _summary(report: Report) -> dict[str, Any]:
    from mechstyle.report.findings import fact_finding

    return {
        "report": str(report.html),
        "results": str(report.results),
        "model": report.model,
        "layer": report.choice.layer,
        "edits": [str(report.folder / fact.edit_file) for fact in report.facts],
        "traces": [str(report.folder / fact.trace_file) for fact in report.facts],
        "findings": [fact_finding(fact, report.choice.layer) for fact in report.facts],
        "seconds": round(report.seconds, 2),
    }
