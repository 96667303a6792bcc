"""Paired differences: by hand, against plain loops, without partners, and scores that cannot be compared."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mechstyle.errors import InputError, RangeError
from mechstyle.evaluation.differences import compare, compare_scores, paired_differences
from mechstyle.evaluation.measure import Metric
from mechstyle.evaluation.scores import Scores
from mechstyle.evaluation.summaries import summarise_rows
from tests.evaluation.test_summaries import (
    BOTH,
    EVERYTHING,
    FEW_REQUESTS,
    LOSS,
    OTHER,
    PERPLEXITY,
    RATE,
    random_rows,
)
from tests.oracles import summary_loop

SHARE = Metric("share", "success", "share")


def rows_of(successes: list[int], **columns: Any) -> pd.DataFrame:
    """A request a row."""
    frame = pd.DataFrame({"request": range(len(successes)), "item": "prompt", "success": successes})
    return frame.assign(**columns)


def test_the_difference_is_that_of_the_values_and_its_interval_that_of_each_requests_difference() -> None:
    ours, theirs = rows_of([1, 1, 0, 1, 0, 1]), rows_of([0, 1, 0, 0, 0, 1])
    row = paired_differences(ours, theirs, [SHARE], seed=5).loc["share"]
    assert row["value"] == pytest.approx(2 / 6)
    assert (row["n"], row["unit"], row["note"]) == (6, "request", FEW_REQUESTS)
    alone = summarise_rows(rows_of([1, 0, 0, 1, 0, 0]), [SHARE], seed=5).loc["share"]
    assert (row["low"], row["high"]) == pytest.approx((alone["low"], alone["high"]))


@pytest.mark.parametrize("seed", range(3))
def test_differences_and_their_intervals_are_those_of_a_plain_loop(seed: int) -> None:
    """Some items and one request have no partner; requests differ in how many items they have."""
    rng = np.random.default_rng(100 + seed)
    theirs = random_rows(seed, holes=False)
    ours = [dict(row) for row in theirs if row["request"] != 4 and (row["request"] % 2 or rng.random() < 0.7)]
    for row in ours:
        row |= {"success": bool(rng.random() < 0.8), "nll": row["nll"] * rng.random()}
    found = paired_differences(
        pd.DataFrame(ours), pd.DataFrame(theirs), EVERYTHING, ci=0.8, resamples=200, seed=seed
    )
    rate, other = (summary_loop.mean_of("success", kind) for kind in ("rewrite", "paraphrase"))
    expected = {
        "rate": rate,
        "other": other,
        "both": summary_loop.harmonic_of(rate, other),
        "perplexity": summary_loop.ratio_of("nll", "tokens", exponential=True),
        "loss": summary_loop.ratio_of("nll", "tokens"),
    }
    pairs = summary_loop.paired_groups(ours, theirs)
    for name, statistic in expected.items():
        difference = summary_loop.difference_of(statistic)
        low, high = summary_loop.interval(pairs, difference, 0.8, 200, seed)
        row = found.loc[name, ["value", "low", "high"]].tolist()
        assert row == pytest.approx([difference(pairs), low, high])


def test_a_table_less_itself_is_nothing_and_the_sides_can_be_exchanged() -> None:
    first, second = (pd.DataFrame(random_rows(3)) for _ in range(2))
    second["success"] = [None if one is None else not one for one in second["success"]]
    second["nll"] = second["nll"] * 2
    nothing = paired_differences(first, first, EVERYTHING)
    assert (nothing[["value", "low", "high"]] == 0).all(axis=None)
    one, other = paired_differences(first, second, EVERYTHING), paired_differences(second, first, EVERYTHING)
    np.testing.assert_allclose(one["value"], -other["value"])
    np.testing.assert_allclose(one["low"], -other["high"])


def test_only_what_both_have_counts_and_the_note_says_how_much_is_left_out() -> None:
    ours, theirs = rows_of([1, 1, 1, 0]), rows_of([0, 0, 1, 1, 1, 1]).iloc[1:]
    row = paired_differences(ours, theirs, [SHARE]).loc["share"]
    assert row["value"] == pytest.approx((1 + 0 - 1) / 3)
    assert row["n"] == 3
    assert row["note"] == f"left out: 3 requests and 3 rows without a partner; {FEW_REQUESTS}"
    missing = rows_of([1, 1, 1, 0]).assign(success=[1, None, 1, 0])
    for sides in ((missing, rows_of([0, 0, 1, 1])), (rows_of([0, 0, 1, 1]), missing)):
        row = paired_differences(*sides, [SHARE]).loc["share"]
        assert (row["value"], row["n"]) == (0, 3)
        assert row["note"].startswith("left out: 1 request and 1 row without a partner; ")


def test_rows_of_a_request_that_the_other_side_lacks_do_not_count_in_its_mean() -> None:
    ours = pd.DataFrame({"request": [0, 0, 1], "item": ["a", "b", "a"], "success": [1, 0, 1]})
    theirs = pd.DataFrame({"request": [0, 1], "item": ["a", "a"], "success": [1, 1]})
    row = paired_differences(ours, theirs, [SHARE]).loc["share"]
    assert row["value"] == 0
    assert row["note"] == f"left out: 1 row without a partner; {FEW_REQUESTS}; no width: all agree"


def test_tables_that_share_nothing_are_undefined_and_say_so() -> None:
    table = paired_differences(rows_of([1, 0]), rows_of([1, 0]).assign(item="other"), [SHARE])
    row = table.loc["share"]
    assert (row["n"], math.isnan(row["value"])) == (0, True)
    expected = "undefined: no rows that both have; left out: 2 requests and 4 rows without a partner"
    assert row["note"] == expected
    nothing = paired_differences(pd.DataFrame(), rows_of([1]), [SHARE]).loc["share"]
    assert nothing["note"].startswith("undefined: no rows that both have; left out: 1 request and 1 row")
    one = paired_differences(rows_of([1]), rows_of([0]), [SHARE]).loc["share"]
    assert (one["value"], one["note"]) == (1, "no interval: one request")


def test_what_was_asked_once_of_the_unedited_model_stands_beside_every_request() -> None:
    texts = pd.DataFrame({"item": ["t0", "t1"], "nll": [2.0, 6.0], "tokens": [2, 2]})
    under = pd.concat(
        [
            texts.assign(request=request, nll=texts["nll"] + extra)
            for request, extra in ((0, 0), (1, 4), (2, 8))
        ]
    )
    for ours, theirs, sign in ((under, texts, 1), (texts, under, -1)):
        row = paired_differences(ours, theirs, [LOSS]).loc["loss"]
        assert row["value"] == pytest.approx(sign * 2)
        assert (row["n"], row["unit"], row["note"]) == (3, "request", FEW_REQUESTS)
    assert sorted(map(abs, row[["low", "high"]])) == pytest.approx([0, 4], abs=0.5)
    row = paired_differences(under, texts.iloc[:1], [LOSS]).loc["loss"]
    assert (row["n"], row["note"]) == (3, f"left out: 3 rows without a partner; {FEW_REQUESTS}")


def test_without_requests_items_are_paired_and_the_same_item_in_turn() -> None:
    ours = pd.DataFrame({"item": ["b", "a", "a"], "success": [1, 1, 0]})
    theirs = pd.DataFrame({"item": ["a", "b", "a"], "success": [1, 0, 0]})
    row = paired_differences(ours, theirs, [SHARE]).loc["share"]
    assert (row["value"], row["n"], row["unit"]) == (pytest.approx(1 / 3), 3, "item")
    assert (row["low"], row["high"]) == pytest.approx((0, 1))


def test_two_kinds_of_one_prompt_are_not_mixed_up() -> None:
    ours = pd.DataFrame({"item": "p", "kind": ["rewrite", "paraphrase"], "request": 0, "success": [1, 0]})
    found = paired_differences(ours, ours.iloc[::-1], [RATE, OTHER])
    assert found["value"].tolist() == [0, 0]


def test_rows_that_do_not_say_what_was_asked_are_refused() -> None:
    with pytest.raises(InputError, match="rows: expected a column 'item' that says what was asked"):
        paired_differences(rows_of([1]).drop(columns="item"), rows_of([1]), [SHARE])


def test_edits_stand_side_by_side_with_values_differences_and_exact_p_values() -> None:
    tables = {
        "none": rows_of([0] * 6, kind="rewrite", nll=1.0, tokens=1),
        "good": rows_of([1] * 6, kind="rewrite", nll=1.0, tokens=1),
        "fair": rows_of([1, 1, 1, 0, 0, 0], kind="rewrite", nll=2.0, tokens=1),
    }
    table = compare(tables, [RATE, PERPLEXITY], reference="none").set_index(["metric", "edit"])
    assert table.loc["rate", "value"].tolist() == [0, 1, 0.5]
    assert table.loc["rate", "difference"].tolist() == pytest.approx([math.nan, 1, 0.5], nan_ok=True)
    assert table.loc["rate", "p"].tolist() == pytest.approx([math.nan, 2 / 64, 2 / 8], nan_ok=True)
    assert table.loc["rate", "p_holm"].tolist() == pytest.approx([math.nan, 4 / 64, 2 / 8], nan_ok=True)
    assert table.loc["rate", "n_paired"].tolist() == [0, 6, 6]
    assert table.loc["perplexity", "difference"].tolist()[2] == pytest.approx(math.exp(2) - math.e)
    assert table.loc["perplexity", ["p", "p_holm"]].isna().all(axis=None)
    alone = compare({"none": tables["none"]}, [RATE], reference="none")
    assert (alone["value"].tolist(), alone["difference"].isna().all()) == ([0], True)


def test_a_comparison_agrees_with_summaries_and_paired_differences_and_harmonic_means_have_no_p() -> None:
    first, second = (pd.DataFrame(random_rows(seed)) for seed in (1, 2))
    table = compare({"a": first, "b": second}, EVERYTHING, reference="b", seed=3)
    ours = table[table["edit"] == "a"].set_index("metric")
    pd.testing.assert_frame_equal(
        ours[["value", "low", "high", "n", "unit"]],
        summarise_rows(first, EVERYTHING, seed=3)[["value", "low", "high", "n", "unit"]],
    )
    paired = paired_differences(first, second, EVERYTHING, seed=3)
    for name, theirs in {"difference": "value", "difference_low": "low", "n_paired": "n"}.items():
        np.testing.assert_array_equal(ours[name], paired[theirs])
    np.testing.assert_array_equal(ours["paired_value"] - ours["paired_reference"], paired["value"])
    assert ours.loc[["both", "perplexity", "loss"], "p"].isna().all()
    wanted = [f"{FEW_REQUESTS}; {note.removesuffix(f'; {FEW_REQUESTS}')}" for note in paired["note"]]
    assert ours["note"].tolist() == wanted


def scores_of(gains: list[list[float]], fingerprint: str = "a" * 64, **settings: Any) -> Scores:
    """A request a list: the gain of its rewrite, its paraphrase and its neighbour."""
    kinds = ("rewrite", "paraphrase", "neighborhood")
    rows = [
        {
            "stage": stage,
            "request": request,
            "kind": kind,
            "prompt": f"{kind} {request}",
            "target_new": " new",
            "target_true": " true",
            "success": gain > 0,
            "magnitude": gain,
        }
        for stage, sign in (("before", -1), ("after", 1))
        for request, of_request in enumerate(gains)
        for kind, gain in zip(kinds, of_request, strict=True)
        for gain in [sign * gain]
    ]
    origin = {"fingerprint": fingerprint, "settings": {"prepend_bos": False, "reduce": "mean"} | settings}
    return Scores(pd.DataFrame(rows), None, origin)


BETTER = scores_of([[1, 1, 1], [1, 1, 1], [1, -1, -1]])
WORSE = scores_of([[1, -1, 1], [1, 1, -1], [-1, -1, -1]])


def test_scores_are_compared_with_their_harmonic_score_in_the_stage_asked_for() -> None:
    table = compare_scores({"better": BETTER, "worse": WORSE}, reference="worse")
    ours = table[table["edit"] == "better"].set_index("metric")
    assert ours["difference"][["efficacy", "paraphrase", "neighborhood"]].tolist() == pytest.approx(
        [1 / 3] * 3
    )
    assert ours.loc["score", "value"] == pytest.approx(3 / (1 + 1.5 + 1.5))
    assert ours.loc["score", "difference"] == pytest.approx(0.75 - 3 / (1.5 + 3 + 3))
    assert ours.loc["efficacy", "p"] == 1
    before = compare_scores({"better": BETTER, "worse": WORSE}, "worse", stage="before").set_index("metric")
    assert before["value"]["efficacy_magnitude"].tolist() == pytest.approx([-1, -1 / 3])


def test_scores_without_an_edit_can_be_the_reference() -> None:
    unedited = Scores(BETTER.rows[BETTER.rows["stage"] == "before"], None, BETTER.provenance)
    table = compare_scores({"edited": BETTER, "unedited": unedited}, reference="unedited").set_index("metric")
    assert table["difference"]["efficacy_magnitude"].tolist()[0] == pytest.approx(2)
    with pytest.raises(InputError, match="stage: 'unedited' has before, but not 'after'"):
        compare_scores({"edited": BETTER, "unedited": unedited}, "unedited", stage="after")


def renamed(scores: Scores, **columns: str) -> Scores:
    return Scores(scores.rows.assign(**columns), None, scores.provenance)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            scores_of([[1, 1, 1]] * 2),
            "'other' has 6 prompts and 'ours' has 9; evaluate both on the same requests",
        ),
        (renamed(WORSE, prompt="P"), "prompt 0 of 'other' has the prompt 'P', that of 'ours' 'rewrite 0'"),
        (renamed(WORSE, target_new=" x"), "has the target_new ' x', that of 'ours' ' new'; .* same requests"),
        (scores_of([[1, 1, 1]] * 3, "b" * 64), r"another model \(fingerprint bbbbbbbbbbbb\) than 'ours'"),
        (scores_of([[1, 1, 1]] * 3, reduce="sum"), "with reduce='sum' and 'ours' with 'mean'"),
        (scores_of([[1, 1, 1]] * 3, prepend_bos=True), "with prepend_bos=True and 'ours' with False"),
    ],
)
def test_scores_of_other_prompts_or_another_model_are_refused(other: Scores, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare_scores({"ours": BETTER, "other": other}, reference="ours")


def test_a_reference_that_is_not_there_and_a_wrong_share_are_refused() -> None:
    with pytest.raises(InputError, match="reference: expected one of 'a', got 'rome'"):
        compare({"a": rows_of([1])}, [SHARE], reference="rome")
    with pytest.raises(InputError, match="reference: expected one of 'a', got 'rome'"):
        compare_scores({"a": BETTER}, reference="rome")
    with pytest.raises(RangeError, match="ci: expected a share"):
        compare_scores({"a": BETTER}, reference="a", ci=95)


def test_both_is_undefined_where_one_of_its_parts_has_no_pairs() -> None:
    rows = pd.DataFrame(random_rows(0))
    rewrites = rows[rows["kind"] == "rewrite"]
    row = paired_differences(rewrites, rows, [BOTH]).loc["both"]
    assert (row["n"], math.isnan(row["value"])) == (0, True)
