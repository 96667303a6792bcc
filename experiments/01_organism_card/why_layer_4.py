"""Why ROME falls short at layer 4: requests that failed there, with more steps and a wider clamp.

Run run.py first: this reads its covariance and its frame of layer 4.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from rich.console import Console

import mechstyle as ms
from mechstyle import organisms

SETTINGS = [(4, 20, 4.0), (4, 50, 4.0), (4, 20, 15.0), (4, 50, 15.0), (2, 20, 4.0)]
"""(layer, steps, clamp_norm)"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Explain failed edits of layer 4.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out")
    parser.add_argument("--requests", type=int, default=5)
    options = parser.parse_args()
    console = Console()
    model = ms.load_model("organism-m")
    covariance = ms.Covariance.load(options.out / "covariance.safetensors")
    frame = pd.read_csv(options.out / "frame-rome-4.csv")
    failed = frame[(frame.stage == "after") & (frame.kind == "rewrite") & ~frame.success].prompt
    drawn = {request.fact.prompt: request for request in organisms.requests("organism-m", n=133, seed=0)}
    requests = [drawn[prompt] for prompt in failed[: options.requests]]
    contexts = ms.sample_contexts(model, seed=0)
    for layer, steps, clamp in SETTINGS:
        target = ms.TargetOptions(steps=steps, clamp_norm=clamp)
        edits = [
            ms.rome(model, one, layer=layer, covariance=covariance, contexts=contexts, target_options=target)
            for one in requests
        ]
        value = ms.evaluate(model, requests, edits=edits).summary()["value"].round(2)
        nats = [round(edit.provenance["settings"]["answer_nll"][-1], 2) for edit in edits]
        rates = [float(value[name]) for name in ("efficacy", "paraphrase", "neighborhood")]
        console.print(
            f"layer {layer}, {steps} steps, clamp {clamp:g}: rates {rates}, -log P at the end {nats}"
        )


if __name__ == "__main__":
    main()
