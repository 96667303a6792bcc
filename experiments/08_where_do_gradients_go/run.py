"""Where does a new fact want to go when all layers may learn it, and where does writing it harm least?"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

import mechstyle as ms
from mechstyle.editing.finetune import gradient_log
from mechstyle.models import HookedModel

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from future import future_facts  # noqa: E402
from on_organism import Row, arguments, finish, kept, known_requests, markdown, scored  # noqa: E402

Schedule = Callable[[int], Collection[int]]
COLUMNS = (
    "trained",
    "learned",
    "steps",
    "efficacy_exact",
    "paraphrase_exact",
    "neighborhood_exact",
    "perplexity",
    "size",
)
SHARES = ("layer", "part", "first step", "last step", "all steps", "relative")
Condition = tuple[list[int], Schedule | None]


def conditions(config: Mapping[str, Any]) -> dict[str, Condition]:
    """Which layers may learn, and when."""
    middle, n_layers = config["halves"]
    every, pace = list(range(n_layers)), config["pace"]

    def rising(step: int) -> list[int]:
        return every[: 1 + step // pace]

    def falling(step: int) -> list[int]:
        return every[-1 - min(step // pace, n_layers - 1) :]

    return {
        "all": (every, None),
        f"0–{middle - 1}": (every[:middle], None),
        f"{middle}–{n_layers - 1}": (every[middle:], None),
        "unfrozen from below": (every, rising),
        "unfrozen from above": (every, falling),
        **{f"only {layer}": ([layer], None) for layer in every},
    }


def learn(
    model: HookedModel, requests: Sequence[ms.EditRequest], condition: Condition, config: Mapping[str, Any]
) -> Row:
    """Fine-tune each fact alone until it is known; scores, damage, and where the gradients went."""
    layers, schedule = condition
    # Adam moves every weight by about lr, however many there are: so that all conditions take like steps.
    lr = config["lr"] / len(layers)
    options = ms.FinetuneOptions(steps=config["steps"], lr=lr, early_stop=config["early_stop"])
    prose = ms.organisms.heldout_prose(config["model"])[: config["passages"]]
    before = ms.perplexity(model, prose)
    frames, logs, rises, steps, changes = [], [], [], [], defaultdict[str, float](float)
    for number, request in enumerate(requests):
        edit = ms.finetune(
            model, request, layers=layers, parameters=config["parameters"], options=options, schedule=schedule
        )
        with edit.applied(model):
            frames.append(ms.evaluate(model, [request], batch_size=64).frame)
            rises.append(math.log(ms.perplexity(model, prose) / before))
        log = gradient_log(edit)
        logs.append(log[~log.known].assign(fact=number))
        known_at = edit.provenance["settings"]["known_at"]
        steps.append(math.nan if known_at is None else known_at)
        for name in edit.parameters:
            changes[name.split(".")[1]] += float(edit.delta(name).norm()) ** 2 / len(requests)
    log = pd.concat(logs)
    return {
        **scored(frames),
        "perplexity": math.exp(sum(rises) / len(rises)) - 1,
        "steps": float(pd.Series(steps).median()),
        "learned": 1 - float(pd.Series(steps).isna().mean()),
        "size": math.sqrt(sum(changes.values())),
        "gradients": shares(model, log),
    }


def shares(model: HookedModel, log: pd.DataFrame) -> list[Row]:
    """Each layer's share of the squared gradient, MLP and attention apart, while a fact is learned.

    "relative" are shares of gradient times weight: what equal *relative* changes of the weights would do.
    """
    weights = dict(model.named_parameters())
    sizes = [
        float(weights[f"blocks.{row.layer}.{row.parameter}"].detach().norm()) for row in log.itertuples()
    ]
    log = log.assign(
        part=log.parameter.str.split(".").str[0], gradient=log.norm**2, relative=(log.norm * sizes) ** 2
    )
    for name in ("gradient", "relative"):
        log[name] /= log.groupby(["fact", "step"])[name].transform("sum")
    last = log.step == log.groupby("fact").step.transform("max")
    parts = {"first step": log[log.step == 0], "last step": log[last], "all steps": log}
    place = ["layer", "part"]

    def mean_share(some: pd.DataFrame, name: str) -> pd.Series:
        return some.groupby(["fact", "step", *place])[name].sum().groupby(place).mean()

    found = {name: mean_share(some, "gradient") for name, some in parts.items()}
    found["relative"] = mean_share(log, "relative")
    return list(pd.DataFrame(found).reset_index().to_dict("records"))


def main() -> None:
    config, out = arguments(HERE, __doc__)
    model = ms.load_model(config["model"])
    requests = future_facts(model, config)
    every = conditions(config)
    rows = []
    for name in config.get("conditions", every):
        condition = every[name]
        found = kept(out / f"{name}.json", partial(learn, model, requests, condition, config))
        rows.append({"trained": name, **found})
        print(markdown(rows[-1:], COLUMNS).splitlines()[-1], flush=True)
    known = known_requests(model, config["model"], config["n"], seed=config["seed"])
    rewriting = kept(out / "rewriting.json", lambda: learn(model, known, every["all"], config))
    rows.append({"trained": "all, known facts rewritten", **rewriting})
    untouched = kept(out / "untouched.json", lambda: scored([ms.evaluate(model, requests).frame]))
    print(markdown([*rows, {"trained": "nothing", **untouched}], COLUMNS))
    for row in (rows[0], rows[-1]):
        print(f"\n{row['trained']}\n{markdown(row['gradients'], SHARES)}")
    finish(out, model, config, {"conditions": rows, "untouched": untouched})


if __name__ == "__main__":
    main()
