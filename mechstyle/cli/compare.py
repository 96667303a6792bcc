"""``mechstyle compare``: traces of many facts, across prompts or across models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mechstyle.cli.options import Json, Quiet, Seed
from mechstyle.cli.output import emit
from mechstyle.cli.tables import write_summary, write_table
from mechstyle.errors import InputError
from mechstyle.files import atomic_write
from mechstyle.plain_json import plain_json

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

__all__ = ["compare"]

SUMMARY = "summary.json"
SITES = ("last subject token", "last prompt token")
"""Roles that are drawn; all, where the traces have none of them."""

compare = typer.Typer(
    name="compare",
    help="Compare traces of many facts, as `mechstyle trace --dataset` leaves them: prompts, or models.",
    rich_markup_mode=None,
)

Out = Annotated[Path, typer.Option("--out", help="Folder for the figure, tables and summary.json.")]
Kinds = Annotated[str | None, typer.Option("--kinds", help="Of these kinds only, with commas between.")]


@compare.command()
def prompts(
    folder: Annotated[Path, typer.Argument(help="Traces of many facts by one model.")],
    out: Out,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="The traced model, for distances between its embeddings too."),
    ] = None,
    layer: Annotated[
        int | None, typer.Option("--layer", help="Of the hidden states to compare; the middle one.")
    ] = None,
    kinds: Kinds = None,
    measure: Annotated[
        str, typer.Option("--measure", help="Of the distance between traces: correlation or rms.")
    ] = "correlation",
    permutations: Annotated[int, typer.Option("--permutations", help="Of each test.")] = 9999,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Do similar prompts trace alike? Distances between traces against distances between prompts.

    Writes OUT/figure.html (a clustered map), mantel.csv (a permutation test a distance), groups.csv (within
    and between relations), pairs.csv, order.csv (of the map) and summary.json.
    """
    if layer is not None and model is None:
        raise InputError("--layer: hidden states are read from a model; name it by --model.")
    import pandas as pd

    from mechstyle import plot
    from mechstyle.models import load_model
    from mechstyle.outputs import output_folder
    from mechstyle.tracing.compare_prompts import compare_prompts
    from mechstyle.tracing.trace_set import TraceSet

    traces = TraceSet.load(folder)
    place = output_folder(out)
    found = compare_prompts(
        traces,
        model=None if model is None else load_model(model),
        layer=layer,
        kinds=_kinds(kinds),
        measure=measure,  # type: ignore[arg-type]  # it is checked there
        permutations=permutations,
        seed=seed,
    )
    order = [{"fact": index, "prompt": found.facts[index].prompt} for index in found.order]
    tables = {
        "mantel": found.mantel,
        "groups": found.groups,
        "pairs": found.pairs,
        "order": pd.DataFrame(order),
    }
    lines = [f"{name}: r = {row['r']:+.3f}, p = {row['p']:.4g}" for name, row in found.mantel.iterrows()]
    summary = {"facts": len(found.facts), "measure": measure, "mantel": _rows(found.mantel)}
    whole = {**summary, "groups": _rows(found.groups)}
    _finish(place, plot.compare_prompts(found), tables, whole, lines, as_json=as_json)


@compare.command()
def models(
    named: Annotated[list[str], typer.Argument(metavar="NAME=FOLDER...", help="Traces of each model.")],
    out: Out,
    kinds: Kinds = None,
    share: Annotated[
        bool, typer.Option("--share", help="Effects as a share of each model's average total effect.")
    ] = False,
    points: Annotated[int, typer.Option("--points", help="Of the common grid of depths.")] = 21,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Where do several models recall facts? Average effects by relative depth and token role.

    Writes OUT/figure.html, curves.csv, peaks.csv, similarity.csv and summary.json.
    """
    folders = _named(named)

    from mechstyle import plot
    from mechstyle.outputs import output_folder
    from mechstyle.tracing.compare_models import compare_models
    from mechstyle.tracing.trace_set import TraceSet

    sets = {name: TraceSet.load(folder) for name, folder in folders.items()}
    place = output_folder(out)
    found = compare_models(sets, kinds=_kinds(kinds), points=points, share=share, seed=seed)
    tables = {"curves": found.curves, "peaks": found.peaks, "similarity": found.similarity}
    best = found.peaks.loc[found.peaks.groupby(["model", "kind"], sort=False)["effect"].idxmax()]
    lines = [
        f"{row['model']}, {row['kind']}: most at the {row['role']}, layer {row['layer']} of "
        f"{row['n_layers']}, depth {row['depth']:.2f} [{row['low']:.2f}, {row['high']:.2f}]: "
        f"{row['effect']:.3f}"
        for _, row in best.iterrows()
    ] + [
        f"{row['model']} and {row['other']}, {row['kind']}: r = {row['r']:.2f} "
        f"[{row['low']:.2f}, {row['high']:.2f}]"
        for _, row in found.similarity.iterrows()
    ]
    summary = {
        "models": {name: len(traces) for name, traces in sets.items()},
        "peaks": best.to_dict("records"),
        "similarity": found.similarity.to_dict("records"),
    }
    sites = [role for role in SITES if role in set(found.curves["role"])]
    figure = plot.compare_models(found, roles=sites or None)
    _finish(place, figure, tables, summary, lines, as_json=as_json)


def _named(pairs: list[str]) -> dict[str, Path]:
    """The folder of each model, by its name."""
    found: dict[str, Path] = {}
    for pair in pairs:
        name, mark, folder = pair.partition("=")
        if not name or not mark or not folder:
            raise InputError(f"expected NAME=FOLDER, such as small=traces/small, got {pair!r}.")
        if name in found:
            raise InputError(f"the name {name!r} is given twice; name each model once.")
        found[name] = Path(folder)
    if len(found) < 2:
        raise InputError("expected at least two models: NAME=FOLDER NAME=FOLDER.")
    return found


def _kinds(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(","))


def _rows(table: pd.DataFrame) -> dict[str, Any]:
    return {str(name): dict(row) for name, row in table.to_dict("index").items()}


def _finish(
    place: Path,
    figure: go.Figure,
    tables: dict[str, pd.DataFrame],
    summary: dict[str, Any],
    lines: list[str],
    *,
    as_json: bool,
) -> None:
    files = {name: str(write_table(table, place / f"{name}.csv")) for name, table in tables.items()}
    files["figure"] = str(place / "figure.html")
    with atomic_write(files["figure"]) as part:
        part.write_text(figure.to_html(include_plotlyjs=True), encoding="utf-8")
    whole = plain_json({"out": str(place), **summary, "files": files})
    write_summary(whole, place / SUMMARY)
    emit(whole, "\n".join([*lines, files["figure"]]), as_json=as_json)
