"""How many edits in a row does a model bear, and would the ledger's health check have stopped in time?"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mechstyle as ms
from mechstyle.editing.batch_methods import MEMIT_OPTIONS
from mechstyle.models import HookedModel

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from on_organism import (  # noqa: E402
    METRICS,
    Row,
    alphaedit_with,
    arguments,
    finish,
    kept,
    known_requests,
    markdown,
    prepared,
    scored,
)

Requests = Sequence[ms.EditRequest]
Editor = Callable[[HookedModel, Requests], ms.EditSet]
LIMITS = ms.HealthCheck()
COLUMNS = ("edits", *METRICS, "unedited", "perplexity", "norm")


def editors(model: HookedModel, config: Mapping[str, Any], out: Path) -> dict[str, tuple[int, Editor]]:
    """Batch size and editor of each method; targets are searched anew on the model as it then is."""
    moments, contexts = prepared(model, config, out)
    closed = {"covariance": moments, "contexts": contexts[: config["contexts"]]}
    options = ms.TargetOptions(steps=config["steps"])
    narrow = replace(MEMIT_OPTIONS, steps=config["steps"])
    many = {**closed, "target_options": narrow}

    def rome(model: HookedModel, requests: Requests, *, layers: list[int], **own: Any) -> ms.EditSet:
        return ms.rome(model, requests, layer=layers, target_options=options, **closed, **own)

    def finetune(model: HookedModel, requests: Requests, *, layers: list[int], **own: Any) -> ms.EditSet:
        return ms.finetune(model, requests, layers=layers, options=ms.FinetuneOptions(**own))

    named: dict[str, Callable[..., ms.EditSet]] = {
        "rome": rome,
        "emmet": partial(ms.emmet, **many),
        "memit": partial(ms.memit, **many),
        "alphaedit": partial(alphaedit_with(moments), **many),
        "finetune": finetune,
    }
    methods, common = {}, ("editor", "size", "spread")
    for name, given in config["methods"].items():
        layers = config["layers"] if given.get("spread") else config["layers"][-1:]
        own = {key: value for key, value in given.items() if key not in common}
        methods[name] = (given["size"], partial(named[given["editor"]], layers=layers, **own))
    return methods


def look(model: HookedModel, done: Requests, unedited: Requests, config: Mapping[str, Any]) -> Row:
    """The model as it now is: edits so far, facts that nobody edited, and prose."""
    prose = ms.organisms.heldout_prose(config["model"])[: config["passages"]]
    some = done[::-1][:: -(-len(done) // config["n_scored"])]
    scores = ms.evaluate(model, some, perplexity_texts=prose, batch_size=64)
    facts = ms.evaluate(model, unedited, batch_size=64).frame.query("kind == 'rewrite'")
    known = {"unedited": float(facts.exact_true.mean()), "perplexity": scores.perplexity["before"]}
    return {"edits": len(done), **scored([scores.frame]), **known}


def sequence(
    model: HookedModel,
    requests: Requests,
    unedited: Requests,
    check: ms.HealthCheck,
    method: tuple[int, Editor],
    config: Mapping[str, Any],
) -> dict[str, list[Row]]:
    """Batch after batch into a ledger that looks but never stops, with a closer look from time to time."""
    size, editor = method
    looks, health = list[Row](), list[Row]()
    with ms.Ledger(model, health=check) as ledger:
        for first in range(0, len(requests), size):
            entry = ledger.add(editor(model, requests[first : first + size]))
            done = min(first + size, len(requests))
            health.append({"edits": done, **entry.health.to_dict(), "norm": entry.health.delta_ratio})
            if any(first < number <= done for number in config["looks"]):
                looks.append({**look(model, requests[:done], unedited, config), "norm": health[-1]["norm"]})
                print(markdown(looks[-1:], COLUMNS).splitlines()[-1], flush=True)
                if looks[-1]["unedited"] < config["end"]:
                    break
    return {"looks": looks, "health": health}


def first_edit(rows: Sequence[Row], broken: Callable[[Row], bool]) -> int | str:
    """The edit after which something was first the case."""
    return next((row["edits"] for row in rows if broken(row)), "–")


def stops(found: Mapping[str, Sequence[Row]], config: Mapping[str, Any]) -> Row:
    """When each of the default limits would have refused an edit, and when the model was no longer well."""
    health, looks = found["health"], found["looks"]
    return {
        "norm > limit": first_edit(health, lambda row: not row["norm"] <= LIMITS.max_delta_ratio),
        "perplexity > limit": first_edit(
            health, lambda row: not float(row["perplexity_ratio"]) <= LIMITS.max_perplexity_ratio
        ),
        "known < limit": first_edit(health, lambda row: not row["known"] >= LIMITS.min_known),
        "efficacy < limit": first_edit(looks, lambda row: row["efficacy"][0] < config["collapsed"]),
        "unedited < limit": first_edit(looks, lambda row: row["unedited"] < config["collapsed"]),
        "edits written": health[-1]["edits"],
    }


def main() -> None:
    config, out = arguments(HERE, __doc__)
    model, n, n_kept = ms.load_model(config["model"]), config["n"], config["n_kept"]
    requests = known_requests(
        model, config["model"], n + 2 * n_kept, seed=config["seed"], neighbours=config["neighbours"]
    )
    unedited = requests[n : n + n_kept]
    check = ms.HealthCheck(
        texts=ms.organisms.heldout_prose(config["model"])[-config["canaries"] :],
        facts=[request.fact for request in requests[n + n_kept :]],
        max_delta_ratio=math.inf,
        max_perplexity_ratio=math.inf,
        min_known=0.0,
    )
    rows, tables = list[Row](), dict[str, Any]()
    for name, method in editors(model, config, out).items():
        print(name, flush=True)
        run = partial(sequence, model, requests[:n], unedited, check, method, config)
        found = tables[name] = kept(out / f"{name}.json", run)
        rows.append({"method": name, "batch": method[0], **stops(found, config)})
        print(f"{markdown(found['looks'], COLUMNS)}\n{markdown(rows[-1:], list(rows[-1]))}", flush=True)
    print(markdown(rows, list(rows[0])))
    finish(out, model, config, {"stops": rows, "sequences": tables})


if __name__ == "__main__":
    main()
