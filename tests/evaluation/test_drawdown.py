"""Edit success and drawdown: by hand, of a perfect edit, of no edit, of a destroyed model, and by edit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from mechstyle.cases import SCOPES
from mechstyle.errors import InputError
from mechstyle.evaluation import evaluate
from mechstyle.evaluation.drawdown import accuracy_rows, success_and_drawdown
from mechstyle.facts import EditRequest, Fact
from tests.evaluation.test_scores import FIRST, SECOND, random_edit, unigram, unigram_edit

OUT = {"near": [[1.0, 0.5], [0.5], [1.0]], "far": [[1.0], [0.0], [1.0]]}
IN = {"in": [[0.0, 0.5], [0.0], [0.25]], "hard in": [[0.5], [0.5], [0.0]]}


def rows_of(accuracies: dict[str, list[list[float]]], stage: str, **columns: Any) -> pd.DataFrame:
    """Scope -> for each request the accuracy of each of its questions."""
    rows = [
        {"stage": stage, "request": request, "item": f"{place}", "scope": scope, "accuracy": accuracy}
        for scope, requests in accuracies.items()
        for request, questions in enumerate(requests)
        for place, accuracy in enumerate(questions)
    ]
    return pd.DataFrame(rows).assign(**columns)


def found_for(after: dict[str, list[list[float]]], **options: Any) -> pd.DataFrame:
    rows = pd.concat([rows_of(IN | OUT, "before"), rows_of(after, "after")], ignore_index=True)
    return success_and_drawdown(rows, **options).set_index("scope")


def test_success_is_accuracy_with_the_edit_and_drawdown_what_is_lost_by_hand() -> None:
    after = {
        "in": [[1.0, 0.5], [1.0], [0.5]],
        "hard in": [[0.5], [1.0], [0.0]],
        "near": [[0.5, 0.5], [0.5], [0.25]],
        "far": [[1.0], [0.5], [1.0]],
    }
    table = found_for(after)
    assert table.index.tolist() == ["in", "hard in", "near", "far"]
    assert table["metric"].tolist() == ["edit success", "edit success", "drawdown", "drawdown"]
    assert table["value"].tolist() == pytest.approx([2.25 / 3, 0.5, (0.25 + 0 + 0.75) / 3, -0.5 / 3])
    assert table["before"].tolist() == pytest.approx([0.5 / 3, 1 / 3, 2.25 / 3, 2 / 3])
    assert table.loc["near", "after"] == pytest.approx(1.25 / 3)
    assert set(table["n"]) == {3}
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()
    assert table.loc["near", "measure"] == "token accuracy (teacher-forced), lost"


def test_a_perfect_edit_succeeds_everywhere_and_loses_nothing() -> None:
    perfect = {scope: [[1.0] * len(one) for one in requests] for scope, requests in IN.items()}
    table = found_for(perfect | OUT)
    assert table["value"].tolist() == [1, 1, 0, 0]
    assert table["low"].tolist() == table["high"].tolist() == [1, 1, 0, 0]


def test_no_edit_has_the_base_rate_and_loses_nothing() -> None:
    table = found_for(IN | OUT)
    assert table["value"].tolist() == pytest.approx([0.5 / 3, 1 / 3, 0, 0])
    assert table.loc["near", ["low", "high"]].tolist() == [0, 0]


def test_a_destroyed_model_loses_all_that_it_had() -> None:
    nothing = {scope: [[0.0] * len(one) for one in requests] for scope, requests in (IN | OUT).items()}
    table = found_for(nothing)
    assert table["value"].tolist() == pytest.approx([0, 0, 2.25 / 3, 2 / 3])


def test_rows_before_without_an_edit_belong_to_every_edit() -> None:
    half = {scope: [[0.5 * one for one in each] for each in requests] for scope, requests in OUT.items()}
    before, lossy = rows_of(OUT, "before"), rows_of(half, "after", edit="lossy")
    rows = pd.concat([before.assign(edit=None), rows_of(OUT, "after", edit="good"), lossy])
    table = success_and_drawdown(rows).set_index(["edit", "scope"])
    assert table["value"]["good"].tolist() == [0, 0]
    assert table["value"]["lossy"].tolist() == pytest.approx([2.25 / 6, 2 / 6])
    own = pd.concat([before.assign(edit="lossy"), lossy])
    pd.testing.assert_frame_equal(
        success_and_drawdown(own).set_index("scope").drop(columns="edit"),
        table.loc["lossy"],
    )


def test_an_edits_own_rows_before_are_taken_rather_than_those_of_all() -> None:
    nothing = {scope: [[0.0] * len(one) for one in requests] for scope, requests in OUT.items()}
    own = rows_of(OUT, "before", edit="own")
    rows = pd.concat([rows_of(nothing, "before", edit=None), own, rows_of(OUT, "after", edit="own")])
    table = success_and_drawdown(rows)
    assert table["before"].tolist() == pytest.approx([2.25 / 3, 2 / 3])
    assert table["value"].tolist() == [0, 0]


def test_questions_that_have_no_answer_after_are_left_out_of_drawdown_and_of_success_and_counted() -> None:
    short = {scope: requests[:2] for scope, requests in (IN | OUT).items()}
    table = found_for(short)
    assert table.loc["near", ["value", "n"]].tolist() == [0, 2]
    assert table.loc["in", ["value", "n"]].tolist() == [0.125, 2]
    assert set(table["n"]) == {2}
    assert table["note"].str.startswith("left out: 1 request and 1 row without a partner; fewer than").all()
    fewer = {"in": [[0.0], [0.0], [0.25]]}
    assert found_for(IN | OUT | fewer).loc["in", "note"].startswith("left out: 1 row without a partner; ")


def test_success_is_over_all_rows_after_so_that_those_without_a_row_before_are_not_left_out() -> None:
    table = found_for({"in": [*IN["in"], [1.0]], "hard in": IN["hard in"]} | OUT)
    assert table.loc["in", ["value", "n"]].tolist() == [(0.25 + 0 + 0.25 + 1) / 4, 4]
    assert "left out" not in table.loc["in", "note"]


@pytest.mark.parametrize("lost", ["in", "near"])
def test_a_scope_whose_requests_all_failed_has_no_value_and_the_others_keep_theirs(lost: str) -> None:
    whole = found_for(IN | OUT)
    table = found_for({scope: requests for scope, requests in (IN | OUT).items() if scope != lost})
    row = table.loc[lost]
    assert row[["value", "low", "high", "after"]].isna().all()
    assert row[["metric", "n", "unit", "before", "measure", "note"]].tolist() == [
        *whole.loc[lost, ["metric"]],
        0,
        "request",
        *whole.loc[lost, ["before", "measure"]],
        "no rows under the edit",
    ]
    pd.testing.assert_frame_equal(table.drop(index=lost), whole.drop(index=lost), check_dtype=False)


def test_without_any_rows_after_every_scope_is_undefined_of_every_edit_that_is_named() -> None:
    rows = rows_of(IN | OUT, "before")
    table = success_and_drawdown(rows).set_index("scope")
    assert table.index.tolist() == ["in", "hard in", "near", "far"]
    assert table[["value", "low", "high", "after"]].isna().all(axis=None)
    assert table["before"].tolist() == pytest.approx([0.5 / 3, 1 / 3, 2.25 / 3, 2 / 3])
    assert set(table["n"]) == {0}
    assert set(table["note"]) == {"no rows under the edit"}
    both = pd.concat([rows.assign(edit="failed"), rows.assign(edit="good")])
    found = success_and_drawdown(pd.concat([both, rows_of(OUT, "after", edit="good")]))
    wanted = [("failed", scope, 0) for scope in SCOPES] + [
        ("good", scope, 3 * (scope in OUT)) for scope in SCOPES
    ]
    assert list(found[["edit", "scope", "n"]].itertuples(index=False, name=None)) == wanted


def test_scores_of_a_model_with_known_answers_have_the_known_success_and_drawdown(tiny_model: Any) -> None:
    """The model says " trumpet" to everything, and " guitar" once edited."""
    model = unigram(tiny_model, {" trumpet": 4})
    request = EditRequest(
        Fact("{} plays the", "Miles Davis", " trumpet"),
        " guitar",
        ("The instrument of Miles Davis is the",),
        (("Chet Baker plays the", " trumpet"), ("Clara Schumann plays the", " piano")),
    )
    scores = evaluate(model, [request], edits=unigram_edit(model, {" guitar": 16}))
    table = success_and_drawdown(accuracy_rows(scores.rows)).set_index("scope")
    assert table["value"].to_dict() == {"in": 1, "near": 0.5}
    assert table["before"].to_dict() == {"in": 0, "near": 0.5}
    assert set(table["note"]) == {"no interval: one request"}


def test_rows_of_scores_take_the_new_answer_in_scope_and_the_own_one_out_of_it(tiny_model: Any) -> None:
    scores = evaluate(tiny_model, [FIRST, SECOND], edits=random_edit(tiny_model, 1))
    rows = accuracy_rows(scores.rows)
    assert len(rows) == len(scores.rows)
    near = (scores.rows["kind"] == "neighborhood").to_numpy()
    np.testing.assert_array_equal(rows["accuracy"][near], scores.rows["accuracy_true"][near])
    np.testing.assert_array_equal(rows["accuracy"][~near], scores.rows["accuracy_new"][~near])
    table = success_and_drawdown(rows).set_index("scope")
    summary = scores.summary()["value"]
    before = scores.summary(stage="before")["value"]
    lost = before["neighborhood_accuracy"] - summary["neighborhood_accuracy"]
    assert table.loc["near", "value"] == pytest.approx(lost)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            rows_of(OUT, "after"),
            "expected the stages 'before' and 'after', got 'after'; drawdown is what is",
        ),
        (rows_of(OUT, "before").drop(columns=["item", "scope"]), "item, scope are not there"),
        (
            pd.concat([rows_of(OUT, "before"), rows_of(IN, "after", scope="nearby")]),
            "rows: expected scopes among in, hard in, near, far, got 'nearby'",
        ),
        (
            pd.concat([rows_of(IN, "before"), rows_of(IN | OUT, "after")]),
            "expected rows of scope 'near' of stage 'before', got none",
        ),
    ],
)
def test_rows_that_lack_a_stage_a_column_or_a_scope_are_refused(rows: pd.DataFrame, message: str) -> None:
    with pytest.raises(InputError, match=message):
        success_and_drawdown(rows)
    with pytest.raises(InputError, match="accuracy_new, accuracy_true are not there"):
        accuracy_rows(rows.assign(kind="rewrite", prompt="p", scope="in"))
