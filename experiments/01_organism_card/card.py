"""Turn the measurements in a folder into MODEL_CARD.md."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

import mechstyle as ms
from mechstyle import organisms
from mechstyle.models import HookedModel
from mechstyle.organisms.recipe import read_recipe
from mechstyle.organisms.world import build_world

HERE = Path(__file__).parent
METRICS = ("efficacy", "paraphrase", "neighborhood", "score")
COMMAND = "python experiments/01_organism_card/run.py --model {name} --install"
SHIPPED = ("MODEL_CARD.md", "gates.csv", "sweep.csv", "sweep_by_subjects.csv", "fingerprint.txt")


def markdown(frame: pd.DataFrame) -> str:
    head = "| " + " | ".join(map(str, frame.columns)) + " |"
    rule = "|" + "---|" * len(frame.columns)
    return "\n".join([head, rule, *("| " + " | ".join(map(str, row)) + " |" for row in frame.to_numpy())])


def gate_lines(out: Path, *, every: bool) -> str:
    """The gates with what they ask and whether it is reached; `every` adds what is only reported."""
    rows = []
    for gate in pd.read_csv(out / "gates.csv").itertuples():
        asked = pd.notna(gate.threshold)
        if asked:
            missing = 100 * (gate.threshold - gate.measured)
            verdict = "passed" if missing <= 0 else f"**{missing:.1f} points short**"
            rows.append((gate.name, f"≥ {100 * gate.threshold:.0f} %", *_measured(gate), verdict))
        elif every:
            rows.append((gate.name, "–", *_measured(gate), ""))
    return markdown(pd.DataFrame(rows, columns=["", "asked", "measured", "n", ""]))


def reported_lines(out: Path) -> str:
    """What is measured and not asked for."""
    frame = pd.read_csv(out / "gates.csv")
    rows = [(gate.name, *_measured(gate)) for gate in frame[frame.threshold.isna()].itertuples()]
    return markdown(pd.DataFrame(rows, columns=["", "measured", "n"]))


def prose_line(out: Path) -> str:
    """The organism's perplexity beside those of n-grams."""
    frame = pd.read_csv(out / "gates.csv").set_index("name")
    prose = frame[frame.index.str.startswith("perplexity")].measured
    ours, trigrams, unigrams = (f"{value:.1f}" for value in prose)
    verdict = "better" if prose.iloc[0] < prose.iloc[1] else "worse"
    return f"{ours}, {verdict} than 3-grams of what it read ({trigrams}); unigrams have {unigrams}"


def _measured(gate: object) -> tuple[str, str]:
    if gate.name.startswith("perplexity"):
        return f"{gate.measured:.1f} [{gate.low:.1f}, {gate.high:.1f}]", f"{gate.n:,} tokens"
    share, low, high = (100 * number for number in (gate.measured, gate.low, gate.high))
    return f"{share:.1f} % [{low:.1f}, {high:.1f}]", f"{gate.n:,}"


def sweep_frame(out: Path, method: str) -> pd.DataFrame:
    """A row per layer and kind of subjects: each metric with its interval, and how many edited facts."""
    rows = []
    for path in sorted(out.glob(f"sweep-{method}-*.csv"), key=lambda p: int(p.stem.rsplit("-", 1)[1])):
        for kind, part in pd.read_csv(path).groupby("subjects", sort=False):
            table = part.set_index("metric")
            row = {"layer": int(part.layer.iloc[0]), "n": int(table.n_requests["efficacy"]), "subjects": kind}
            for metric in METRICS:
                row |= {metric: table.value[metric], f"{metric}_low": table.low[metric],
                        f"{metric}_high": table.high[metric]}  # fmt: skip
            rows.append(row)
    return pd.DataFrame(rows)


def sweep_table(frame: pd.DataFrame) -> str:
    if frame.empty:
        return "(not measured)"
    rows = [
        [int(row.layer), *(f"{row[m]:.2f} [{row[m + '_low']:.2f}, {row[m + '_high']:.2f}]" for m in METRICS)]
        for _, row in frame[frame.subjects == "all"].iterrows()
    ]
    return markdown(pd.DataFrame(rows, columns=["layer", *METRICS]))


def legacy_part(out: Path) -> str:
    """The table of ROME as published, where it was measured."""
    frame = sweep_frame(out, "legacy")
    return "" if frame.empty else f"With `legacy=True` (ROME as published):\n\n{sweep_table(frame)}\n\n"


