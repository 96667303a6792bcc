"""Measure an embedded organism and write its model card. See README.md.

python experiments/01_organism_card/run.py --out experiments/01_organism_card/out
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from card import write_card
from rich.console import Console
from rich.progress import track

import mechstyle as ms
from mechstyle import organisms
from mechstyle.models import HookedModel
from mechstyle.organisms.recall import recall

HERE = Path(__file__).parent
console = Console(stderr=True)


def measure_recall(model: HookedModel, name: str, out: Path, every: int) -> None:
    """Every (fact, template) pair without BOS, those of every fourth fact with BOS."""
    for bos, step in ((False, every), (True, 4 * every)):
        path = out / f"recall-{'bos' if bos else 'plain'}.csv"
        if not path.exists():
            facts = organisms.facts(name)[::step]
            recall(model, facts, prepend_bos=bos, progress=True).to_csv(path, index=False)


def known_requests(model: HookedModel, name: str, n: int, seed: int) -> list[ms.EditRequest]:
    """Random requests whose fact the model completes: an edit of an unknown fact proves nothing."""
    drawn = organisms.requests(name, n=n + max(10, n // 3), seed=seed)
    frame = ms.evaluate(model, drawn).frame
    rewrite = frame[frame.kind == "rewrite"].set_index("request")
    return [request for i, request in enumerate(drawn) if rewrite.exact_true[i]][:n]


def sweep_layer(
    model: HookedModel, requests: Sequence[ms.EditRequest], cov: object, layer: int, out: Path, legacy: bool
) -> None:
    """ROME at one layer for each request, scored one edit at a time."""
    path = out / f"sweep-{'legacy' if legacy else 'rome'}-{layer}.csv"
    if path.exists():
        return
    described = f"{'legacy ' if legacy else ''}ROME at layer {layer}"
    contexts = ms.sample_contexts(model, seed=0)
    edits = [
        ms.rome(model, request, layer=layer, covariance=cov, contexts=contexts, legacy=legacy)
        for request in track(requests, description=described, console=console)
    ]
    scores = ms.evaluate(model, requests, edits=edits)
    rows = scores.summary().reset_index(names="metric").assign(layer=layer, legacy=legacy)
    scores.rows.to_csv(out / f"frame-{'legacy' if legacy else 'rome'}-{layer}.csv", index=False)
    rows.to_csv(path, index=False)


def trace_facts(model: HookedModel, requests: Sequence[ms.EditRequest], out: Path, seed: int) -> None:
    """Causal traces of the requests' facts, one file a fact, and their averages by token role."""
    traces = []
    for i, request in enumerate(track(requests, description="traces", console=console)):
        path = out / f"trace-{i:02d}.nc"
        if not path.exists():
            ms.causal_trace(model, request.fact, samples=10, seed=seed).save(path)
        traces.append(ms.Trace.load(path))
    ms.average_by_role(traces).to_csv(out / "roles.csv", index=False)
    totals = [{"clean": t.clean, "corrupted": float(t.corrupted.mean())} for t in traces]
    pd.DataFrame(totals).to_csv(out / "totals.csv", index=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure an organism; write its card and its sweep table.")
    parser.add_argument("--model", default="organism-m")
    parser.add_argument("--out", type=Path, default=HERE / "out")
    parser.add_argument("--facts", type=int, default=100, help="edited facts a layer")
    parser.add_argument("--traced", type=int, default=40, help="traced facts")
    parser.add_argument(
        "--layers", default=None, help="only these, as 3,4,5 (to share the work of the sweep)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only-sweep", action="store_true", help="leave the rest to another process")
    parser.add_argument("--legacy", default="2,5", help="also published ROME at these layers")
    parser.add_argument("--install", action="store_true", help="put card and sweep beside the weights")
    parser.add_argument("--smoke", action="store_true", help="a minute's run on a few facts")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model = ms.load_model(options.model)
    layers = (
        range(model.cfg.n_layers)
        if options.layers is None
        else map(int, filter(None, options.layers.split(",")))
    )
    facts, traced, n_keys = options.facts, options.traced, 20_000
    if options.smoke:
        layers, facts, traced, n_keys, options.legacy = [4], 2, 2, 3_000, ""
    requests = known_requests(model, options.model, facts, options.seed)
    cov_path = options.out / "covariance.safetensors"
    if not cov_path.exists():
        every_layer = list(range(model.cfg.n_layers))
        ms.covariance(model, organisms.texts(options.model), layers=every_layer, n_keys=n_keys).save(cov_path)
    cov = ms.Covariance.load(cov_path)
    for layer in layers:
        sweep_layer(model, requests, cov, layer, options.out, legacy=False)
    for layer in filter(None, options.legacy.split(",")):
        sweep_layer(model, requests, cov, int(layer), options.out, legacy=True)
    if options.only_sweep:
        return
    measure_recall(model, options.model, options.out, every=200 if options.smoke else 1)
    trace_facts(model, requests[:traced], options.out, options.seed)
    prose = organisms.heldout_prose(options.model)[: 20 if options.smoke else 1000]
    (options.out / "perplexity.json").write_text(json.dumps(ms.perplexity(model, prose)), encoding="utf-8")
    write_card(model, options.model, options.out, install=options.install)
    console.print(f"wrote {options.out / 'MODEL_CARD.md'}")


if __name__ == "__main__":
    main()
