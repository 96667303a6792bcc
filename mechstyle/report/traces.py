"""The report of traces: many facts, or one, as one HTML file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mechstyle import plot
from mechstyle.errors import InputError
from mechstyle.files import atomic_write
from mechstyle.plot.panels import kind_name
from mechstyle.report.page import figure_element, fill, token_element
from mechstyle.report.trace_findings import (
    localisation_finding,
    prompts_finding,
    settings_rows,
    trace_findings,
)
from mechstyle.tracing.aggregate import average_by_role, total_effects
from mechstyle.tracing.compare_models import ModelComparison
from mechstyle.tracing.compare_prompts import PromptComparison
from mechstyle.tracing.kinds import PARTS
from mechstyle.tracing.logit_lens import LogitLens
from mechstyle.tracing.saliency import Saliency
from mechstyle.tracing.trace import Trace
from mechstyle.tracing.trace_set import TraceSet

if TYPE_CHECKING:  # the study imports the reports
    from mechstyle.study.localisation import LocalisationCheck

__all__ = ["write_trace_report"]

TEMPLATE = "traces.html.j2"
FIRST = 12
"""Facts with maps of their own."""
MOST_ROWS = 200
GRID = ("token", "layer")


def write_trace_report(
    path: str | os.PathLike[str],
    traces: Sequence[Trace],
    *,
    title: str | None = None,
    average: pd.DataFrame | None = None,
    totals: pd.DataFrame | None = None,
    lens: LogitLens | None = None,
    saliency: Saliency | None = None,
    comparison: PromptComparison | ModelComparison | None = None,
    localisation: LocalisationCheck | None = None,
) -> None:
    """Write one HTML file about traces that needs nothing else: what was traced, what it shows, every figure.

    Traces are read one at a time: a `TraceSet` in a folder is never in memory as a whole.

    Args:
        path: of the file; written whole or not at all.
        traces: of one model with the same settings. What a `TraceSet` left out is listed.
        title: None says how many facts were traced in which model.
        average: as of `average_by_role`, and totals as of `total_effects`, where they were computed before.
        lens: of one of the prompts, saliency likewise.
        comparison: of the prompts, or of this model with others.

    Raises:
        InputError: no traces, traces that cannot be averaged, or traces of noising: a report tells what comes
            back, not what is lost.
        FileError: the file cannot be written.

    Example:
        >>> write_trace_report("traces.html", trace_facts(model, facts))  # doctest: +SKIP
    """
    if isinstance(traces, Trace) or len(traces) == 0:
        raise InputError("traces: expected a sequence of one trace or more, such as trace_facts gives.")
    if traces[0].settings.get("direction") == "noising":
        raise InputError(
            "traces: expected states put back (direction='denoising'), got direction='noising'. Look at such "
            "traces with ms.plot.trace and ms.suggest_layers, which know what a loss is."
        )
    average = average_by_role(traces) if average is None else average
    totals = total_effects(traces) if totals is None else totals
    first = traces[0]
    model = PurePath(str(first.provenance["model"])).name
    page = fill(
        TEMPLATE,
        heading=title or f"{_count(len(traces))} traced in {model}",
        model=model,
        provenance=first.provenance,
        n_traced=len(traces),
        findings=trace_findings(average, totals, first.settings, len(traces)),
        rows=settings_rows(first.settings),
        **_skipped(traces),
        lines=_lines(average),
        maps=_maps(average),
        single=_single(first) if len(traces) == 1 else None,
        grids=_grids(traces) if len(traces) > 1 else [],
        facts=_facts(traces) if len(traces) > 1 else [],
        kinds=[kind_name(kind) for kind in first.kinds],
        lens=None if lens is None else _lens(lens),
        saliency=None if saliency is None else _saliency(saliency),
        prompts=_prompts(comparison) if isinstance(comparison, PromptComparison) else None,
        models=_models(comparison) if isinstance(comparison, ModelComparison) else None,
        localisation=None if localisation is None else _localisation(localisation),
        record=json.dumps(first.provenance, indent=2, ensure_ascii=False),
    )
    with atomic_write(path) as part:
        part.write_text(page, encoding="utf-8")


def _count(number: int) -> str:
    return "One fact" if number == 1 else f"{number} facts"


def _skipped(traces: Sequence[Trace]) -> dict[str, Any]:
    """Facts that were left out, by reason, with one of them each."""
    frame = traces.skipped if isinstance(traces, TraceSet) else pd.DataFrame(columns=["reason", "prompt"])
    reasons = [
        {"reason": str(reason), "count": len(rows), "example": _said(rows.iloc[0])}
        for reason, rows in frame.groupby("reason", sort=False)
    ]
    return {"n_skipped": len(frame), "skipped": sorted(reasons, key=lambda one: -one["count"])}


def _said(row: pd.Series) -> str:
    return f"{row['prompt']} →{row.get('target', '')}"


def _lines(average: pd.DataFrame) -> Any:
    """Lines with bands, where a kind has one value a layer."""
    layered = _layered(average)
    return figure_element("average", plot.average(layered)) if len(layered) else None


def _layered(average: pd.DataFrame) -> pd.DataFrame:
    further = [name for name in PARTS if name in average.columns]
    return average[average[further].isna().all(axis=1)] if further else average


def _maps(average: pd.DataFrame) -> list[dict[str, Any]]:
    """Roles by layers, and heads by layers at the two sites of a fact."""
    layered, found = _layered(average), []
    if len(layered):
        caption = "The same as maps, a row a role. Each panel has its own colour scale; white is exactly 0."
        figure = figure_element("average-map", plot.average_map(layered))
        found.append({"title": "", "figure": figure, "caption": caption})
    others = average[~average["kind"].isin(layered["kind"].unique())]
    for kind, rows in others.groupby("kind", sort=False):
        sites = [role for role in ("last subject token", "last prompt token") if role in set(rows["role"])]
        if rows["layer"].nunique() > 1:
            roles = sites or list(rows["role"].unique()[:2])
            figure = figure_element(f"average-{kind}", plot.average_map(rows, kind=str(kind), roles=roles))
            caption = "Average effect of each one alone, layers across; both panels share the scale."
            found.append({"title": kind_name(str(kind)), "figure": figure, "caption": caption})
    return found


def _single(trace: Trace) -> dict[str, Any]:
    layered = [kind for kind in trace.kinds if trace.indirect_effect(kind).dims == GRID]
    kind = "resid" if "resid" in layered else (layered or list(trace.kinds))[0]
    return {
        **_asked(trace),
        "figure": figure_element("trace", plot.trace(trace)),
        "tokens": token_element(plot.tokens(trace, kind=kind)),
        "kind": f" in the {kind_name(kind)}"
        if kind == "resid"
        else f" of a state of the kind {kind_name(kind)}",
    }


def _grids(traces: Sequence[Trace]) -> list[dict[str, Any]]:
    """Small maps of the first facts, for the MLP or else the first kind over tokens and layers."""
    some = list(islice(iter(traces), FIRST))
    layered = [kind for kind in some[0].kinds if some[0].indirect_effect(kind).dims == GRID]
    chosen = [kind for kind in ("mlp", "resid") if kind in layered] or layered[:1]
    shown = f"The first {len(some)} of {len(traces)} facts" if len(some) < len(traces) else "Every fact"
    return [
        {
            "figure": figure_element(f"facts-{kind}", plot.facts(some, kind=kind)),
            "caption": f"{shown}: mean indirect effect of the {kind_name(kind)}, tokens down, layers across. "
            "All maps share one colour scale; the subject’s tokens are bold.",
        }
        for kind in chosen
    ]


def _facts(traces: Iterable[Trace]) -> list[dict[str, Any]]:
    """A row a fact: the metric at both ends, and the peak of each kind."""
    return [
        {
            **_asked(trace),
            "knows": trace.knows,
            "clean": trace.clean,
            "corrupted": float(trace.corrupted.mean()),
            "peaks": [_peak(trace, kind) for kind in trace.kinds],
        }
        for trace in islice(traces, MOST_ROWS)
    ]


def _peak(trace: Trace, kind: str) -> dict[str, Any]:
    effect = trace.indirect_effect(kind)
    place = np.unravel_index(int(effect.values.argmax()), effect.shape)
    where = [str(trace.data["token_str"].values[place[0]]).strip()]
    where += [
        f"{str(axis).replace('_', '-')} {index}"
        for axis, index in zip(effect.dims[1:], place[1:], strict=True)
    ]
    return {"effect": float(effect.values[place]), "where": ", ".join(where)}


def _asked(trace: Trace) -> dict[str, str]:
    settings = trace.settings
    fact = settings.get("fact") or {}
    prompt = str(fact["template"]).replace("{}", str(fact["subject"]), 1) if fact else ""
    return {"prompt": prompt or _clean_prompt(trace), "answer": str(settings.get("answer", "")).strip()}


def _clean_prompt(trace: Trace) -> str:
    return "".join(map(str, trace.data["token_str"].values)).strip()


def _lens(lens: LogitLens) -> dict[str, Any]:
    words = "".join(map(str, lens.data["token_str"].values)).strip()
    answer = str(lens.settings.get("answer", "")).strip()
    return {"title": words, "answer": answer, "figure": figure_element("lens", plot.lens(lens))}


def _saliency(saliency: Saliency) -> dict[str, Any]:
    settings = saliency.settings
    return {
        "title": "".join(map(str, saliency.data["token_str"].values)).strip(),
        "answer": str(settings.get("answer", "")).strip(),
        "method": str(settings["method"]).replace("_", " "),
        "metric": str(settings.get("metric")),
        "view": token_element(plot.saliency(saliency)),
    }


def _prompts(comparison: PromptComparison) -> dict[str, Any]:
    return {
        "finding": prompts_finding(comparison),
        "figure": figure_element("prompts", plot.compare_prompts(comparison)),
        "rows": [{"name": str(name), **row} for name, row in comparison.mantel.to_dict("index").items()],
    }


def _models(comparison: ModelComparison) -> dict[str, Any]:
    peaks = comparison.peaks
    sites = peaks[peaks["role"].isin(["last subject token", "last prompt token"])]
    rows = (sites if len(sites) else peaks).to_dict("records")
    return {
        "figure": figure_element(
            "models", plot.compare_models(comparison, **({} if len(sites) else {"roles": None}))
        ),
        "rows": [{**row, "kind": kind_name(str(row["kind"]))} for row in rows],
    }


def _localisation(check: LocalisationCheck) -> dict[str, Any]:
    left_out = f" {check.skipped} facts that the model does not know were left out." if check.skipped else ""
    return {
        "finding": localisation_finding(check),
        "parts": [
            {
                "figure": figure_element(f"localisation-{kind}", plot.localisation(check, kind=kind)),
                "caption": f"Left, edit success (rewrite score) and the mean effect of restoring the "
                f"{kind_name(kind)} at the subject’s last token, layer by layer, with 95% intervals over "
                f"{check.n_facts} facts. Right, every fact at every layer.{left_out}",
            }
            for kind in check.kinds
        ],
    }
