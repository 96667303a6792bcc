"""Does the causal trace of a fact say at which layer it can be edited?"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

import mechstyle as ms
from mechstyle.metrics import interval
from mechstyle.study.localisation import LocalisationCheck

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from on_organism import Row, arguments, finish, kept, known_requests, markdown, prepared  # noqa: E402

KINDS = {"mlp": "MLP window", "resid": "residual stream"}
PARTS = {"layer": "the layer alone", "effect": "the trace alone", "both": "both", "added": "added by tracing"}


def measured(model: Any, requests: list[ms.EditRequest], config: dict[str, Any], out: Path) -> Row:
    """Edits and traces of some facts at all layers, as JSON values."""
    moments, contexts = prepared(model, config, out)
    check = ms.localisation_vs_editability(
        model,
        requests,
        layers=config["layers"],
        covariance=moments,
        contexts=contexts,
        samples=config["samples"],
        seed=config["seed"],
    )
    rows = check.frame.to_dict("records")
    return {"rows": rows, "skipped": check.skipped, "provenance": dict(check.provenance)}


def whole(parts: list[Row], size: int) -> LocalisationCheck:
    """The parts as one, their facts numbered through."""
    frames = [pd.DataFrame(part["rows"]) for part in parts]
    numbered = [frame.assign(fact=frame["fact"] + size * index) for index, frame in enumerate(frames)]
    skipped = sum(part["skipped"] for part in parts)
    return LocalisationCheck(pd.concat(numbered, ignore_index=True), skipped, parts[0]["provenance"])


def explained(check: LocalisationCheck, layers: str) -> list[Row]:
    """R² in rows for a table, a row a kind and regression."""
    rows: list[Row] = []
    for kind, name in KINDS.items():
        for part, row in check.variance_explained(kind).iterrows():
            shown = {"layers": layers, "trace of": name, "explained by": PARTS[str(part)]}
            share = "{:.2%} [{:.2%}, {:.2%}]".format(*row[["r2", "low", "high"]])
            rows.append({**shown, "R²": share, "p": f"{row['p']:.3f}" if part == "added" else ""})
    return rows


def peaks(check: LocalisationCheck) -> list[Row]:
    """How the best layer of an edit stands in the order of the trace, over facts."""
    rows: list[Row] = []
    for kind, name in KINDS.items():
        ranks = check.ranks(kind)["rank"].to_numpy()
        low, high = interval(ranks)
        chance = (len(check.layers) + 1) / 2
        hits = float((ranks == 1).mean())
        mean = [float(ranks.mean()), float(low), float(high)]
        rows.append({"trace of": name, "mean rank": mean, "chance": chance, "peak is best": hits})
    return rows


def by_layer(check: LocalisationCheck) -> list[Row]:
    """Means with intervals, a row a layer."""
    table = check.by_layer()
    return [
        {
            "layer": str(layer),
            **{row.measure: [row.mean, row.low, row.high] for row in rows.itertuples(name="Mean")},
        }
        for layer, rows in table.groupby("layer")
    ]


def main() -> None:
    config, out = arguments(HERE, __doc__)
    model, size = ms.load_model(config["model"]), config["part"]
    requests = known_requests(model, config["model"], config["n"], seed=config["seed"], neighbours=0)
    parts = []
    for first in range(0, len(requests), size):
        make = partial(measured, model, requests[first : first + size], config, out)
        parts.append(kept(out / f"facts {first}.json", make))
        print(f"{first + size} of {len(requests)} facts", flush=True)
    check = whole(parts, size)
    check.frame.to_csv(out / "frame.csv", index=False)
    inner = check.without(config["last"])
    tables: dict[str, list[Row]] = {
        "variance": [*explained(check, "all"), *explained(inner, f"without {config['last']}")],
        "peaks": peaks(inner),
        "layers": by_layer(check),
    }
    for rows in tables.values():
        print(markdown(rows, list(rows[0])), end="\n\n", flush=True)
    ms.plot.localisation(check).write_html(out / "figure.html", include_plotlyjs=True)
    finish(out, model, config, {**tables, "facts": check.n_facts, "skipped": check.skipped})


if __name__ == "__main__":
    main()
