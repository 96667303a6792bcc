"""At which layer can one known fact be rewritten best, and does its causal trace say so beforehand?"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd

import mechstyle as ms

HERE = Path(__file__).parent
MEASURES = ("efficacy", "paraphrase", "neighborhood")


def trace_by_layer(
    model: Any, request: ms.EditRequest, config: dict[str, Any]
) -> tuple[ms.Trace, pd.DataFrame]:
    """The trace, and for each layer the indirect effect of its MLP at the last subject token."""
    trace = ms.causal_trace(
        model,
        request.fact,
        kinds=("mlp",),
        samples=config["samples"],
        window=config["window"],
        seed=config["seed"],
    )
    token = trace.token("last subject token")
    low, high = (part.sel(token=token).values for part in trace.interval("mlp"))
    effect = trace.indirect_effect("mlp").sel(token=token)
    frame = pd.DataFrame({"layer": effect["layer"].values, "effect": effect.values})
    return trace, frame.assign(effect_low=low, effect_high=high)


def edit_by_layer(
    model: Any, request: ms.EditRequest, layers: list[int], config: dict[str, Any]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The scores of a ROME edit at each layer on its own, and the settings that the edits share."""
    texts = ms.organisms.texts(config["model"], n=config["n_texts"], seed=config["seed"])
    covariance = ms.covariance(model, texts, layers=layers, n_keys=config["n_keys"])
    rows, contexts = [], None
    for layer in layers:
        edit = ms.rome(
            model, request, layer=layer, covariance=covariance, contexts=contexts, seed=config["seed"]
        )
        contexts = edit.provenance["settings"]["contexts"]  # the same ones for every layer
        scores = ms.evaluate(model, [request], edits=edit, generate=True)
        summary = scores.summary()["value"]
        wanted = (*MEASURES, *(f"{name}_magnitude" for name in MEASURES), "score", "efficacy_generated")
        delta = edit.delta(edit.parameters[0])
        rows.append({"layer": layer, **summary[list(wanted)].to_dict(), "edit_norm": float(delta.norm())})
    unedited = ms.evaluate(model, [request], generate=True).summary()["value"].to_dict()
    frame = pd.DataFrame(rows)
    # A graded measure: rates of one request tie, the margins P(wanted) - P(other) behind them do not.
    frame["margin"] = frame[[f"{name}_magnitude" for name in MEASURES]].mean(axis=1)
    return frame, {"contexts": contexts, "covariance_keys": covariance.count, "unedited": unedited}


def rank_correlation(frame: pd.DataFrame, left: str, right: str) -> float | None:
    """Spearman's rho; None where it is not defined."""
    rho = frame[left].rank().corr(frame[right].rank()) if len(frame) > 2 else float("nan")
    return None if rho != rho else float(rho)


def best(frame: pd.DataFrame, column: str) -> int:
    return int(frame.loc[frame[column].idxmax(), "layer"])


def run(config: dict[str, Any], *, smoke: bool) -> dict[str, Any]:
    """Everything, as JSON values."""
    model = ms.load_model(config["model"])
    request = ms.EditRequest.from_dict(config["request"])
    layers = config["smoke"]["layers"] if smoke else list(range(model.cfg.n_layers))
    settings = {**config, **({name: config["smoke"][name] for name in config["smoke"]} if smoke else {})}
    trace, effects = trace_by_layer(model, request, settings)
    edits, shared = edit_by_layer(model, request, layers, settings)
    table = effects.merge(edits, on="layer", how="inner")
    # What the last layer's MLP writes at the subject cannot reach the last prompt token: nothing to compare.
    able = table[table["layer"] < model.cfg.n_layers - 1]
    return {
        "question": __doc__,
        "smoke": smoke,
        "request": request.to_dict(),
        "knows": trace.knows,
        "clean": trace.clean,
        "corrupted": float(trace.corrupted.mean()),
        "traced_layer": best(effects, "effect"),
        "edited_layer": best(table, "margin"),
        "rank_correlation": {
            name: rank_correlation(able, "effect", name)
            for name in ("margin", "score", "paraphrase_magnitude")
        },
        "layers": table.to_dict("records"),
        **shared,
        "provenance": trace.provenance,
        "config": config,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/00_one_fact"), help="folder for results.json")
    parser.add_argument("--config", type=Path, default=HERE / "config.toml")
    parser.add_argument("--smoke", action="store_true", help="one layer and few samples: does it still run?")
    chosen = parser.parse_args(arguments)
    config = tomllib.loads(chosen.config.read_text(encoding="utf-8"))
    chosen.out.mkdir(parents=True, exist_ok=True)
    results = run(config, smoke=chosen.smoke)
    path = chosen.out / "results.json"
    path.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    columns = [
        "layer",
        "effect",
        "effect_low",
        "effect_high",
        *MEASURES,
        "score",
        "margin",
        "efficacy_generated",
    ]
    print(pd.DataFrame(results["layers"])[columns].round(3).to_string(index=False))
    print(f"known: {results['knows']}; P {results['clean']:.3f}, corrupted {results['corrupted']:.3f}")
    print(f"trace peaks at layer {results['traced_layer']}, best edit at {results['edited_layer']}")
    print(f"rank correlation over all layers but the last: {results['rank_correlation']}")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
