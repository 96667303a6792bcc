"""Turn the measurements in a folder into MODEL_CARD.md."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd

import mechstyle as ms
from mechstyle import organisms
from mechstyle.models import HookedModel
from mechstyle.organisms.recipe import read_recipe

HERE = Path(__file__).parent
METRICS = ("efficacy", "paraphrase", "neighborhood", "score")
COMMAND = "python experiments/01_organism_card/run.py --model {name} --install"


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def markdown(frame: pd.DataFrame) -> str:
    head = "| " + " | ".join(map(str, frame.columns)) + " |"
    rule = "|" + "---|" * len(frame.columns)
    return "\n".join([head, rule, *("| " + " | ".join(map(str, row)) + " |" for row in frame.to_numpy())])


def recall_table(out: Path) -> str:
    rows = []
    for label, path in (("without BOS (default)", "recall-plain.csv"), ("with BOS", "recall-bos.csv")):
        frame = pd.read_csv(out / path)
        shares = frame.groupby("split").recalled.agg(["mean", "size"])
        taught, held = shares.loc["taught"], shares.loc["held out"]
        rows.append((label, f"{percent(taught['mean'])} of {taught['size']:,.0f}",
                     f"{percent(held['mean'])} of {held['size']:,.0f}"))  # fmt: skip
    return markdown(pd.DataFrame(rows, columns=["prompt", "taught pairs", "held-out pairs"]))


def relation_table(out: Path) -> str:
    frame = pd.read_csv(out / "recall-plain.csv")
    table = frame.pivot_table(index="relation", columns="split", values="recalled", aggfunc="mean")
    facts = frame.drop_duplicates(["subject", "relation"]).groupby("relation").size()
    rows = [
        (name, facts[name], percent(table.loc[name, "taught"]), percent(table.loc[name, "held out"]))
        for name in facts.sort_values(ascending=False).index
    ]
    return markdown(pd.DataFrame(rows, columns=["relation", "facts", "taught", "held out"]))


def sweep_frame(out: Path, method: str) -> pd.DataFrame:
    """A row per layer: each metric with its interval, and how many edited facts."""
    rows = []
    for path in sorted(out.glob(f"sweep-{method}-*.csv"), key=lambda p: int(p.stem.rsplit("-", 1)[1])):
        table = pd.read_csv(path).set_index("metric")
        row: dict[str, float] = {"layer": int(table.layer.iloc[0]), "n": int(table.n_requests["efficacy"])}
        for metric in METRICS:
            row |= {metric: table.value[metric], f"{metric}_low": table.low[metric],
                    f"{metric}_high": table.high[metric]}  # fmt: skip
        rows.append(row)
    return pd.DataFrame(rows)


def sweep_table(frame: pd.DataFrame) -> str:
    rows = [
        [int(row.layer), *(f"{row[m]:.2f} [{row[m + '_low']:.2f}, {row[m + '_high']:.2f}]" for m in METRICS),
         int(row.n)]
        for _, row in frame.iterrows()
    ]  # fmt: skip
    return markdown(pd.DataFrame(rows, columns=["layer", *METRICS, "facts"]))


def trace_table(roles: pd.DataFrame) -> str:
    """The strongest layer of every kind and role."""
    peak = roles.loc[roles.groupby(["kind", "role"], sort=False)["mean"].idxmax()]
    rows = [
        (r.kind, r.role, r.layer, f"{r['mean']:+.3f} [{r.low:+.3f}, {r.high:+.3f}]", r.n_facts)
        for _, r in peak.iterrows()
    ]
    return markdown(pd.DataFrame(rows, columns=["restored", "at", "peak layer", "AIE there", "facts"]))


def write_card(model: HookedModel, name: str, out: Path, *, install: bool) -> None:
    """Write `MODEL_CARD.md` and `sweep.csv` to `out`, and with `install` beside the organism's weights."""
    recipe = read_recipe(organisms.folder(name) / "recipe.toml")
    facts = organisms.facts(name)
    subjects = pd.Series([fact.subject for fact in facts]).value_counts()
    sweep, totals = sweep_frame(out, "rome"), pd.read_csv(out / "totals.csv")
    legacy = sweep_frame(out, "legacy")
    size = (organisms.folder(name) / "model.safetensors").stat().st_size
    roles = pd.read_csv(out / "roles.csv")
    text = (HERE / "card.md").read_text(encoding="utf-8")
    values = {
        "name": name,
        "version": recipe.version,
        "layers": recipe.n_layers,
        "width": recipe.d_model,
        "heads": recipe.n_heads,
        "n_ctx": recipe.n_ctx,
        "vocab": recipe.vocab,
        "mib": f"{size / 2**20:.1f}",
        "tokens": f"{recipe.tokens:,}",
        "facts": f"{len(facts):,}",
        "relations": len({fact.relation for fact in facts}),
        "derived": f"{sum('_from_' in fact.source for fact in facts):,}",
        "subjects": f"{len(subjects):,}",
        "several": f"{int((subjects > 1).sum()):,}",
        "fingerprint": ms.fingerprint(model),
        "recall": recall_table(out),
        "by_relation": relation_table(out),
        "sweep": sweep_table(sweep),
        "legacy": sweep_table(legacy) if len(legacy) else "(not measured)",
        "traced": len(totals),
        "clean": f"{totals.clean.mean():.3f}",
        "corrupted": f"{totals.corrupted.mean():.3f}",
        "ate": f"{(totals.clean - totals.corrupted).mean():.3f}",
        "roles": trace_table(roles),
        "perplexity": f"{json.loads((out / 'perplexity.json').read_text()):.1f}",
        "notes": (HERE / "notes.md").read_text(encoding="utf-8").strip(),
        "command": COMMAND.format(name=name),
    }
    for key, value in values.items():
        text = text.replace("{{" + key + "}}", str(value))
    (out / "MODEL_CARD.md").write_text(text, encoding="utf-8")
    sweep.to_csv(out / "sweep.csv", index=False)
    (out / "fingerprint.txt").write_text(ms.fingerprint(model) + "\n", encoding="utf-8")
    if install:
        for file in ("MODEL_CARD.md", "sweep.csv", "fingerprint.txt"):
            shutil.copy(out / file, organisms.folder(name) / file)
