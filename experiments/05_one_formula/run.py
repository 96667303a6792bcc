"""What does each method do to a fact and to the rest, alone and in one batch, and is it all one formula?"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mechstyle as ms

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from methods import Editor, editors  # noqa: E402
from on_organism import (  # noqa: E402
    METRICS,
    Edit,
    Row,
    arguments,
    best_variant,
    cell,
    finish,
    kept,
    known_requests,
    markdown,
)

COLUMNS = ("method", *METRICS, "perplexity", "norm", "seconds", "settings")


def identities(
    by_name: Mapping[str, Editor], layers: list[int], n: int, ridges: Sequence[float]
) -> list[Row]:
    """How far weights that should be equal are apart, relative to their size."""

    def change(name: str, batch: slice, **own: Any) -> Any:
        edit = by_name[name](batch, layers, **own)
        return edit.delta(edit.parameters[0])

    def apart(one: Any, other: Any) -> float:
        return float((one - other).norm() / other.norm())

    singles, whole = [slice(i, i + 1) for i in range(n)], slice(0, n)
    exact = change("emmet", whole)
    rome = max(apart(change("emmet", one), change("rome, targets of memit", one)) for one in singles)
    rows: list[Row] = [
        {"": "EMMET of one edit and ROME, same key and target, largest difference", "measured": rome}
    ]
    for ridge in ridges:
        memit, ridged = change("memit", whole, mom2_weight=ridge), change("emmet", whole, ridge=ridge)
        measured = {"from EMMET with this ridge": apart(memit, ridged), "from EMMET": apart(memit, exact)}
        measured["size, EMMET = 1"] = float(memit.norm() / exact.norm())
        rows += [
            {"": f"MEMIT, weight {ridge:g}: {name}", "measured": value} for name, value in measured.items()
        ]
    return rows


def main() -> None:
    config, out = arguments(HERE, __doc__)
    model, n, layers = ms.load_model(config["model"]), config["n"], config["layers"]
    requests = known_requests(model, config["model"], n + config["n_tuned"], seed=config["seed"])
    by_name = editors(model, requests, config, out)
    prose = ms.organisms.heldout_prose(config["model"])[: config["passages"]]

    def measured(method: Mapping[str, Any], part: slice, size: int, own: Mapping[str, Any]) -> Row:
        """One cell: a part of the requests, in batches of one size."""
        chosen = layers if method.get("spread") else layers[-1:]
        some = requests[part]

        def write(batch: slice) -> Edit:
            numbers = slice(part.start + batch.start, part.start + batch.stop)
            return by_name[method["editor"]](numbers, chosen, **own)

        path = out / f"{method['name']} {dict(own)} {part.start} {size}.json"
        return kept(path, partial(cell, model, some, write, size, n_scored=len(some), prose=prose))

    rows = kept(
        out / "identities.json", lambda: identities(by_name, layers[-1:], min(n, 50), config["ridges"])
    )
    print(markdown(rows, ("", "measured")), flush=True)
    tables: dict[str, list[Row]] = {"alone": [], "together": []}
    for setting, table in reversed(tables.items()):
        for method in config["method"]:
            if method.get("only", setting) != setting:
                continue
            n_tuned = config["n_tuned"] if setting == "together" else -(-config["n_tuned"] // 2)
            tuning, sizes = slice(n, n + n_tuned), (n, n_tuned) if setting == "together" else (1, 1)
            own = best_variant(method.get("variants", [{}]), partial(measured, method, tuning, sizes[1]))
            found = measured(method, slice(0, n), sizes[0], own)
            table.append({"method": method["name"], **found, "settings": str(own or "default")})
            print(setting, markdown(table[-1:], COLUMNS).splitlines()[-1], flush=True)
    print(*(f"\n{setting}, {n} edits\n{markdown(table, COLUMNS)}" for setting, table in tables.items()))
    finish(out, model, config, {**tables, "identities": rows})


if __name__ == "__main__":
    main()
