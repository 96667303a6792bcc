"""What a study found, in plain sentences; failures are said as plainly as successes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from mechstyle.report.record import FactResult, Report

__all__ = ["fact_finding", "number", "site_findings"]

HYPHEN = "\u2011"
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
VISIBLE = 5e-3
"""Probabilities that differ by less are said to be the same."""
NOTHING = 0.05
"""An effect below this share of the total effect is called nothing."""


def fact_finding(fact: FactResult, layer: int) -> str:
    """One sentence or two about one fact: what was written, and what came of it."""
    request = fact.request
    rewrite = fact.frame[fact.frame["kind"] == "rewrite"].set_index("stage")
    new, true = (float(rewrite.loc["after", column]) for column in ("p_new", "p_true"))
    was = float(rewrite.loc["before", "p_new"])
    old, wanted = request.fact.target.strip(), request.new_target.strip()
    move = "raises" if new > was + VISIBLE else "lowers" if new < was - VISIBLE else "hardly moves"
    change = f"{move} the probability of “{wanted}” ({number(was)} before, {number(new)} after)"
    head = (
        f"“{request.fact.prompt}” → “{wanted}” instead of “{old}”: one rank{HYPHEN}1 write at layer {layer}"
    )
    if new > true:
        body = (
            f"{head} {change}; “{old}” falls to {number(true)}." if move == "raises" else f"{head} {change}."
        )
    else:
        body = f"{head} fails: it {change}, and “{old}” stays ahead with {number(true)}."
    parts = [body, *_counts(fact.frame)]
    if not fact.trace.knows:
        said = fact.completions[0].before.strip()
        parts.append(
            f"The model did not know this fact: it continued “{said}” before the edit, so its trace does not "
            "show where the fact is kept."
        )
    return " ".join(parts)


def site_findings(report: Report) -> list[str]:
    """What the traces show of the two sites of Meng et al. 2022: MLP at the subject, attention at the end."""
    total = sum(float(fact.trace.total_effect()) for fact in report.facts) / len(report.facts)
    found = []
    if total <= 0:
        return [
            f"Corrupting the subject does not lower the answer’s probability (total effect {number(total)}): "
            "nothing can be recovered, and the traces do not show where the fact is kept."
        ]
    for kind, role, site, absent in (
        ("mlp", "last subject token", "MLP outputs at the subject’s last token", "early MLP site"),
        ("attn", "last prompt token", "attention outputs at the prompt’s last token", "late attention site"),
    ):
        rows = report.roles[(report.roles["kind"] == kind) & (report.roles["role"] == role)]
        if rows.empty:
            continue
        peak = rows.loc[rows["mean"].idxmax()]
        share = peak["mean"] / total
        bounds = f"[{number(peak['low'])}, {number(peak['high'])}]"
        over = f"averaged over {len(report.facts)} facts" if len(report.facts) > 1 else "for this fact"
        if share < NOTHING:
            found.append(
                f"Restoring the {site} recovers next to nothing: at most {number(peak['mean'])} {bounds} of "
                f"a total effect of {number(total)}, {over}. There is no {absent} to be seen here."
            )
        elif peak["low"] <= 0 and len(report.facts) > 1:
            found.append(
                f"Restoring the {site} recovers at most {number(peak['mean'])} {bounds} of a total effect of "
                f"{number(total)}, at layer {int(peak['layer'])}, {over}: too little to be told from nothing "
                "with so few facts."
            )
        else:
            found.append(
                f"Restoring the {site} recovers up to {number(peak['mean'])} {bounds}, {share:.0%} of the "
                f"total effect of {number(total)}, at layer {int(peak['layer'])}, {over}."
            )
    return found


def number(value: float) -> str:
    """A number as a paper prints it: three decimals, or a power of ten when they would show nothing.

    Example:
        >>> number(0.98765), number(2e-05), number(-0.5)
        ('0.988', '2×10⁻⁵', '−0.500')
    """
    if not math.isfinite(value):
        return "–"
    if value != 0 and abs(value) < 5e-4:
        digit, power = f"{value:.0e}".split("e")
        return f"{digit}×10{str(int(power)).translate(SUPERSCRIPT)}".replace("-", "−")
    return f"{value:.3f}".replace("-", "−")


def _counts(frame: pd.DataFrame) -> Sequence[str]:
    """How many paraphrases and neighbours do what they should, and did before when that says something."""
    sentences = []
    for kind, done, usual in (
        ("paraphrase", "paraphrases follow", 0.0),
        ("neighborhood", "neighbouring facts stay", 1.0),
    ):
        rows = frame[frame["kind"] == kind]
        before, after = (rows.loc[rows["stage"] == stage, "success"] for stage in ("before", "after"))
        if len(after):
            aside = "" if before.mean() == usual else f" ({int(before.sum())} did so before the edit)"
            sentences.append(f"{int(after.sum())} of {len(after)} {done}{aside}")
    return [f"{'; '.join(sentences)}."] if sentences else []
