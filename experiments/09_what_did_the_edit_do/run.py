"""What did the edit do: to the fact, to what follows, to its subject's other facts, and to the rest?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

import mechstyle as ms
from mechstyle.evaluation.generation import begins_with
from mechstyle.evaluation.measure import Measure
from mechstyle.models import HookedModel
from mechstyle.report.evaluation import write_evaluation_report

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from asked import random_cases, rare_cases  # noqa: E402
from on_organism import Edit, Row, arguments, finish, markdown, prepared  # noqa: E402

UNEDITED = "unedited"  # the name that a suite gives the model as it came
COLUMNS = ("edit", "value", "reference", "difference", "p_holm", "n", "failed")


def editors(model: HookedModel, config: Mapping[str, Any], out: Path) -> dict[str, Callable[..., Edit]]:
    """Every method in the same words: a request, options of its own, and those of its targets."""
    moments, contexts = prepared(model, config, out)
    closed = {"covariance": moments, "contexts": contexts[: config["contexts"]]}
    layer = config["layer"]

    def rome(request: ms.EditRequest, target: Mapping[str, Any], own: Mapping[str, Any]) -> Edit:
        options = ms.TargetOptions(**target)
        return ms.rome(model, request, target_options=options, **closed, **{"layer": layer, **own})

    def finetune(request: ms.EditRequest, target: Mapping[str, Any], own: Mapping[str, Any]) -> Edit:
        return ms.finetune(model, [request], layers=[layer], options=ms.FinetuneOptions(**own))

    return {
        "rome": rome,
        "memit": lambda request, target, own: ms.memit(model, [request], layers=[layer], **closed, **own),
        "finetune": finetune,
        "cache": lambda request, target, own: ms.edit_cache(model, [request], **own),
        "context": lambda request, target, own: ms.in_context_edit(model, [request], **own),
    }


def measures(cases: Sequence[ms.Case], which: str, config: Mapping[str, Any]) -> list[Measure]:
    """What each set of requests is asked."""
    name, tools = config["model"], ms.evaluation
    if which == "specificity":
        return [tools.RequestScores(), tools.Questions.of(cases, generate=True)]
    if which == "reach":
        chains = [chain for case in cases for chain in ms.organisms.belief_chains(name, case.request)]
        beliefs = tools.BeliefConsistency(tuple(dict.fromkeys(chains)))
        return [tools.RequestScores(), tools.Questions.of(cases), beliefs]
    prose = ms.organisms.heldout_prose(name)[: config["passages"]]
    return [
        tools.RequestScores(generate=True),
        tools.Questions.of(cases),
        tools.Generations(max_length=config["max_length"]),
        tools.HeldOutPerplexity(tuple(prose)),
        tools.Divergence(tuple(" ".join(text.split()[: config["words"]]) for text in prose)),
        tools.Tasks((tools.organism_task(name, n=config["items"], seed=config["seed"]),)),
    ]


def kept_edit(path: Path, request: ms.EditRequest, make: Callable[[], Edit]) -> Edit:
    """An edit that is made once, and again where the request is another one."""
    if not path.exists() or ms.load_edit(path).requests != (request,):
        make().save(path)
    return ms.load_edit(path)


def table(compared: pd.DataFrame, metric: str, reference: str = UNEDITED) -> list[Row]:
    """One metric, edit by edit, with its paired difference to a reference; nothing where none is."""
    rows = compared[(compared["metric"] == metric) & (compared["n"] > 0)]
    before = rows[rows["edit"] == reference]["value"].tolist()
    found: list[Row] = []
    for row in rows[~rows["edit"].isin([UNEDITED, reference])].to_dict("records"):
        given: Row = {
            **{key: row[key] for key in ("edit", "n", "p_holm", "failed")},
            "value": [row[key] for key in ("value", "low", "high")],
            "reference": before[0],
            "difference": [row[key] for key in ("difference", "difference_low", "difference_high")],
        }
        # One request has no interval, and a ratio no p-value: what is missing is a dash.
        found.append({key: one for key, one in given.items() if not any(pd.isna(pd.Series(one)))})
    return found


def what_it_says(found: ms.SuiteResult) -> list[Row]:
    """Of a subject's other facts that the model knew: what it now writes."""
    rows = []
    for edit in found.edits:
        asked = found.rows("questions", edit).query("kind == 'specificity' and fair")
        new = [found.cases[index].request.new_target for index in asked["request"]]
        says = [begins_with(text, one) for text, one in zip(asked["completion"], new, strict=True)]
        right = int(asked["generated"].astype(bool).sum())
        rest = len(asked) - right - sum(says)
        rows.append({"edit": edit, "right": right, "the new object": sum(says), "something else": rest})
    return rows


def main() -> None:
    config, out = arguments(HERE, __doc__)
    model = ms.load_model(config["model"])
    by_name = editors(model, config, out)
    (out / "edits").mkdir(exist_ok=True)
    tables: dict[str, Any] = {}
    for which in config["n"]:
        cases = random_cases(model, config) if which == "random" else rare_cases(model, config, which)
        edits: dict[str, list[Edit]] = {}
        for given in (one for one in config["editor"] if one.get("only", which) == which):
            edits[given["name"]] = []
            for index, case in enumerate(cases):
                path = out / "edits" / f"{which} {given['name']} {index}.safetensors"
                own = (given.get("target", {}), given.get("own", {}))
                make = partial(by_name[given["editor"]], case.request, *own)
                edits[given["name"]].append(kept_edit(path, case.request, make))
        asked, extra = measures(cases, which, config), {"collateral_edits": config["collateral_edits"]}
        found = ms.run_suite(model, cases, asked, edits=edits, folder=out / which, batch_size=64, **extra)
        found.save(out / which)
        write_evaluation_report(out / f"{which}.html", found)
        compared = found.compare()
        tables[which] = {name: table(compared, name) for name in dict.fromkeys(compared["metric"])}
        tables[which]["drawdown"] = found.drawdown().to_dict("records")
        for name in (key for key in tables[which] if key != "drawdown" and not key.endswith("_magnitude")):
            print(f"\n{which}: {name}\n{markdown(tables[which][name], COLUMNS)}", flush=True)
        if which == "specificity":
            first, pairs = found.edits[0], found.compare(found.edits[0])
            for name in ("neighborhood_exact", "specificity_exact"):
                tables[f"{name}, less {first}"] = table(pairs, name, first)
                print(
                    f"\n{name}, against {first}\n{markdown(table(pairs, name, first), COLUMNS)}", flush=True
                )
            tables["written"] = what_it_says(found)
            print(markdown(tables["written"], list(tables["written"][0])))
    finish(out, model, config, tables)


if __name__ == "__main__":
    main()
