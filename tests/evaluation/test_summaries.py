"""Summaries of rows of any measurement: by hand, against plain loops, and what is undefined."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mechstyle.errors import InputError, RangeError
from mechstyle.evaluation.intervals import METRICS
from mechstyle.evaluation.macro_average import macro_average
from mechstyle.evaluation.measure import AnyMetric, Harmonic, Metric
from mechstyle.evaluation.summaries import by_relation, summarise_rows
from tests.oracles import summary_loop

RATE = Metric("rate", "success", "probability comparison", "rewrite")
OTHER = Metric("other", "success", "probability comparison", "paraphrase")
BOTH = Harmonic("both", (RATE, OTHER), "harmonic mean of rate, other")
PERPLEXITY = Metric("perplexity", "nll", "perplexity", weight="tokens", exponential=True, better="lower")
LOSS = Metric("loss", "nll", "nats a token", weight="tokens")
EVERYTHING = (RATE, OTHER, BOTH, PERPLEXITY, LOSS)
FEW_REQUESTS = "fewer than 30 requests: the interval is too narrow"


def random_rows(seed: int, n_requests: int = 9, *, holes: bool = True) -> list[dict[str, Any]]:
    """Requests with different numbers of rows; some values are missing."""
    rng = np.random.default_rng(seed)
    rows = []
    for request in range(n_requests):
        for place in range(1 + int(rng.integers(5))):
            rows.append(
                {
                    "request": request,
                    "relation": [None, "P1", "P2"][request % 3],
                    "kind": "rewrite" if place == 0 else "paraphrase",
                    "item": f"prompt {place}",
                    "success": None if holes and rng.random() < 0.1 else bool(rng.random() < 0.6),
                    "nll": float(rng.random() * 20),
                    "tokens": int(1 + rng.integers(9)),
                }
            )
    return rows


def test_requests_are_summed_up_first_and_a_ratio_is_of_all_rows_by_hand() -> None:
    rows = pd.DataFrame(
        {
            "request": [0, 0, 0, 1],
            "success": [1, 1, 0, 0],
            "nll": [1.0, 2.0, 3.0, 14.0],
            "tokens": [1, 1, 1, 7],
        }
    )
    share = Metric("share", "success", "share")
    table = summarise_rows(rows, [share, LOSS, PERPLEXITY])
    assert table["value"].tolist() == pytest.approx([(2 / 3 + 0) / 2, 20 / 10, math.exp(2)])
    assert table["n"].tolist() == [2, 2, 2]
    assert set(table["unit"]) == {"request"}
    # Of two requests the resamples are both, or one of them twice: the edges are those of each alone.
    assert table.loc["share", ["low", "high"]].tolist() == pytest.approx([0, 2 / 3])
    assert table.loc["loss", ["low", "high"]].tolist() == pytest.approx([2, 2])


def test_rows_without_a_request_count_one_by_one() -> None:
    rows = pd.DataFrame({"request": [None] * 4, "success": [1, 1, 0, 0]})
    share = Metric("share", "success", "share")
    for frame in (rows, rows.drop(columns="request")):
        row = summarise_rows(frame, [share]).loc["share"]
        assert (row["value"], row["n"], row["unit"]) == (0.5, 4, "item")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("by_request", [True, False])
def test_values_and_intervals_are_those_of_a_plain_loop(seed: int, by_request: bool) -> None:
    rows = random_rows(seed)
    if not by_request:
        rows = [{name: value for name, value in row.items() if name != "request"} for row in rows]
    table = summarise_rows(pd.DataFrame(rows), EVERYTHING, ci=0.8, resamples=200, seed=seed)
    rate, other = (summary_loop.mean_of("success", kind) for kind in ("rewrite", "paraphrase"))
    expected = {
        "rate": rate,
        "other": other,
        "both": summary_loop.harmonic_of(rate, other),
        "perplexity": summary_loop.ratio_of("nll", "tokens", exponential=True),
        "loss": summary_loop.ratio_of("nll", "tokens"),
    }
    groups = summary_loop.groups_of(rows)
    for name, statistic in expected.items():
        low, high = summary_loop.interval(groups, statistic, 0.8, 200, seed)
        found = table.loc[name, ["value", "low", "high"]].tolist()
        assert found == pytest.approx([statistic(groups), low, high])


def test_all_27_resamples_of_three_requests_give_the_interval() -> None:
    """With many draws the quantiles are those of the exact distribution over all resamples."""
    rows = pd.DataFrame({"request": [0, 1, 2], "success": [0.0, 0.3, 1.0]})
    row = summarise_rows(rows, [Metric("share", "success", "share")], ci=0.5, resamples=20000).loc["share"]
    means = np.sort([np.mean(one) for one in np.array(np.meshgrid(*[[0.0, 0.3, 1.0]] * 3)).reshape(3, -1).T])
    assert [row["low"], row["high"]] == pytest.approx([means[6], means[20]])


def test_the_order_of_rows_does_not_matter() -> None:
    rows = pd.DataFrame(random_rows(3, 20))
    shuffled = rows.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(summarise_rows(rows, EVERYTHING), summarise_rows(shuffled, EVERYTHING))


def test_no_rows_one_cluster_and_missing_values_are_said() -> None:
    empty = summarise_rows(pd.DataFrame(), [RATE, PERPLEXITY, BOTH])
    assert empty["value"].isna().all()
    assert empty["n"].tolist() == [0, 0, 0]
    assert empty["note"].tolist() == [
        "undefined: no rewrite prompts",
        "undefined: no rows",
        "undefined: no rewrite prompts and no paraphrase prompts",
    ]
    one = pd.DataFrame({"kind": ["rewrite", "paraphrase"], "request": [4, 4], "success": [True, None]})
    table = summarise_rows(one, [RATE, OTHER])
    assert table.loc["rate", ["value", "n", "note"]].tolist() == [1, 1, "no interval: one request"]
    assert table.loc["other", "note"] == "undefined: no values of success"
    assert table[["low", "high"]].isna().all(axis=None)
    alone = summarise_rows(one.drop(columns="request"), [RATE])
    assert alone.loc["rate", "note"] == "no interval: one item"


def test_where_all_agree_the_interval_has_no_width_not_even_by_rounding() -> None:
    rows = pd.DataFrame({"request": range(7), "nll": [0.1] * 7, "tokens": [3] * 7})
    row = summarise_rows(rows, [LOSS]).loc["loss"]
    assert row["low"] == row["high"] == row["value"] == 0.1 / 3
    assert row["note"] == f"{FEW_REQUESTS}; no width: all agree"


@pytest.mark.parametrize("n", [2, 29, 30])
def test_intervals_of_fewer_than_thirty_clusters_are_called_too_narrow_by_the_name_of_what_they_are_of(
    n: int,
) -> None:
    rows = pd.DataFrame({"request": range(n), "relation": map(str, range(n)), "success": [1, *[0] * (n - 1)]})
    share = Metric("share", "success", "share")
    found = {
        "requests": summarise_rows(rows, [share]),
        "items": summarise_rows(rows.drop(columns="request"), [share]),
        "relations": macro_average(rows, [share]),
    }
    for units, table in found.items():
        wanted = f"fewer than 30 {units}: the interval is too narrow" if n < 30 else ""
        assert table.loc["share", "note"] == wanted


def test_thirty_requests_that_agree_have_an_interval_without_width_and_one_that_does_not_gives_it_one() -> (
    None
):
    share = Metric("share", "success", "share")
    rows = pd.DataFrame({"request": range(30), "success": 1})
    assert summarise_rows(rows, [share]).loc["share", "note"] == "no width: all agree"
    rows.loc[0, "success"] = 0
    row = summarise_rows(rows, [share]).loc["share"]
    assert (row["low"] < row["high"], row["note"]) == (True, "")
    once = summarise_rows(rows, [share], resamples=1).loc["share"]
    assert (once["low"] == once["high"], once["note"]) == (True, ""), "one resample agrees with itself"


def test_an_infinite_value_has_no_interval_and_leaves_the_other_metrics_alone() -> None:
    rows = pd.DataFrame({"request": range(5), "nll": [1.0, math.inf, 1, 1, 1], "success": [1, 0, 1, 1, 0]})
    rows["tokens"] = 1
    share = Metric("share", "success", "share")
    table = summarise_rows(rows, [PERPLEXITY, share])
    assert table.loc["perplexity", "value"] == math.inf
    assert table.loc["perplexity", "note"] == "no interval: a value is not finite"
    assert table.loc["share", "low"] < 0.6 < table.loc["share", "high"]
    rows["nll"] = 1e6
    assert summarise_rows(rows, [PERPLEXITY]).loc["perplexity", "value"] == math.inf


def test_a_summary_by_relation_is_that_of_the_relations_rows_alone() -> None:
    rows = pd.DataFrame(random_rows(1))
    table = by_relation(rows, EVERYTHING, ci=0.9, resamples=100, seed=2)
    assert table.columns.tolist()[:3] == ["relation", "metric", "value"]
    assert table["relation"].unique().tolist() == ["(none)", "P1", "P2"]
    for relation, part in table.groupby("relation"):
        own = rows[rows["relation"].fillna("(none)") == relation]
        expected = summarise_rows(own, EVERYTHING, ci=0.9, resamples=100, seed=2)
        pd.testing.assert_frame_equal(part.drop(columns="relation").set_index("metric"), expected)
    assert by_relation(rows, [RATE], by="kind")["kind"].tolist() == ["paraphrase", "rewrite"]
    assert len(by_relation(pd.DataFrame(), [RATE])) == 0


def test_in_a_macro_average_each_relation_counts_once() -> None:
    rows = pd.DataFrame(
        {
            "request": range(6),
            "relation": ["P1"] * 5 + ["P2"],
            "kind": "rewrite",
            "success": [1, 1, 1, 1, 0, 0],
            "nll": [2.0, 2, 2, 2, 2, 1],
            "tokens": 1,
        }
    )
    table = macro_average(rows, [RATE, LOSS, PERPLEXITY])
    assert table["value"].tolist() == pytest.approx([0.4, 1.5, (math.exp(2) + math.exp(1)) / 2])
    assert table.loc["rate", ["n", "unit"]].tolist() == [2, "relation"]
    assert table.loc["rate", ["low", "high"]].tolist() == pytest.approx([0, 0.8])
    both = macro_average(rows.assign(kind=["paraphrase"] * 3 + ["rewrite"] * 3), [BOTH]).loc["both"]
    assert both["value"] == pytest.approx(1 / ((1 / 1 + 1 / 0.25) / 2))
    assert both["n"] == 1


@pytest.mark.parametrize("shape", ["exact", "generated"])
def test_scores_by_exact_match_and_by_free_generation_are_harmonic_means_of_their_own_rates(
    shape: str,
) -> None:
    rows = pd.DataFrame(
        {
            "request": [0, 1, 0, 1, 0, 1],
            "kind": ["rewrite"] * 2 + ["paraphrase"] * 2 + ["neighborhood"] * 2,
            f"{shape}_new": [1, 1, 1, 0, 0, 0],
            f"{shape}_true": [0, 0, 0, 0, 1, 0],
        }
    )
    metrics = [metric for metric in METRICS if metric.name.endswith(f"_{shape}")]
    table = summarise_rows(rows, metrics)
    assert table["value"].tolist() == pytest.approx([1, 0.5, 0.5, 0.6])
    assert table.index[-1] == f"score_{shape}"
    label = {"exact": "exact match (teacher-forced)", "generated": "free generation"}[shape]
    assert all(label in measure for measure in table["measure"])


def test_token_accuracy_is_of_the_new_answer_in_scope_and_of_the_own_one_in_the_neighbourhood() -> None:
    kinds = ["rewrite", "paraphrase", "neighborhood"]
    rows = pd.DataFrame({"request": 0, "kind": kinds, "accuracy_new": [0.1, 0.2, 0.3]})
    rows["accuracy_true"] = [0.4, 0.5, 0.6]
    table = summarise_rows(rows, [metric for metric in METRICS if metric.name.endswith("_accuracy")])
    assert table["value"].tolist() == [0.1, 0.2, 0.6]
    assert set(table["measure"]) == {"token accuracy (teacher-forced)"}


def test_every_metric_of_scores_has_a_name_of_its_own_and_says_what_it_measures() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS) == 18
    assert all(metric.measure for metric in METRICS)


@pytest.mark.parametrize(
    ("change", "metrics", "error", "message"),
    [
        (
            {},
            [Metric("share", "acuracy", "share")],
            InputError,
            "share: expected rows with the column 'acuracy'",
        ),
        ({"kind": None}, [RATE, RATE], InputError, "metrics: expected each name once, got 'rate' twice"),
        (
            {"request": [0, None]},
            [RATE],
            InputError,
            "expected a request in every row or in none, but 1 of 2",
        ),
        ({"success": ["yes", "no"]}, [RATE], InputError, "rate: expected numbers in .* 'success', got 'yes'"),
        (
            {"tokens": [1, -1]},
            [LOSS],
            RangeError,
            "loss: expected weights of 0 or more in .* 'tokens', got -1",
        ),
    ],
)
def test_rows_that_cannot_be_summed_up_are_refused_by_name(
    change: dict[str, Any], metrics: list[AnyMetric], error: type[Exception], message: str
) -> None:
    rows = pd.DataFrame(
        {"request": [0, 1], "kind": "rewrite", "success": [1, 0], "nll": [1.0, 1.0], "tokens": [1, 1]}
    )
    with pytest.raises(error, match=message):
        summarise_rows(rows.assign(**change), metrics)


def test_shares_resamples_and_columns_out_of_range_are_refused_even_without_rows() -> None:
    with pytest.raises(RangeError, match="ci: expected a share between 0 and 1"):
        summarise_rows(pd.DataFrame(), [RATE], ci=95)
    with pytest.raises(RangeError, match="resamples: expected at least 1, got 0"):
        summarise_rows(pd.DataFrame(), [RATE], resamples=0)
    with pytest.raises(InputError, match="by: expected one of the columns request, .*got 'relaton'"):
        by_relation(pd.DataFrame(random_rows(0)), [RATE], by="relaton")


def test_a_thousand_requests_of_thirteen_prompts_are_summed_up_in_well_under_a_second() -> None:
    rng = np.random.default_rng(0)
    kinds = ["rewrite", "paraphrase", "paraphrase"] + ["neighborhood"] * 10
    rows = pd.DataFrame({"request": np.repeat(np.arange(1000), 13), "kind": kinds * 1000})
    for name in ("success", "exact_new", "exact_true", "generated_new", "generated_true"):
        rows[name] = rng.random(len(rows)) < 0.7
    for name in ("magnitude", "accuracy_new", "accuracy_true"):
        rows[name] = rng.random(len(rows))
    took = []
    for _ in range(3):
        start = time.process_time()
        summarise_rows(rows, METRICS)
        took.append(time.process_time() - start)
    assert min(took) < 0.8
