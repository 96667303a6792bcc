"""Where are facts recalled, by token role and depth, and is it the same place in models of several sizes?"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

import mechstyle as ms
from mechstyle.models import HookedModel
from mechstyle.tokens import encode_fact
from mechstyle.tracing.aggregate import total_effects
from mechstyle.tracing.compare_models import ModelComparison

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from line_figure import Line, lines  # noqa: E402
from on_organism import Row, finish, markdown  # noqa: E402

ENDS = ["mean", "low", "high"]
SUBJECT, AGAIN = "whole subject", "the same again"
CORRUPTIONS: dict[str, Any] = {"noise": ms.GaussianNoise(), "replacement": ms.TokenReplacement()}


def settings() -> tuple[dict[str, Any], Path]:
    """The settings, the models to compare among them, and the folder for results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "out", help="folder; finished traces are kept")
    parser.add_argument("--smoke", action="store_true", help="few facts: does it still run?")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=PATH", help="one more model")
    parser.add_argument("--corruption", choices=CORRUPTIONS, default="noise", help="of the subject")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    config = tomllib.loads((HERE / "config.toml").read_text(encoding="utf-8"))
    smoke = config.pop("smoke")
    more = dict(pair.split("=", 1) for pair in given.model)
    config["models"] = {**more, **config["models"]}
    config["corruption"] = given.corruption
    return {**config, **(smoke if given.smoke else {}), "smoke": given.smoke}, given.out


def token_sets(
    model: HookedModel,
    fact: ms.Fact,
    *,
    kinds: tuple[str, ...],
    samples: int,
    corruption: Any,
    seed: int = 0,
) -> ms.Trace:
    """A trace that restores all tokens of the subject together."""
    encoded = encode_fact(model, fact)
    where = {SUBJECT: list(encoded.subject or ())}
    return ms.causal_trace(
        model, fact, kinds=kinds, samples=samples, corruption=corruption, seed=seed, tokens=where
    )


def traced(config: dict[str, Any], tracer: Callable[..., ms.Trace], out: Path) -> dict[str, list[ms.Trace]]:
    """Traces of the facts that every model knows."""
    facts = [one.fact for one in ms.organisms.requests(config["world"], n=config["n"], seed=config["seed"])]
    options = {name: config[name] for name in ("samples", "seed")}
    options["corruption"] = CORRUPTIONS[config["corruption"]]
    chosen = partial(tracer, kinds=tuple(config["kinds"]), **options)
    sets: dict[str, ms.TraceSet] = {}
    for name, place in config["models"].items():
        model = ms.load_model(place)
        sets[name] = ms.trace_facts(model, facts, tracer=chosen, folder=out / name)
        left_out = sets[name].skipped["reason"].value_counts().to_dict()
        print(f"{name}: {len(sets[name])} of {len(facts)} facts traced, left out {left_out}", flush=True)
        facts = list(sets[name].facts)
    common = set(facts)
    return {
        name: [trace for fact, trace in zip(found.facts, found, strict=True) if fact in common]
        for name, found in sets.items()
    }


def peaks(table: pd.DataFrame) -> list[Row]:
    """The layer with the largest mean effect of each kind and role, where there is an effect at all."""
    rows: list[Row] = []
    for (kind, role), part in table.groupby(["kind", "role"], sort=False):
        best = part.loc[part["mean"].idxmax()]
        if part["mean"].any():
            shown = {"kind": kind, "role": role, "peak layer": str(best["layer"])}
            rows.append({**shown, "effect": list(best[ENDS]), "facts": str(best["n_facts"])})
    return rows


def by_depth(sets: dict[str, list[ms.Trace]]) -> ModelComparison:
    """The models compared; one model alone with itself, for its curves."""
    return ms.compare_models(sets if len(sets) > 1 else {**sets, AGAIN: next(iter(sets.values()))})


def main() -> None:
    config, out = settings()
    single = traced(config, ms.causal_trace, out / "tokens")
    together = traced(config, token_sets, out / "subjects")
    tables: dict[str, Any] = {"facts": len(next(iter(single.values())))}
    for name, traces in single.items():
        table, total = ms.average_by_role(traces), total_effects(traces)
        sharp, whole = ms.average_by_role(traces, over="facts"), ms.average_by_role(together[name])
        pd.concat([table, whole]).to_csv(out / f"average {name}.csv", index=False)
        wide = (table["high"] - table["low"]).sum() / (sharp["high"] - sharp["low"]).sum()
        tables[name] = {
            "totals": {str(row.Index): list(row[1:4]) for row in total.itertuples()},
            "peaks": peaks(pd.concat([table, whole])),
            "suggestion": ms.suggest_layers(traces)[0].reason,
            "intervals over facts and draws, as a multiple of those over facts": float(wide),
        }
        print(f"\n{name}, {tables['facts']} facts: {tables[name]['totals']}")
        print(markdown(tables[name]["peaks"], ("kind", "role", "peak layer", "effect", "facts")))
        print(tables[name]["suggestion"], f"intervals {wide:.2f} times as wide", flush=True)
    found, of_subjects = by_depth(single), by_depth(together)
    if len(single) > 1:
        placed = pd.concat([found.peaks, of_subjects.peaks])
        placed = placed[placed["role"].isin(config["roles"])].to_dict("records")
        tables["depths"] = [{**row, "depth": [row["depth"], row["low"], row["high"]]} for row in placed]
        alike = found.similarity.to_dict("records")
        tables["similarity"] = [{**row, "r": [row["r"], row["low"], row["high"]]} for row in alike]
        print("\n" + markdown(tables["depths"], ("model", "kind", "role", "layer", "depth", "effect")))
        print(markdown(tables["similarity"], ("model", "other", "kind", "r")))
    curves = pd.concat([found.curves, of_subjects.curves])
    curves = curves[curves["model"] != AGAIN]
    panels = {
        f"{kind}, {role}": {
            str(name): Line(part["depth"].tolist(), tuple(part[end].tolist() for end in ENDS))
            for name, part in curves[(curves["kind"] == kind) & (curves["role"] == role)].groupby(
                "model", sort=False
            )
        }
        for role in config["roles"]
        for kind in config["kinds"]
    }
    lines(out / "figure.svg", panels, columns=len(config["kinds"]), x="relative depth", y="indirect effect")
    last = ms.load_model(list(config["models"].values())[-1])
    finish(out, last, {**config, "model": list(config["models"])[-1]}, tables)


if __name__ == "__main__":
    main()
