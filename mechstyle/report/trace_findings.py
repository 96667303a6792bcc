"""What many traces show, in plain sentences, with what they do not show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from mechstyle.plot.panels import kind_name
from mechstyle.report.findings import NOTHING, number
from mechstyle.tracing.aggregate import CAVEAT
from mechstyle.tracing.compare_prompts import PromptComparison
from mechstyle.tracing.kinds import PARTS

if TYPE_CHECKING:  # the study imports the reports
    from mechstyle.study.localisation import LocalisationCheck

__all__ = ["localisation_finding", "prompts_finding", "settings_rows", "trace_findings"]

METRICS = {
    "prob": "the answer’s probability",
    "logprob": "the answer’s log-probability",
    "neg_kl": "minus the KL divergence to the clean run",
}
STREAM = ("resid", "severed_mlp", "severed_attn")
SITES = dict.fromkeys((*STREAM, "mlp"), "last subject token") | {"attn": "last prompt token"}
"""The sites of Meng et al. 2022: of these kinds the peak at this role is said too."""
TRIVIAL = " (there the state holds the answer itself, whatever the fact)"
CHANCE = 0.05


def trace_findings(
    average: pd.DataFrame, totals: pd.DataFrame, settings: Mapping[str, Any], n_traced: int
) -> list[str]:
    """The total effect, the largest average effect of each kind, and the caveat of Hase et al. 2023.

    Args:
        average: as of ``average_by_role``.
        totals: as of ``total_effects``.
        settings: of one of the traces.

    Example:
        >>> trace_findings(traces.average(), total_effects(traces), traces[0].settings, len(traces))[0]
    """
    metric = METRICS.get(str(settings.get("metric")), f"the metric ({settings.get('metric')})")
    over = f"averaged over {n_traced} facts" if n_traced > 1 else "for this fact"
    total = totals.loc["total effect"]
    clean, corrupted = (float(totals.loc[name, "mean"]) for name in ("clean", "corrupted"))
    found = [
        f"The corruption takes {metric} from {number(clean)} to {number(corrupted)}, {over}: a total effect "
        f"of {_interval(total)}."
    ]
    if float(total["low"]) <= 0 <= float(total["high"]):
        found.append(
            "That interval holds 0: there is nothing to recover, and the maps show noise. Do not read them."
        )
    for kind in dict.fromkeys(average["kind"]):
        rows = average[average["kind"] == kind]
        found.append(_peak(rows, kind, float(total["mean"]), best="anywhere"))
        site = SITES.get(str(kind))
        at = rows[rows["role"] == site]
        if not at.empty and rows.loc[rows["mean"].idxmax(), "role"] != site:
            found.append(_peak(at, kind, float(total["mean"]), best="there"))
    return [*found, f"What a trace does not tell: {CAVEAT[0].lower()}{CAVEAT[1:]}"]


def settings_rows(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was traced and how, as names and values for a table.

    Example:
        >>> settings_rows(trace.settings)[0]
        ('metric', 'prob')
    """
    noise = settings.get("noise")
    rows: list[tuple[str, Any]] = [
        ("kinds of state", "; ".join(map(kind_name, settings.get("kinds", ())))),
        ("metric", settings.get("metric")),
        ("answer", {"target": "the fact’s target"}.get(settings["answer_source"], settings["answer_source"])
         if "answer_source" in settings else None),
        ("direction", settings.get("direction")),
        ("method", settings.get("method")),
        ("corruption", _corruption(noise) if isinstance(noise, Mapping) else None),
        ("draws of each fact", settings.get("samples")),
        ("layers in a window of MLP or attention outputs", settings.get("window")),
        ("layer of the neurons", settings.get("neuron_layer")),
        ("receivers", ", ".join(map(str, settings.get("receivers") or ()))),
        ("BOS in front", "yes" if settings.get("prepend_bos") else "no"),
        ("active edits", ", ".join(map(str, settings.get("active_edits") or ()))),
    ]  # fmt: skip
    return [(name, str(value)) for name, value in rows if value not in (None, "")]


