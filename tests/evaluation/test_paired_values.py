"""Edits beside a reference that answers other rows: values of both over the pairs, notes, and infinities."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from mechstyle.evaluation.differences import compare
from mechstyle.evaluation.measure import Metric
from tests.evaluation.test_differences import SHARE, rows_of
from tests.evaluation.test_summaries import EVERYTHING, FEW_REQUESTS, random_rows
from tests.oracles import summary_loop


@pytest.mark.parametrize("seed", range(3))
def test_paired_values_are_those_of_both_sides_on_the_rows_that_both_have(seed: int) -> None:
    theirs = random_rows(seed, holes=False)
    ours = [row | {"success": not row["success"], "nll": row["nll"] / 2} for row in theirs]
    ours, theirs = [row for row in ours if row["request"] > 2], theirs[:-2]
    tables = {"ours": pd.DataFrame(ours), "theirs": pd.DataFrame(theirs)}
    table = compare(tables, EVERYTHING, reference="theirs").set_index(["edit", "metric"])
    rate, other = (summary_loop.mean_of("success", kind) for kind in ("rewrite", "paraphrase"))
    expected = {
        "rate": rate,
        "other": other,
        "both": summary_loop.harmonic_of(rate, other),
        "perplexity": summary_loop.ratio_of("nll", "tokens", exponential=True),
        "loss": summary_loop.ratio_of("nll", "tokens"),
    }
    sides = zip(*summary_loop.paired_groups(ours, theirs), strict=True)
    for column, groups in zip(("paired_value", "paired_reference"), map(list, sides), strict=True):
        for name, statistic in expected.items():
            assert table.loc[("ours", name), column] == pytest.approx(statistic(groups))
    assert table.loc["theirs", ["paired_value", "paired_reference"]].isna().all(axis=None)
    place = table.columns.get_loc("difference_high")
    assert table.columns[place + 1 : place + 3].tolist() == ["paired_value", "paired_reference"]


def test_an_edit_that_lost_its_hard_requests_stands_beside_the_reference_on_the_easy_ones_alone() -> None:
    tables = {"before": rows_of([1] * 5 + [0] * 5), "lossy": rows_of([1] * 5)}
    table = compare(tables, [SHARE], reference="before").set_index("edit")
    assert table["value"].to_dict() == {"before": 0.5, "lossy": 1.0}
    row = table.loc["lossy"]
    assert row[["paired_value", "paired_reference", "difference"]].tolist() == [1, 1, 0]
    assert "left out: 5 requests and 5 rows without a partner" in row["note"]


def test_notes_on_a_value_and_on_its_difference_are_said_once() -> None:
    tables = {"none": rows_of([0, 0, 1]), "good": rows_of([1, 1, 1])}
    row = compare(tables, [SHARE], reference="none").set_index("edit").loc["good"]
    assert row["note"] == f"{FEW_REQUESTS}; no width: all agree"


@pytest.mark.parametrize("theirs", [1.0, math.inf])
def test_where_a_request_is_infinite_there_is_no_p_value_and_the_other_metrics_keep_theirs(
    theirs: float,
) -> None:
    ours = rows_of([1, 1, 1]).assign(nll=[math.inf, 2.0, 3.0])
    tables = {"ours": ours, "theirs": rows_of([0, 0, 0]).assign(nll=[theirs, 1.0, 1.0])}
    nats = Metric("nats", "nll", "nats")
    table = compare(tables, [nats, SHARE], reference="theirs").set_index(["edit", "metric"]).loc["ours"]
    assert np.isnan(table.loc["nats", "p"])
    assert "no interval: a value is not finite" in table.loc["nats", "note"]
    assert table.loc["share", "p"] == 0.25
