"""The sentences of the report say what the numbers say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from mechstyle.report import Report
from mechstyle.report.findings import fact_finding, number, site_findings
from mechstyle.tracing.trace import Trace


def with_probabilities(report: Report, *, before: tuple[float, float], after: tuple[float, float]) -> str:
    """The sentence about the second fact, had its rewrite these (P(new), P(true))."""
    fact = report.facts[1]
    frame = fact.frame[fact.frame["kind"] == "rewrite"].copy()
    for stage, (new, true) in (("before", before), ("after", after)):
        frame.loc[frame["stage"] == stage, ["p_new", "p_true"]] = [new, true]
    return fact_finding(replace(fact, frame=frame), report.choice.layer)


def test_an_edit_that_works_is_said_to_raise_the_new_answer(report: Report) -> None:
    sentence = with_probabilities(report, before=(0.01, 0.9), after=(0.95, 0.02))
    assert (
        "raises the probability of “guitar” (0.010 before, 0.950 after); “trumpet” falls to 0.020" in sentence
    )
    assert "fails" not in sentence


def test_an_edit_that_falls_short_is_said_to_fail(report: Report) -> None:
    sentence = with_probabilities(report, before=(0.01, 0.9), after=(0.2, 0.7))
    assert "fails: it raises" in sentence
    assert "“trumpet” stays ahead with 0.700" in sentence


def test_an_edit_without_effect_is_not_said_to_raise_anything(report: Report) -> None:
    assert "hardly moves" in with_probabilities(report, before=(0.01, 0.9), after=(0.011, 0.9))


def test_paraphrases_that_followed_before_the_edit_are_not_claimed_for_it(report: Report) -> None:
    fact = report.facts[0]
    frame = fact.frame.copy()
    frame["success"] = True
    sentence = fact_finding(replace(fact, frame=frame), report.choice.layer)
    assert "1 of 1 paraphrases follow (1 did so before the edit); 2 of 2 neighbouring facts stay." in sentence


def with_effect(report: Report, *, effect: float, low: float, corrupted: float = 0.0) -> Report:
    """The report, had the corrupted runs this probability and both sites this mean effect and lower bound."""
    facts = []
    for fact in report.facts:
        data = fact.trace.data
        flat = ("sample", np.full(data.sizes["sample"], corrupted))
        facts.append(replace(fact, trace=Trace(data.assign_coords(corrupted=flat, clean=((), 0.8)))))
    rows = [
        {
            "kind": kind,
            "role": role,
            "layer": 1,
            "mean": effect,
            "low": low,
            "high": effect,
            "n_facts": 2,
        }
        for kind, role in (("mlp", "last subject token"), ("attn", "last prompt token"))
    ]
    return replace(report, facts=tuple(facts), roles=pd.DataFrame(rows))


def test_an_absent_site_is_said_to_be_absent(report: Report) -> None:
    mlp, attention = site_findings(with_effect(report, effect=0.01, low=0.005))
    assert "recovers next to nothing: at most 0.010 [0.005, 0.010] of a total effect of 0.800" in mlp
    assert "There is no early MLP site to be seen here." in mlp
    assert "There is no late attention site to be seen here." in attention


def test_an_interval_that_holds_zero_is_not_called_an_effect(report: Report) -> None:
    mlp, _ = site_findings(with_effect(report, effect=0.4, low=-0.1))
    assert "too little to be told from nothing with so few facts" in mlp


def test_a_site_is_said_to_recover_its_share_of_the_total_effect(report: Report) -> None:
    mlp, attention = site_findings(with_effect(report, effect=0.4, low=0.2))
    assert "recovers up to 0.400 [0.200, 0.400], 50% of the total effect of 0.800, at layer 1" in mlp
    assert "absent" not in attention


def test_a_corruption_that_lowers_nothing_is_said_to_show_nothing(report: Report) -> None:
    (sentence,) = site_findings(with_effect(report, effect=0.4, low=0.2, corrupted=0.9))
    assert "does not lower" in sentence


def test_numbers_keep_three_decimals_or_a_power_of_ten() -> None:
    assert [number(value) for value in (0.98765, -0.5, 0.0, 2e-5, -3e-12, float("nan"), 12.3456)] == [
        "0.988", "−0.500", "0.000", "2×10⁻⁵", "−3×10⁻¹²", "–", "12.346",
    ]  # fmt: skip