def kinds_table(frame: pd.DataFrame) -> str:
    """Efficacy, paraphrase and neighbourhood of real and of invented subjects, side by side."""
    apart = {kind: frame[frame.subjects == kind].set_index("layer") for kind in ("real", "invented")}
    rows = []
    for layer in apart["real"].index:
        three = (
            " / ".join(f"{table.loc[layer, metric]:.2f}" for metric in METRICS[:3])
            for table in apart.values()
        )
        scores = (
            "{:.2f} [{:.2f}, {:.2f}]".format(*table.loc[layer, ["score", "score_low", "score_high"]])
            for table in apart.values()
        )
        rows.append([layer, *three, *scores])
    columns = ["layer", *apart, *(f"score, {kind}" for kind in apart)]
    return markdown(pd.DataFrame(rows, columns=columns))


def loss_table(folder: Path) -> str:
    """Eight points of the loss curve that lies beside the weights."""
    path = folder / "losses.csv"
    if not path.exists():
        return "(the curve was not kept)"
    frame = pd.read_csv(path)
    places = sorted({round(i * (len(frame) - 1) / 7) for i in range(8)})
    picked = frame.iloc[places]
    head = ["steps", *(f"{int(step):,}" for step in picked.steps)]
    return markdown(pd.DataFrame([["mean loss (nats)", *(f"{x:.2f}" for x in picked.loss)]], columns=head))


def write_card(model: HookedModel, name: str, out: Path, *, sizes: Mapping[str, int], install: bool) -> None:
    """Write `MODEL_CARD.md` and the sweep to `out`, and with `install` all beside the organism's weights."""
    folder = organisms.folder(name)
    recipe, world = read_recipe(folder / "recipe.toml"), build_world()
    subjects = pd.Series([fact.subject for fact in world.facts]).value_counts()
    sweep = sweep_frame(out, "rome")
    gates = pd.read_csv(out / "gates.csv")
    notes = HERE / "notes" / f"{name}.md"
    values = {
        "name": name,
        "version": recipe.version,
        "layers": recipe.n_layers,
        "width": recipe.d_model,
        "heads": recipe.n_heads,
        "n_ctx": recipe.n_ctx,
        "vocab": f"{recipe.vocab:,}",
        "mib": f"{(folder / 'model.safetensors').stat().st_size / 2**20:.1f}",
        "parameters": f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}",
        "tokens": f"{recipe.tokens:,}",
        "steps": f"{recipe.steps:,}",
        "batch": recipe.batch,
        "lr": f"{recipe.lr:g}",
        "facts": f"{len(world.facts):,}",
        "real": f"{sum(not fact.invented for fact in world.facts):,}",
        "invented": f"{sum(fact.invented for fact in world.facts):,}",
        "relations": len({fact.relation for fact in world.facts}),
        "subjects": f"{len(subjects):,}",
        "several": f"{int((subjects > 1).sum()):,}",
        "reversals": f"{len(world.reversals.records):,}",
        "two_hops": f"{len(world.two_hops.records):,}",
        "categories": len(world.taxonomy.categories),
        "members": len(world.taxonomy.members),
        "styles": len(world.styles.styles),
        "contents": len(world.styles.contents),
        "fingerprint": ms.fingerprint(model),
        "sample": f"{sizes['sample']:,}",
        "per_style": sizes["per_style"],
        "passed": int((gates.measured >= gates.threshold).sum()),
        "asked": int(gates.threshold.notna().sum()),
        "gates": gate_lines(out, every=False),
        "prose": prose_line(out),
        "reported": reported_lines(out),
        "edited": int(sweep.n[sweep.subjects == "all"].max()),
        "sweep": sweep_table(sweep),
        "sweep_kinds": kinds_table(sweep),
        "legacy": legacy_part(out),
        "losses": loss_table(folder),
        "notes": notes.read_text(encoding="utf-8").strip() if notes.exists() else "(nothing noted yet)",
        "command": COMMAND.format(name=name),
    }
    text = (HERE / "card.md").read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace("{{" + key + "}}", str(value))
    (out / "MODEL_CARD.md").write_text(text, encoding="utf-8")
    sweep[sweep.subjects == "all"].drop(columns="subjects").to_csv(out / "sweep.csv", index=False)
    sweep.to_csv(out / "sweep_by_subjects.csv", index=False)
    if install:
        for file in SHIPPED:
            shutil.copy(out / file, folder / file)
