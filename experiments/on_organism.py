"""What the experiments on an embedded organism share: known facts, kept cells, scores of a cell, tables."""

from __future__ import annotations

import argparse
import json
import math
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import mechstyle as ms
from mechstyle.editing.keys import memit_contexts
from mechstyle.editing.storage import load_tensors, save_tensors
from mechstyle.editing.target_options import Target
from mechstyle.evaluation.intervals import summarise
from mechstyle.files import atomic_write
from mechstyle.models import HookedModel
from mechstyle.null_space import null_space

Row = dict[str, Any]
Edit = ms.EditSet | ms.EditCache | ms.InContextEdit
METRICS = ("efficacy", "paraphrase", "neighborhood", "score", "efficacy_exact")
"""Columns of most tables."""


def arguments(folder: Path, question: str | None) -> tuple[dict[str, Any], Path]:
    """The settings (with those of ``[smoke]`` when asked for) and the folder for results."""
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--out", type=Path, default=folder / "out", help="folder; finished parts are kept")
    parser.add_argument("--smoke", action="store_true", help="few facts and steps: does it still run?")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    config = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    smoke = config.pop("smoke")
    return {**config, **(smoke if given.smoke else {}), "smoke": given.smoke}, given.out


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """A JSON value that is made once: a run that was killed goes on where it stopped."""
    if not path.exists():
        value = make()
        with atomic_write(path) as part:
            part.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def known_requests(
    model: HookedModel, name: str, n: int, *, seed: int = 0, neighbours: int = 4
) -> list[ms.EditRequest]:
    """Random requests whose fact the model completes; an edit of an unknown fact proves nothing.

    Neighbours that are themselves edited by one of the requests are left out.
    """
    drawn = ms.organisms.requests(name, n=n + max(10, n // 20), seed=seed)
    bare = [replace(request, paraphrases=(), neighborhood=()) for request in drawn]
    frame = ms.evaluate(model, bare, batch_size=64).frame
    known = [request for request, exact in zip(drawn, frame.exact_true, strict=True) if exact][:n]
    edited = [request.fact.subject for request in known]

    def untouched(request: ms.EditRequest) -> tuple[tuple[str, str], ...]:
        pairs = request.neighborhood
        return tuple(pair for pair in pairs if not any(subject in pair[0] for subject in edited))[:neighbours]

    return [replace(request, neighborhood=untouched(request)) for request in known]


def prepared(model: HookedModel, config: Mapping[str, Any], out: Path) -> tuple[ms.Covariance, list[str]]:
    """Second moments at the config's layers, kept in a file, and six contexts as in MEMIT's code."""
    path = out / "covariance.safetensors"
    if not path.exists():
        texts = ms.organisms.texts(config["model"], n=config["n_texts"], seed=config["seed"])
        ms.covariance(model, texts, layers=config["layers"], n_keys=config["n_keys"]).save(path)
    return ms.Covariance.load(path), list(memit_contexts(model, config["seed"]))


def alphaedit_with(moments: ms.Covariance) -> Callable[..., ms.EditSet]:
    """AlphaEdit, with its default threshold, that finds the null spaces of a threshold once."""

    @cache
    def bases(threshold: float) -> dict[int, torch.Tensor]:
        return {layer: null_space(moments[layer], threshold) for layer in moments}

    def alphaedit(*given: Any, threshold: float = 0.2, **own: Any) -> ms.EditSet:
        return ms.alphaedit(*given, bases=bases(threshold), **own)

    return alphaedit


def kept_targets(path: Path, make: Callable[[], Sequence[Target]]) -> list[Target]:
    """Targets that are searched once."""
    if not path.exists():
        found = make()
        tensors = {name: torch.stack([getattr(one, name) for one in found]) for name in ("delta", "output")}
        logs = {name: [getattr(one, name) for one in found] for name in ("losses", "answer_nll")}
        save_tensors(path, "targets", tensors, logs)
    tensors, logs = load_tensors(path, "targets")
    columns = (tensors["delta"], tensors["output"], logs["losses"], logs["answer_nll"])
    rows = zip(*columns, strict=True)
    return [Target(delta, output, tuple(losses), tuple(nll)) for delta, output, losses, nll in rows]


def scored(frames: Sequence[pd.DataFrame]) -> Row:
    """``[value, low, high]`` of each metric over the requests of several evaluations, taken together."""
    parts, first = [], 0
    for frame in frames:
        parts.append(frame.assign(request=frame["request"] + first))
        first += int(frame["request"].max()) + 1
    table = summarise(pd.concat(parts), ci=0.95, resamples=1000, seed=0)
    values = table[["value", "low", "high"]].dropna(subset="value").apply(list, axis=1).to_dict()
    return {**values, "n": first}


def cell(
    model: HookedModel,
    requests: Sequence[ms.EditRequest],
    write: Callable[[slice], Edit],
    size: int,
    *,
    n_scored: int,
    prose: Sequence[str],
    perplexities: int = 8,
) -> Row:
    """Independent batches, each written into the unedited model and scored on its own requests.

    Args:
        write: the edit of a batch of requests.
        n_scored: of all requests together; of a batch that is larger the first ones are scored.
        perplexities: batches whose perplexity is taken; "perplexity" is their mean relative change.
    """
    starts = range(0, n_scored, size)
    every = max(1, len(starts) // perplexities)
    before = ms.perplexity(model, prose)
    frames, norms, rises, seconds = [], [], [], 0.0
    for number, start in enumerate(starts):
        batch = slice(start, min(start + size, len(requests)))
        begun = time.perf_counter()
        edit = write(batch)
        seconds += time.perf_counter() - begun
        norms.append(relative_norm(model, edit))
        own, texts = requests[batch][: n_scored - start], prose if number % every == 0 else None
        if isinstance(edit, ms.EditSet):  # scored as the model that it makes: once, not before and after
            with edit.applied(model):
                scores = ms.evaluate(model, own, perplexity_texts=texts, batch_size=64)
        else:
            scores = ms.evaluate(model, own, edits=edit, perplexity_texts=texts, batch_size=64)
        frames.append(scores.frame)
        if scores.perplexity:
            rises.append(math.log(scores.perplexity[scores.stages[-1]] / before))
    return {
        **scored(frames),
        "perplexity": math.exp(sum(rises) / len(rises)) - 1,
        "norm": sum(norms) / len(norms),
        "seconds": seconds / (len(starts) * size),
    }


def best_variant(
    variants: Sequence[Mapping[str, Any]], tune: Callable[[Mapping[str, Any]], Row]
) -> Mapping[str, Any]:
    """The only one, or the one whose cell has the best score; of equal ones the first."""
    return (
        variants[0] if len(variants) == 1 else max(variants, key=lambda own: tune(own).get("score", [0.0])[0])
    )


def relative_norm(model: HookedModel, edit: Edit) -> float:
    """Norm of the changes over the norm of the weights they change."""
    if not isinstance(edit, ms.EditSet):
        return 0.0
    weights = dict(model.named_parameters())
    change = sum(float(edit.delta(name).norm()) ** 2 for name in edit.parameters)
    whole = sum(float(weights[name].detach().double().norm()) ** 2 for name in edit.parameters)
    return math.sqrt(change / whole)


def show(value: Any) -> str:
    """A number, or a value with its interval, as it stands in a table."""
    if isinstance(value, list):
        return f"{value[0]:.2f} [{value[1]:.2f}, {value[2]:.2f}]"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def markdown(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """A table of these columns; what a row lacks is a dash."""
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(show(row.get(name, "–")) for name in columns) + " |" for row in rows]
    return "\n".join(lines)


def finish(out: Path, model: HookedModel, config: Mapping[str, Any], tables: Mapping[str, Any]) -> None:
    """Write ``results.json``: tables, settings, and which model it was."""
    whole = {"smoke": config["smoke"], "fingerprint": ms.fingerprint(model), "config": config, **tables}
    with atomic_write(out / "results.json") as part:
        part.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"model {config['model']}, fingerprint {whole['fingerprint']}; {out / 'results.json'}")
