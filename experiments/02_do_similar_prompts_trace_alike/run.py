"""Do similar prompts trace alike: by relation, by wording, by subject, or in the model's own spaces?"""

from __future__ import annotations

import random
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import mechstyle as ms
from mechstyle.tracing.compare_prompts import PromptComparison

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from line_figure import dots  # noqa: E402
from on_organism import Row, arguments, finish, markdown  # noqa: E402


def chosen_facts(config: dict[str, Any]) -> list[ms.Fact]:
    """As many facts of each relation: subjects drawn by the seed, each in the most common templates."""
    taught = ms.organisms.facts(config["model"])
    told = Counter((fact.relation, template) for fact in taught for template in fact.taught)
    common: dict[str, list[str]] = {}
    for (relation, template), _ in told.most_common():
        common.setdefault(relation, []).append(template)
    facts: list[ms.Fact] = []
    for relation, _ in Counter(fact.relation for fact in taught).most_common(config["relations"]):
        templates = common[relation][: config["templates"]]
        own = [fact for fact in taught if fact.relation == relation]
        for fact in random.Random(config["seed"]).sample(own, config["subjects"]):
            facts += [ms.Fact(one, fact.subject, f" {fact.object}", relation) for one in templates]
    return facts


def tests(found: PromptComparison) -> list[Row]:
    """The permutation tests in rows."""
    return [
        {"distance between prompts": str(name), "r": float(row["r"]), "p": f"{row['p']:.4f}"}
        for name, row in found.mantel.iterrows()
    ]


def groups(found: PromptComparison) -> list[Row]:
    """Mean distances between traces, in rows."""
    return [
        {
            "pairs": str(name),
            "distance": [row["mean"], row["low"], row["high"]],
            "number": str(int(row["n_pairs"])),
        }
        for name, row in found.groups.iterrows()
    ]


def main() -> None:
    config, out = arguments(HERE, __doc__)
    model, facts = ms.load_model(config["model"]), chosen_facts(config)
    tracer = partial(
        ms.causal_trace, kinds=tuple(config["kinds"]), samples=config["samples"], seed=config["seed"]
    )
    traces = ms.trace_facts(model, facts, tracer=tracer, folder=out / "traces")
    print(f"{len(traces)} of {len(facts)} facts traced", flush=True)
    tables: dict[str, Any] = {"facts": len(traces), "relations": sorted({fact.relation for fact in facts})}
    options = {"model": model, "permutations": config["permutations"], "seed": config["seed"]}
    views = {
        "shape": ms.compare_prompts(traces, **options),
        "size": ms.compare_prompts(traces, measure="rms", **options),
        **{
            f"shape, {kind} alone": ms.compare_prompts(traces, kinds=(kind,), **options)
            for kind in config["kinds"]
        },
    }
    for name, found in views.items():
        tables[name] = {"tests": tests(found), "groups": groups(found)}
        found.pairs.to_csv(out / f"pairs {name}.csv", index=False)
        print(f"\n{name}\n" + markdown(tables[name]["tests"], ("distance between prompts", "r", "p")))
        print(markdown(tables[name]["groups"], ("pairs", "distance", "number")), flush=True)
    shown = views["shape"]
    ms.plot.compare_prompts(shown, distance="relation").write_html(out / "figure.html", include_plotlyjs=True)
    rows = {
        str(name): (*row[["mean", "low", "high"]], f"{int(row['n_pairs'])} pairs")
        for name, row in shown.groups.iterrows()
    }
    dots(out / "figure.svg", rows, x="distance between traces (1 - r)")
    finish(out, model, config, tables)


if __name__ == "__main__":
    main()
