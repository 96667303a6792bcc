"""Verdicts: known answers, and how often they are wrong when it is known what is true."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mechstyle.study.reproduce.published import Figure, PublishedRow, published_row
from mechstyle.study.reproduce.verdict import compare, tolerances, verdict

ROW = published_row("rome-counterfact", "gpt2-xl", "ROME")


def summary(values: dict[str, float], half: float) -> pd.DataFrame:
    lines = {
        name: {"value": value, "low": value - half, "high": value + half} for name, value in values.items()
    }
    return pd.DataFrame.from_dict(lines, orient="index")


@pytest.mark.parametrize(
    ("ours", "low", "high", "said"),
    [
        (0.75, 0.74, 0.76, "reproduced"),
        (0.765, 0.755, 0.775, "reproduced"),
        (0.79, 0.765, 0.80, "cannot tell"),
        (0.75, 0.65, 0.85, "cannot tell"),
        (0.79, 0.78, 0.80, "not reproduced"),
        (0.40, 0.10, 0.70, "not reproduced"),
        (0.75, math.nan, math.nan, "cannot tell"),
    ],
)
def test_verdicts_of_a_figure_of_075_and_a_tolerance_of_002(
    ours: float, low: float, high: float, said: str
) -> None:
    assert verdict(ours, low, high, published=0.75, tolerance=0.02) == said


def test_the_tolerance_of_a_share_is_three_standard_errors_and_the_rounding() -> None:
    found = tolerances(ROW, summary({}, 0), measured=7500)
    p = (7500 * 0.754 + 2) / 7504
    assert found["neighborhood"] == pytest.approx(3 * math.sqrt(p * (1 - p) / 7504) + 0.0005)
    assert 0.0005 < found["efficacy"] < 0.002, "a printed 100 % has an error too"


def test_the_tolerance_of_the_score_is_what_its_parts_can_move_it() -> None:
    found = tolerances(ROW, summary({}, 0), measured=7500)
    parts = {"efficacy": 1.0, "paraphrase": 0.964, "neighborhood": 0.754}
    moved = {name: value - (found[name] - 0.0005) for name, value in parts.items()}
    score, low = (3 / sum(1 / value for value in one.values()) for one in (parts, moved))
    assert found["score"] - 0.0005 == pytest.approx(score - low, rel=0.05)


def test_the_tolerance_of_what_is_no_share_follows_from_our_own_interval() -> None:
    wide = tolerances(ROW, summary({"fluency": 6.2}, half=0.196), measured=1875)
    assert wide["fluency"] == pytest.approx(3 * 0.1 / 2 + 0.0005)
    assert math.isnan(wide["consistency"])


def test_a_given_tolerance_wins() -> None:
    assert tolerances(ROW, summary({}, 0), measured=7500, given={"efficacy": 0.3})["efficacy"] == 0.3


def test_a_row_has_a_line_for_each_printed_figure() -> None:
    ours = {"score": 0.891, "efficacy": 1.0, "paraphrase": 0.966, "neighborhood": 0.70}
    table = compare(ROW, summary(ours, half=0.001), measured=7500, expected=7500).set_index("metric")
    assert dict(table["verdict"]) == {
        "score": "reproduced",
        "efficacy": "reproduced",
        "paraphrase": "reproduced",
        "neighborhood": "not reproduced",
        "fluency": "not measured",
        "consistency": "not measured",
    }
    assert table.loc["neighborhood", "difference"] == pytest.approx(0.70 - 0.754)
    assert table.loc["neighborhood", "printed"] == "75.4"
    assert set(table["note"]) == {""}


def test_fewer_records_than_published_cannot_tell_and_say_on_how_many() -> None:
    ours = {"efficacy": 1.0, "neighborhood": 0.2}
    table = compare(ROW, summary(ours, half=0.001), measured=20, expected=7500).set_index("metric")
    assert table.loc["efficacy", "note"] == "on 20 of 7500 records; so far inside the tolerance"
    assert table.loc["neighborhood", "note"] == "on 20 of 7500 records; so far outside the tolerance"
    assert set(table.loc[["efficacy", "neighborhood"], "verdict"]) == {"cannot tell"}


def test_an_unknown_number_of_records_is_taken_as_ours_and_said() -> None:
    row = replace(ROW, records=None)
    table = compare(row, summary({"efficacy": 1.0}, half=0.001), measured=400).set_index("metric")
    assert table.loc["efficacy", "note"] == "the paper's number of records is not known: taken as ours"
    wider = tolerances(row, summary({}, 0), measured=400)
    assert wider["neighborhood"] > 3 * tolerances(ROW, summary({}, 0), measured=400)["neighborhood"]


def test_the_same_editor_is_seldom_called_not_reproduced_and_another_one_never_reproduced() -> None:
    generator = np.random.default_rng(0)
    n, said = 2000, {"same": [], "worse": []}
    for _ in range(150):
        printed = round(100 * float(generator.binomial(n, 0.79)) / n, 1)
        row = PublishedRow(
            "t", "t", "s", "m", "e", (Figure("efficacy", printed, 100.0, 1, "efficacy", "share"),), n
        )
        for name, rate in (("same", 0.79), ("worse", 0.72)):
            ours = float(generator.binomial(n, rate)) / n
            half = 1.96 * math.sqrt(ours * (1 - ours) / n)
            said[name].append(
                compare(row, summary({"efficacy": ours}, half), measured=n, expected=n)["verdict"][0]
            )
    assert said["same"].count("reproduced") > 0.95 * 150
    assert said["same"].count("not reproduced") <= 1
    assert "reproduced" not in said["worse"]
