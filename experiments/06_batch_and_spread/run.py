"""Is it the objective or the spread over layers that matters, and how large may a batch be?"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import mechstyle as ms
from mechstyle.editing.batch_methods import MEMIT_OPTIONS
from mechstyle.editing.targets import optimise_targets

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from on_organism import (  # noqa: E402
    METRICS,
    Row,
    alphaedit_with,
    arguments,
    best_variant,
    cell,
    finish,
    kept,
    kept_targets,
    known_requests,
    markdown,
    prepared,
)


def main() -> None:
    config, out = arguments(HERE, __doc__)
    model = ms.load_model(config["model"])
    sizes, layers, n_scored = config["batch_sizes"], config["layers"], config["n_scored"]
    n = max(*sizes, n_scored)
    requests = known_requests(model, config["model"], n + config["n_tuned"], seed=config["seed"])
    moments, contexts = prepared(model, config, out)
    editors = {"EMMET": ms.emmet, "MEMIT": ms.memit, "AlphaEdit": alphaedit_with(moments)}
    targets = kept_targets(
        out / "targets.safetensors",
        lambda: optimise_targets(
            model, requests, layer=layers[-1], contexts=contexts, options=MEMIT_OPTIONS, kind="resid"
        ),
    )
    print(
        f"mean -log P of the targets {sum(one.answer_nll[-1] for one in targets) / len(targets):.3f}",
        flush=True,
    )
    prose = ms.organisms.heldout_prose(config["model"])[: config["passages"]]

    def measured(method: str, chosen: list[int], size: int, own: Mapping[str, Any], part: slice) -> Row:
        """One cell: a part of the requests in independent batches, all from the same targets."""
        some, wanted = requests[part], targets[part]

        def write(batch: slice) -> ms.EditSet:
            return editors[method.split(",")[0]](
                model,
                some[batch],
                targets=wanted[batch],
                layers=chosen,
                covariance=moments,
                contexts=contexts,
                **own,
            )

        n_rows = min(n_scored, len(some))
        scores = partial(cell, perplexities=config["perplexities"])
        path = out / f"{method} {chosen} {size} {dict(own)} {part.start}.json"
        return kept(path, partial(scores, model, some, write, size, n_scored=n_rows, prose=prose))

    columns = ("method", "spread", "batch", *METRICS, "perplexity", "norm", "seconds", "settings")
    rows: list[Row] = []
    for size in sorted(sizes, reverse=True):  # small batches take longest
        for method, variants in config["variants"].items():
            for chosen in (layers[-1:], layers):
                tune = partial(
                    measured, method, chosen, config["n_tuned"], part=slice(n, n + config["n_tuned"])
                )
                own = best_variant(variants, tune)
                named = {"method": method, "spread": "yes" if len(chosen) > 1 else "no", "batch": size}
                found = measured(method, chosen, size, own, slice(0, n))
                rows.append({**named, **found, "settings": str(own or "default")})
                print(markdown(rows[-1:], columns).splitlines()[-1], flush=True)
    rows.sort(key=lambda row: (list(config["variants"]).index(row["method"]), row["spread"], row["batch"]))
    print(markdown(rows, columns))
    finish(out, model, config, {"perplexity before": ms.perplexity(model, prose), "cells": rows})


if __name__ == "__main__":
    main()
