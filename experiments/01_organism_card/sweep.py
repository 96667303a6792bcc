"""ROME at every layer for facts that an organism knows, about real and about invented subjects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.progress import track

import mechstyle as ms
from mechstyle import organisms
from mechstyle.editing.targets import optimise_targets
from mechstyle.evaluation.intervals import summarise
from mechstyle.models import HookedModel

__all__ = ["CONTEXTS", "covariance", "known_requests", "summed_up", "sweep_layer"]

CONTEXTS = ((5, 5), (10, 5))
"""(tokens, prefixes): half of what is published."""
console = Console(stderr=True)


def known_requests(model: HookedModel, name: str, n: int, seed: int) -> dict[str, list[ms.EditRequest]]:
    """Random requests about real and about invented subjects, as many of each, whose facts it completes."""
    found = {}
    for kind, invented in (("real", False), ("invented", True)):
        drawn = organisms.requests(name, n=n // 2 + max(10, n // 6), seed=seed, invented=invented)
        frame = ms.evaluate(model, drawn, batch_size=128).frame
        exact = frame[frame.kind == "rewrite"].set_index("request").exact_true
        found[kind] = [request for i, request in enumerate(drawn) if exact[i]][: n // 2]
    return found


def sweep_layer(
    model: HookedModel,
    requests: dict[str, list[ms.EditRequest]],
    cov: ms.Covariance,
    layer: int,
    *,
    contexts: Sequence[str],
    legacy: bool,
) -> pd.DataFrame:
    """ROME at one layer for each request, one edit at a time: a row per prompt, before and after."""
    every = [request for some in requests.values() for request in some]
    kinds = [kind for kind, some in requests.items() for _ in some]
    described = f"{'legacy ' if legacy else ''}ROME at layer {layer}"
    targets = optimise_targets(model, every, layer=layer, contexts=contexts)
    edits = [
        ms.rome(model, one, layer=layer, covariance=cov, contexts=contexts, targets=[target], legacy=legacy)
        for one, target in zip(track(every, description=described, console=console), targets, strict=True)
    ]
    frame = ms.evaluate(model, every, edits=edits, batch_size=128).frame
    return frame.assign(layer=layer, subjects=[kinds[request] for request in frame.request])


def summed_up(frame: pd.DataFrame) -> pd.DataFrame:
    """Each metric of all requests, of those about real and of those about invented subjects."""
    after = frame[frame.stage == "after"]
    parts = {"all": after, **dict(list(after.groupby("subjects", sort=False)))}
    tables = [
        summarise(part, ci=0.95, resamples=1000, seed=0).reset_index(names="metric").assign(subjects=kind)
        for kind, part in parts.items()
    ]
    return pd.concat(tables).assign(layer=frame.layer.iloc[0])


def covariance(model: HookedModel, name: str, out: Path, n_keys: int) -> ms.Covariance:
    """Second moments of the keys of every layer, kept in a file."""
    path = out / "covariance.safetensors"
    if not path.exists():
        layers = list(range(model.cfg.n_layers))
        ms.covariance(model, organisms.texts(name), layers=layers, n_keys=n_keys).save(path)
    return ms.Covariance.load(path)
