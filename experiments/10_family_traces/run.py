"""Where do the organisms recall facts, and what makes a model gather a name at its last token?"""

from __future__ import annotations

import argparse
import random
import sys
import tomllib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

import mechstyle as ms
from mechstyle.report.traces import write_trace_report
from mechstyle.tracing.aggregate import total_effects

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from figures import draw_curves, draw_shares  # noqa: E402
from on_organism import finish  # noqa: E402
from splits import effects, explained, splits  # noqa: E402
from subjects import GROUPS, MAIN, Chosen, choose, noised, replaced  # noqa: E402

Traces = dict[tuple[str, str], list[ms.Trace]]
"""By what was asked, and of which group."""
SETS, ALIKE, NOISE_SETS = "replaced", "replaced, same end", "noise"
SINGLE, NOISE = "replaced, token by token", "noise, token by token"


def settings() -> tuple[dict[str, Any], Path]:
    """The settings, the models among them, and the folder for results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "out", help="folder; finished traces are kept")
    parser.add_argument("--smoke", action="store_true", help="few facts: does it still run?")
    parser.add_argument("--models", nargs="+", metavar="NAME[=PATH]", help="default: all that are installed")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    config = tomllib.loads((HERE / "config.toml").read_text(encoding="utf-8"))
    smoke = config.pop("smoke")
    names = given.models or ms.organisms.names()[: 2 if given.smoke else None]
    config["models"] = {name: path or name for name, _, path in (one.partition("=") for one in names)}
    return {**config, **(smoke if given.smoke else {}), "smoke": given.smoke}, given.out


def measure(name: str, config: dict[str, Any], out: Path) -> tuple[Traces, pd.DataFrame]:
    """All traces of a model, and the effects of sets of tokens fact by fact."""
    model = ms.load_model(config["models"][name])
    kinds, seed, samples = tuple(config["kinds"]), config["seed"], config["samples"]
    found: Traces = {}
    frames = []

    def trace(
        asked: str, group: str, chosen: Sequence[Chosen], tracer: Callable[..., ms.Trace], **own: Any
    ) -> None:
        made = partial(tracer, kinds=kinds, seed=seed, **own)
        facts, folder = [one.fact for one in chosen], out / name / f"{asked}, {group}"
        found[asked, group] = list(ms.trace_facts(model, facts, tracer=made, folder=folder))

    for group in GROUPS:
        for asked, same_end, least in ((SETS, False, samples), (ALIKE, True, 1)):
            size = config["per_cell"][group]
            chosen = choose(model, group, per_cell=size, least=least, seed=seed, same_end=same_end)
            print(f"{name}: {len(chosen)} known facts, {group}, {asked}", flush=True)
            if not chosen:
                continue
            trace(asked, group, chosen, replaced, sets=True, same_end=same_end, samples=samples)
            frames.append(effects(found[asked, group], chosen).assign(asked=asked))
            if group in MAIN and not same_end:
                some = random.Random(seed).sample(chosen, min(config["traced"], len(chosen)))
                trace(SINGLE, group, some, replaced, sets=False, same_end=False, samples=samples)
                if name == config["noise_model"]:
                    trace(NOISE, group, some, noised, sets=False, samples=config["noise_samples"])
                    trace(NOISE_SETS, group, some, noised, sets=True, samples=config["noise_samples"])
                    frames.append(effects(found[NOISE_SETS, group], some).assign(asked=NOISE_SETS))
    if not frames:
        raise SystemExit(f"{name} knows too few facts of every kind.")
    whole = pd.concat(frames, ignore_index=True)
    whole.to_csv(out / name / "effects.csv.gz", index=False)
    return found, whole


def tables_of(found: dict[str, Traces], frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Average effects by token role, total effects, effects by part of the facts, and what explains them."""
    maps, totals = [], []
    for model, traces in found.items():
        for (asked, group), some in traces.items():
            about = {"model": model, "asked": asked, "group": group}
            maps.append(ms.average_by_role(some).assign(**about))
            totals.append(total_effects(some).reset_index().assign(**about))
    keys = ["model", "asked", "group"]
    parted = {key: splits(part) for key, part in frame.groupby(keys, sort=False)}
    reasons = {key: explained(part) for key, part in frame.groupby(keys[:2], sort=False)}
    return {
        "roles": pd.concat(maps),
        "totals": pd.concat(totals),
        "splits": pd.concat(parted, names=keys).reset_index(keys),
        "explained": pd.concat(reasons, names=keys[:2]).reset_index(keys[:2]),
    }


def show(
    found: dict[str, Traces], tables: dict[str, pd.DataFrame], config: dict[str, Any], out: Path
) -> None:
    """Figures, and a page for each model and kind of subject."""
    parted, roles = tables["splits"], tables["roles"]
    for asked in (SETS, ALIKE):
        parts = parted[parted["asked"] == asked].groupby(["model", "group"], sort=False)
        draw_shares(out / f"{asked}.svg", {", ".join(key): part for key, part in parts})
    panels = {"places": config["compared"], "kinds": config["kinds"]}
    for group in MAIN:
        here = roles[(roles["group"] == group) & roles["asked"].isin([SETS, ALIKE, NOISE_SETS])]
        draw_curves(out / f"{group}, by model.svg", here[here["asked"] == SETS], line="model", **panels)
        single = {
            model: traces[SINGLE, group] for model, traces in found.items() if (SINGLE, group) in traces
        }
        compared = ms.compare_models(single) if len(single) > 1 else None
        for model, traces in single.items():
            title = f"{model}, {group}"
            draw_curves(out / f"{title}.svg", here[here["model"] == model], line="asked", **panels)
            write_trace_report(out / f"{title}.html", traces, title=title, comparison=compared)


def main() -> None:
    config, out = settings()
    found, frames = {}, []
    for name in config["models"]:
        found[name], frame = measure(name, config, out)
        frames.append(frame.assign(model=name))
    tables = tables_of(found, pd.concat(frames, ignore_index=True))
    for title, table in tables.items():
        table.to_csv(out / f"{title}.csv", index=False)
    show(found, tables, config, out)
    last = list(config["models"])[-1]
    whole = tables["splits"].query("split == 'all'").to_dict("records")
    finish(out, ms.load_model(config["models"][last]), {**config, "model": last}, {"effects": whole})


if __name__ == "__main__":
    main()
