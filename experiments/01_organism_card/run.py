"""Measure an embedded organism and write its model card. See README.md.

python experiments/01_organism_card/run.py --model organism-m --install
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
from card import gate_lines, write_card
from rich.console import Console
from sweep import CONTEXTS, covariance, known_requests, summed_up, sweep_layer

import mechstyle as ms
from mechstyle.files import atomic_write
from mechstyle.models import HookedModel
from mechstyle.organisms.gates import PER_STYLE, measure_gates
from mechstyle.organisms.world import build_world

HERE = Path(__file__).parent
console = Console(stderr=True)


def kept(path: Path, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """A table that is made once: a run that was killed goes on where it stopped."""
    if not path.exists():
        with atomic_write(path) as part:
            make().to_csv(part, index=False)
    return pd.read_csv(path, keep_default_na=False)


def gates(model: HookedModel, out: Path, sizes: Mapping[str, int]) -> None:
    """What the organism knows, how it obeys styles, how well it foretells prose: `gates.csv`."""
    found = measure_gates(
        model,
        build_world(),
        **sizes,
        progress=True,
        keep=lambda part, make: kept(out / f"{part}.csv", make),
    )
    pd.DataFrame([gate.to_dict() for gate in found]).to_csv(out / "gates.csv", index=False)
    console.print(gate_lines(out, every=True), highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure an organism; write its gates, sweep and card.")
    parser.add_argument("--model", default="organism-m")
    parser.add_argument("--out", type=Path, default=None, help="finished parts are kept (default out/MODEL)")
    parser.add_argument("--sample", type=int, default=3000, help="questions of each kind")
    parser.add_argument("--facts", type=int, default=100, help="edited facts a layer")
    parser.add_argument("--layers", default=None, help="edit only these, as 3,4,5")
    parser.add_argument("--seed", type=int, default=0, help="of the sweep")
    parser.add_argument("--only-gates", action="store_true", help="no edits and no card")
    parser.add_argument("--legacy", default="", help="also published ROME at these layers")
    parser.add_argument("--install", action="store_true", help="put the results beside the weights")
    parser.add_argument("--smoke", action="store_true", help="a few facts of each kind")
    options = parser.parse_args()
    out = options.out or HERE / "out" / options.model
    out.mkdir(parents=True, exist_ok=True)
    model = ms.load_model(options.model)
    mark = out / "fingerprint.txt"
    if mark.exists() and mark.read_text(encoding="utf-8").strip() != ms.fingerprint(model):
        raise SystemExit(f"{out} holds results of other weights; remove it, or give another --out.")
    mark.write_text(ms.fingerprint(model) + "\n", encoding="utf-8")
    layers = [*range(model.cfg.n_layers)] if options.layers is None else options.layers.split(",")
    n, n_keys, sizes = options.facts, 20_000, {"sample": options.sample, "per_style": PER_STYLE}
    if options.smoke:
        layers, n, n_keys, sizes = [4], 4, 3_000, {"sample": 10, "per_style": 1, "passages": 20}
    gates(model, out, sizes)
    if options.only_gates:
        return
    cov = covariance(model, options.model, out, n_keys)
    requests = known_requests(model, options.model, n, options.seed)
    contexts = ms.sample_contexts(model, seed=0, lengths=CONTEXTS)
    asked = [("rome", layer) for layer in layers] + [
        ("legacy", one) for one in options.legacy.split(",") if one
    ]
    for method, layer in asked:
        rows = {"contexts": contexts, "legacy": method == "legacy"}
        path = out / f"frame-{method}-{layer}.csv"
        kept(path, lambda layer=layer, rows=rows: sweep_layer(model, requests, cov, int(layer), **rows))
        summed_up(pd.read_csv(path)).to_csv(out / f"sweep-{method}-{layer}.csv", index=False)
    write_card(model, options.model, out, sizes=sizes, install=options.install)
    console.print(f"wrote {out / 'MODEL_CARD.md'}")


if __name__ == "__main__":
    main()
