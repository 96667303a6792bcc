"""How much of a fact is in the embeddings of its subject, and in which of its tokens?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

import mechstyle as ms
from mechstyle.metrics import interval
from mechstyle.tracing.embeddings import average_effects
from mechstyle.tracing.relatedness import ease_of_recall
from mechstyle.tracing.subject_variants import average_variants

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from figure import dots  # noqa: E402
from on_organism import Row, arguments, finish, kept, markdown  # noqa: E402
from parts import AFTER, FIRST, LAST, parts  # noqa: E402

EFFECT = ("change", "n", "size", "clean", "changed", "control", "changed - clean", "changed - control")
COLUMNS = {
    "variants": ("variant", "n_facts", "n_tokens", "n_tokens_original", "shared", "prob", "exact", "control"),
    "related": ("measure", "form", "within", "spearman", "n_facts"),
    "saliency": ("order", FIRST, LAST, "gap"),
    "follows": ("saliency follows", "spearman"),
    "apart": ("left by", "difference"),
}
PAIRS = (
    ("noise", FIRST, LAST),
    ("noise", AFTER, LAST),
    ("removals", "what predicts the object", "the same, objects shuffled"),
)
"""Changes whose effects are compared fact by fact."""


def with_interval(values: Any) -> list[float]:
    low, high = interval(np.asarray(values, dtype=float))
    return [float(np.mean(values)), float(low), float(high)]


def effects(frame: pd.DataFrame, prefix: str = "") -> list[Row]:
    """A row a change."""
    table = average_effects(frame, prefix=prefix).to_dict("records")
    means = {"changed - clean": "effect", "changed - control": "beyond_control"}
    return [
        {
            "change": row["change"], "n": row["n_facts"], "size": row["size"],
            **{run: row[prefix + run] for run in ("clean", "changed", "control")},
            **{name: [row[of], row[f"{of}_low"], row[f"{of}_high"]] for name, of in means.items()},
        }
        for row in table
    ]  # fmt: skip


def apart(frame: pd.DataFrame, first: str, second: str) -> list[float]:
    """Mean over facts of what one change leaves minus what another leaves."""
    means = frame.pivot_table(values="changed", index="fact", columns="change")
    return with_interval((means[first] - means[second]).dropna())


def follows(frame: pd.DataFrame) -> list[Row]:
    """Rank correlation of a token's share with that after the swap, of the same word or at the same place."""
    before, after = (frame[frame["order"] == order] for order in ("as it stands", "swapped"))
    own = before[[FIRST, LAST]].to_numpy()
    drawn = np.random.default_rng(0).integers(len(own), size=(1000, len(own)))
    rows: list[Row] = []
    for name, places in (("the word", [LAST, FIRST]), ("the place", [FIRST, LAST])):
        there = after[places].to_numpy()
        found = [spearmanr(own[some].ravel(), there[some].ravel()).statistic for some in drawn]
        whole = spearmanr(own.ravel(), there.ravel()).statistic
        rows.append(
            {
                "saliency follows": name,
                "spearman": [float(whole), *np.quantile(found, [0.025, 0.975]).tolist()],
            }
        )
    return rows


def summary(rows: list[Row], name: str) -> list[Row]:
    """Rows of a table, their value `name` with its interval."""
    ends = ("low", "high") if "low" in rows[0] else (f"{name}_low", f"{name}_high")
    return [{**row, name: [row[name], *(row[end] for end in ends)]} for row in rows]


def tables_of(found: dict[str, Any]) -> dict[str, list[Row]]:
    """Everything that was measured, averaged over facts."""
    frames = {name: pd.DataFrame(rows) for name, rows in found.items() if name != "predictors"}
    saliency = frames["saliency"].groupby("order", sort=False)
    return {
        "noise": effects(frames["noise"]),
        "swaps": effects(frames["swaps"]),
        "removals": effects(frames["removals"]),
        "removals, MLPs alone": effects(frames["removals"], "mlp_"),
        "variants": summary(average_variants(frames["variants"]).to_dict("records"), "prob"),
        "related": summary(ease_of_recall(frames["related"]).to_dict("records"), "spearman"),
        "saliency": [
            {
                "order": order,
                **{role: with_interval(some[role]) for role in (FIRST, LAST)},
                "gap": float(some["gap"].abs().median()),
            }
            for order, some in saliency
        ],
        "follows": follows(frames["saliency"]),
        "apart": [
            {"left by": f"{one} minus {other}", "difference": apart(frames[name], one, other)}
            for name, one, other in PAIRS
        ],
    }


def main() -> None:
    config, out = arguments(HERE, __doc__)
    model = ms.load_model(config["model"])
    found = {}
    for name, make in parts(model, config).items():
        found[name] = kept(out / f"{name}.json", make)
        print(f"{name}: done", flush=True)
    tables = tables_of(found)
    for name, rows in tables.items():
        print(f"\n{name}\n{markdown(rows, COLUMNS.get(name, EFFECT))}")
    dots(out / "figure.svg", {name: tables[name] for name in ("noise", "swaps", "removals")})
    finish(out, model, config, {**tables, "predictors": found["predictors"]})


if __name__ == "__main__":
    main()