def prompts_finding(comparison: PromptComparison) -> str:
    """Whether any distance between prompts goes with the distance between traces.

    Example:
        >>> prompts_finding(compare_prompts(traces))
        'No distance between prompts goes with ...'
    """
    table = comparison.mantel.dropna()
    n, tested = len(comparison.facts), len(table)
    close = table[table["p"] <= CHANCE / max(tested, 1)]
    if close.empty:
        return (
            f"No distance between prompts goes with the distance between their traces beyond chance, over "
            f"{n} facts ({tested} tests, each at p ≤ {number(CHANCE / max(tested, 1))})."
        )
    listed = [
        f"{name} (rank correlation {number(float(row['r']))}, p = {number(float(row['p']))})"
        for name, row in close.sort_values("r", ascending=False).iterrows()
    ]
    return (
        f"Facts with similar prompts have similar traces, over {n} facts, by: {'; '.join(listed)}. "
        f"{tested} distances were tested, each at p ≤ {number(CHANCE / max(tested, 1))}."
    )


def localisation_finding(check: LocalisationCheck) -> str:
    """How much of edit success the layer explains, and what the traces add.

    Example:
        >>> localisation_finding(check)  # doctest: +SKIP
    """
    parts = []
    for kind in check.kinds:
        table = check.variance_explained(kind)
        ranks = check.ranks(kind)["rank"]
        alone, added = table.loc["effect"], table.loc["added"]
        parts.append(
            f"The trace of the {kind_name(kind)} alone explains {alone['r2']:.1%}; it adds {added['r2']:.2%} "
            f"to the layer (p = {number(float(added['p']))}). The best layer of a fact stands at rank "
            f"{ranks.mean():.1f} of its trace on average, where chance is {(len(check.layers) + 1) / 2:.1f}."
        )
    layer = check.variance_explained(check.kinds[0]).loc["layer"]
    return (
        f"{check.n_facts} facts were edited at {len(check.layers)} layers each. The layer alone explains "
        f"{layer['r2']:.1%} [{layer['low']:.1%}, {layer['high']:.1%}] of the variance of edit success. "
        + " ".join(parts)
    )


def _peak(rows: pd.DataFrame, kind: str, total: float, *, best: str) -> str:
    """One sentence about the largest mean of these rows."""
    peak = rows.loc[rows["mean"].idxmax()]
    part = next(
        (f", {name.replace('_', '-')} {int(peak[name])}" for name in PARTS
         if name in rows.columns and pd.notna(peak[name])),
        "",
    )  # fmt: skip
    share = f", {peak['mean'] / total:.0%} of the total effect" if total > 0 else ""
    where = f"the {peak['role']}, layer {int(peak['layer'])}{part}"
    name = kind_name(kind)
    head = f"{name[0].upper()}{name[1:]}: " if best == "anywhere" else f"At the {peak['role']}: "
    body = (
        f"the largest average effect is {_interval(peak)}{share}, at {where}"
        + (TRIVIAL if kind in STREAM and peak["role"] == "last prompt token" else "")
        if best == "anywhere"
        else f"at most {_interval(peak)}{share}, at layer {int(peak['layer'])}{part}"
    )
    if total > 0 and peak["mean"] / total < NOTHING:
        return f"{head}{body}: next to nothing."
    if pd.isna(peak["low"]):
        return f"{head}{body}; it has no interval, so that it may be chance."
    return f"{head}{body}." if peak["low"] > 0 else f"{head}{body}; the interval holds 0."


def _interval(row: pd.Series) -> str:
    if pd.isna(row["low"]):  # one draw of one fact
        return number(float(row["mean"]))
    return f"{number(float(row['mean']))} [{number(float(row['low']))}, {number(float(row['high']))}]"


def _corruption(noise: Mapping[str, Any]) -> str:
    """The rule and its numbers; records within it, such as that of the reference subjects, are left out."""
    plain = {
        name.replace("_", " "): f"{value:.4g}" if isinstance(value, float) else str(value)
        for name, value in noise.items()
        if value is not None and not isinstance(value, Mapping | list) and name not in ("rule", "sha256")
    }
    return "; ".join([str(noise.get("rule", "")), *(f"{name} {value}" for name, value in plain.items())])
