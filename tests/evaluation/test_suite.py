"""Suites: the same numbers as the single functions, edits side by side, and nothing lost or mixed up."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformer_lens import HookedTransformer

from mechstyle.cases import Case, Question
from mechstyle.editing.edit import EditSet
from mechstyle.editing.memory_editors import edit_cache, in_context_edit
from mechstyle.errors import InputError, ModelError, NonFiniteError, RangeError
from mechstyle.evaluation import evaluate
from mechstyle.evaluation.drawdown import success_and_drawdown
from mechstyle.evaluation.measure import About, Conditions, Metric, Reader
from mechstyle.evaluation.questions import Questions
from mechstyle.evaluation.request_scores import RequestScores
from mechstyle.evaluation.suite import run_suite
from mechstyle.evaluation.suite_result import SuiteResult
from mechstyle.evaluation.suite_tables import UNEDITED
from mechstyle.evaluation.text_perplexity import HeldOutPerplexity
from mechstyle.facts import Fact
from mechstyle.models import active_base, fingerprint
from tests.evaluation.measures import CASES, MILES, NAME, PARIS, random_edit, unigram, unigram_edit

TEXTS = ("Paris is the capital of France.", "The day was long.", "Rome is a city.")
MEASURES = (RequestScores(), Questions.of(CASES), HeldOutPerplexity(TEXTS))
NUMBERS = ("value", "low", "high")


@dataclass(frozen=True)
class Counting:
    """A measure that notes what it is asked."""

    asked: list[tuple[object, tuple[int, ...]]]
    about: About = "requests"
    name: str = "counting"
    failing: bool = False

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (Metric("ones", "one", "count"),)

    def settings(self) -> dict[str, Any]:
        return {"about": self.about}

    def prepare(self, model: object, cases: Sequence[Case], conditions: Conditions) -> Reader:
        def read(edit: object, chosen: Sequence[int]) -> list[dict[str, Any]]:
            self.asked.append((edit, tuple(chosen)))
            if self.failing and edit is not None and 1 in chosen:
                raise NonFiniteError("model: the logits are nan.")
            if self.about == "model":
                return [{"item": "all", "one": 1.0}]
            return [{"item": "x", "request": index, "one": 1.0} for index in chosen]

        return read


def weights(model: HookedTransformer) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def same_tables(first: SuiteResult, second: SuiteResult) -> None:
    assert list(first.tables) == list(second.tables)
    for name, table in first.tables.items():
        pd.testing.assert_frame_equal(table, second.tables[name])
    pd.testing.assert_frame_equal(first.failures, second.failures)


def test_scores_are_those_of_evaluate_for_one_edit_and_for_one_each(tiny_model: HookedTransformer) -> None:
    own, shared = [random_edit(tiny_model, seed) for seed in (1, 2)], random_edit(tiny_model, 3)
    found = run_suite(tiny_model, CASES, [RequestScores()], edits={"own": own, "shared": shared})
    requests = [MILES, PARIS]
    for name, edits in (("own", own), ("shared", shared)):
        wanted, scores = evaluate(tiny_model, requests, edits=edits), found.scores(name)
        columns = [column for column in wanted.rows.columns if not column.startswith(("logp", "p_", "magn"))]
        pd.testing.assert_frame_equal(scores.rows[columns], wanted.rows[columns])
        numbers = ["logp_new", "logp_true", "p_new", "magnitude"]
        pd.testing.assert_frame_equal(scores.rows[numbers], wanted.rows[numbers], atol=1e-5, rtol=0)
        pd.testing.assert_frame_equal(
            scores.summary()[list(NUMBERS)], wanted.summary()[list(NUMBERS)], atol=1e-5, rtol=0
        )
    assert found.scores().stages == ("before",)


def test_each_case_is_asked_under_its_own_edit_and_everything_else_under_the_first_ones(
    tiny_model: HookedTransformer,
) -> None:
    own, shared = [random_edit(tiny_model, seed) for seed in (1, 2, 3)], random_edit(tiny_model, 4)
    about, whole = Counting([]), Counting([], "model", "whole")
    cases = [MILES, PARIS, MILES]
    found = run_suite(
        tiny_model,
        cases,
        [about, whole],
        edits={"own": own, "shared": shared},
        at_once=2,
        collateral_edits=2,
    )
    every = [(None, (0, 1)), (None, (2,))]
    assert about.asked == [
        *every,
        *((edit, (index,)) for index, edit in enumerate(own)),
        *((shared, chosen) for _, chosen in every),
    ]
    assert [edit for edit, _ in whole.asked] == [None, own[0], own[1], shared]
    rows = found.rows("whole", "own")
    assert rows["request"].tolist() == [0, 1]
    assert found.rows("whole", "shared").get("request", pd.Series([None])).isna().all()
    assert found.summary().query("table == 'whole'")["unit"].tolist() == ["item", "request", "item"]


def test_the_model_is_bit_for_bit_as_before_also_after_an_exception(tiny_model: HookedTransformer) -> None:
    before, edits = weights(tiny_model), [random_edit(tiny_model, seed) for seed in (1, 2)]
    run_suite(tiny_model, CASES, MEASURES, edits={"own": edits, "one": edits[0]})

    class Broken(Counting):
        def prepare(self, *rest: Any) -> Reader:
            def read(edit: object, chosen: Sequence[int]) -> list[dict[str, Any]]:
                if edit is not None:
                    raise KeyboardInterrupt
                return []

            return read

    with pytest.raises(KeyboardInterrupt):
        run_suite(tiny_model, CASES, [Broken([])], edits={"own": edits})
    after = weights(tiny_model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert active_base(tiny_model) == {}


def test_a_perfect_edit_scores_one_and_loses_nothing(tiny_model: HookedTransformer) -> None:
    """An edit cache that answers the rewrite and its paraphrase, and nothing else."""
    model = unigram(tiny_model, {" trumpet": 6, " guitar": 3})
    case = Case(MILES)
    edit = edit_cache(model, [MILES, paraphrase()])
    found = run_suite(
        model, [case], [RequestScores(generate=True), HeldOutPerplexity(TEXTS)], edits={"cache": edit}
    )
    after = found.scores("cache").summary()["value"]
    for metric in ("efficacy", "paraphrase", "neighborhood", "score", "score_exact", "score_generated"):
        assert after[metric] == 1, metric
    drawdown = found.drawdown().set_index("metric")["value"]
    assert (drawdown["edit success"], drawdown["drawdown"]) == (1, 0)
    row = found.compare().query("edit == 'cache' and metric == 'perplexity'").iloc[0]
    assert row["difference"] == 0


def paraphrase() -> Any:
    fact = Fact("The instrument of {} is the", "Miles Davis", " trumpet", "plays")
    return replace(MILES, fact=fact, paraphrases=(), neighborhood=())


def test_no_edit_at_all_scores_the_base_rate_and_differs_in_nothing(tiny_model: HookedTransformer) -> None:
    nothing = EditSet((), fingerprint(tiny_model))
    found = run_suite(tiny_model, CASES, MEASURES, edits={"nothing": nothing})
    summary = found.summary()
    before, after = (
        summary[summary["edit"] == edit].reset_index(drop=True)[["metric", *NUMBERS]]
        for edit in (UNEDITED, "nothing")
    )
    pd.testing.assert_frame_equal(before, after)
    compared = found.compare().query("edit == 'nothing'")
    assert (compared["difference"].dropna() == 0).all()
    assert compared["difference"].notna().any()
    assert (found.drawdown().query("metric == 'drawdown'")["value"] == 0).all()


def test_two_editors_are_compared_request_by_request(tiny_model: HookedTransformer) -> None:
    model = unigram(tiny_model, {" trumpet": 6, " guitar": 3, " France": 6, " Italy": 3})
    good = unigram_edit(model, {" guitar": 9, " Italy": 9})
    half = unigram_edit(model, {" guitar": 9})
    found = run_suite(model, CASES, [RequestScores()], edits={"good": good, "half": half})
    row = found.compare("half").query("edit == 'good' and metric == 'efficacy'").iloc[0]
    assert (row["value"], row["difference"], row["n_paired"]) == (1.0, 0.5, 2)
    relations = found.by_relation("half").query("metric == 'efficacy'").set_index("relation")["value"]
    assert relations.to_dict() == {"plays": 1.0, "capital": 0.0}


def test_drawdown_is_over_prompts_and_fair_questions_in_their_scopes(tiny_model: HookedTransformer) -> None:
    edit = random_edit(tiny_model, 1, size=3.0)
    found = run_suite(tiny_model, CASES, MEASURES[:2], edits={"e": edit})
    rows = []
    for name, table in found.tables.items():
        for row in table.to_dict("records"):
            wanted = row["accuracy"] if name == "questions" else None
            if row.get("answer") == " Italy" and row["request"] == 1:
                continue  # the new target of this request: an edit that spills over gains there
            if wanted is None:
                wanted = row["accuracy_new"] if row["scope"] == "in" else row["accuracy_true"]
            rows.append(
                {**{key: row[key] for key in ("stage", "request", "scope", "item")}, "accuracy": wanted}
            )
    wanted = success_and_drawdown(pd.DataFrame(rows))
    pd.testing.assert_frame_equal(found.drawdown()[wanted.columns], wanted)
    assert set(found.drawdown()["scope"]) == {"in", "hard in", "near"}


def test_a_folder_holds_everything_and_nothing_is_done_twice(
    tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    edits = [random_edit(tiny_model, seed) for seed in (1, 2)]
    asked: list[Any] = []
    measures = [*MEASURES, Counting(asked)]
    first = run_suite(tiny_model, CASES, measures, edits={"own": edits}, folder=tmp_path)
    n_done = len(asked)
    same_tables(first, run_suite(tiny_model, CASES, measures, edits={"own": edits}, folder=tmp_path))
    assert len(asked) == n_done
    same_tables(first, run_suite(tiny_model, CASES, measures, edits={"own": edits}))
    more = run_suite(
        tiny_model, CASES, measures, edits={"own": edits, "one": random_edit(tiny_model, 3)}, folder=tmp_path
    )
    assert len(asked) == 2 * n_done + 1
    assert more.edits == ("own", "one")


@pytest.mark.parametrize("change", ["edit", "seed", "bos", "case", "measure", "active"])
def test_what_another_call_has_done_is_not_taken_for_this_one(
    tiny_model: HookedTransformer, tmp_path: Path, change: str
) -> None:
    asked: list[Any] = []
    edits = {"e": random_edit(tiny_model, 1)}
    common: dict[str, Any] = {"edits": edits, "folder": tmp_path}
    run_suite(tiny_model, CASES, [Counting(asked)], **common)
    n_done, measure, cases = len(asked), Counting(asked), CASES
    if change == "edit":
        common["edits"] = {"e": random_edit(tiny_model, 2)}
    elif change == "seed":
        common["seed"] = 1
    elif change == "bos":
        common["prepend_bos"] = True
    elif change == "case":
        cases = (CASES[0], Case(PARIS))
    elif change == "measure":
        measure = Counting(asked, "model")
    else:
        random_edit(tiny_model, 5).apply_(tiny_model)
    run_suite(tiny_model, cases, [measure], **common)
    assert len(asked) - n_done == (1 if change == "edit" else n_done)


def test_a_damaged_file_is_made_again(tiny_model: HookedTransformer, tmp_path: Path) -> None:
    first = run_suite(tiny_model, CASES, MEASURES, folder=tmp_path)
    for file in (tmp_path / "rows").iterdir():
        file.write_text(file.read_text()[:20])
    same_tables(first, run_suite(tiny_model, CASES, MEASURES, folder=tmp_path))


def test_an_edit_that_breaks_the_model_is_counted_and_does_not_stop_the_others(
    tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    edits = [random_edit(tiny_model, seed) for seed in (1, 2)]
    measures = [Counting([], failing=True), Counting([], "model", "whole", failing=True)]
    for _ in range(2):  # the second time from the folder
        found = run_suite(tiny_model, CASES, measures, edits={"own": edits}, folder=tmp_path)
        assert found.rows("counting", "own")["request"].tolist() == [0]
        assert found.failures[["edit", "table", "request"]].to_numpy().tolist() == [
            ["own", "whole", 0],
            ["own", "counting", 1],
            ["own", "whole", 1],
        ]
        assert "logits are nan" in found.failures["reason"][0]
    row = found.summary().query("edit == 'own' and table == 'counting'").iloc[0]
    assert (row["n"], row["failed"]) == (1, 1)


def test_a_case_without_finite_numbers_does_not_take_others_with_it(tiny_model: HookedTransformer) -> None:
    measure = Counting([], failing=True)
    cases = [MILES, PARIS, MILES, PARIS]
    found = run_suite(tiny_model, cases, [measure], edits={"e": random_edit(tiny_model, 1)}, at_once=4)
    assert found.rows("counting", "e")["request"].tolist() == [0, 2, 3]
    assert found.failures["request"].tolist() == [1]


def test_an_edit_that_fails_everywhere_stays_in_every_table(
    tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    edits = {"bad": random_edit(tiny_model, 1, size=1e39), "good": random_edit(tiny_model, 2)}
    found = run_suite(tiny_model, CASES, MEASURES, edits=edits)
    for table in (found.summary(), found.compare(), found.compare("good")):
        lost = table[(table["edit"] == "bad") & (table["table"] == "scores")]
        assert lost["metric"].tolist() == [metric.name for metric in RequestScores().metrics]
        assert lost["value"].isna().all()
        assert (lost["failed"] == 2).all()
        assert (lost["note"] == "no rows under this edit").all()
    drawdown = found.drawdown().set_index("edit")
    assert (drawdown.loc["bad", "failed"] == 2).all()
    assert drawdown.loc["bad", "value"].isna().all()
    assert drawdown.loc["good", "value"].notna().all()
    assert pd.read_csv(found.save(tmp_path / "out")["comparison"])["failed"].max() == 2


def test_what_spills_over_is_not_counted_as_kept(tiny_model: HookedTransformer) -> None:
    """An edit that says the new target everywhere: others that have it already must not make up for it."""
    model = unigram(tiny_model, {" trumpet": 6, " guitar": 3})
    attribute = Question("attribute", "near", "Jimi Hendrix plays the", (" guitar",), (" trumpet",))
    cases = [Case(MILES, questions=(attribute,))]
    edit = unigram_edit(model, {" guitar": 9})
    found = run_suite(model, cases, [RequestScores(), Questions.of(cases)], edits={"e": edit})
    row = found.drawdown().query("scope == 'near'").iloc[0]
    assert (row["value"], row["before"], row["after"]) == (1, 1, 0)


def test_a_model_with_hooks_has_no_folder(tiny_model: HookedTransformer, tmp_path: Path) -> None:
    tiny_model.add_hook("blocks.0.hook_resid_post", lambda state, hook: state * 2, is_permanent=True)
    assert len(run_suite(tiny_model, CASES, [RequestScores()]).tables["scores"])
    with pytest.raises(InputError, match="folder: the model carries hooks"):
        run_suite(tiny_model, CASES, [RequestScores()], folder=tmp_path)


def test_weights_that_round_alike_are_told_apart(tiny_model: HookedTransformer, tmp_path: Path) -> None:
    asked: list[Any] = []
    run_suite(tiny_model, CASES, [Counting(asked)], folder=tmp_path)
    before, n_done = fingerprint(tiny_model), len(asked)
    tiny_model.to(torch.bfloat16).to(torch.float32)
    assert fingerprint(tiny_model) == before
    run_suite(tiny_model, CASES, [Counting(asked)], folder=tmp_path)
    assert len(asked) == 2 * n_done


def test_an_edit_that_overflows_fails_for_its_requests_alone(tiny_model: HookedTransformer) -> None:
    edits = [random_edit(tiny_model, 1), random_edit(tiny_model, 2, size=1e39)]
    found = run_suite(tiny_model, CASES, [RequestScores()], edits={"own": edits})
    assert found.failures[["edit", "request"]].to_numpy().tolist() == [["own", 1]]
    assert found.rows("scores", "own")["request"].unique().tolist() == [0]
    assert active_base(tiny_model) == {}


def test_results_are_strict_json_and_tables(tiny_model: HookedTransformer, tmp_path: Path) -> None:
    found = run_suite(tiny_model, CASES, MEASURES, edits={"context": in_context_edit(tiny_model, MILES)})
    files = found.save(tmp_path / "out")
    data = json.loads(files["results"].read_text(), parse_constant=lambda name: pytest.fail(name))
    assert data["provenance"]["fingerprint"] == fingerprint(tiny_model)
    assert data["provenance"]["settings"]["measures"]["scores"] == {"reduce": "mean", "generate": False}
    table = pd.read_csv(files["scores"])
    assert len(table) == len(found.tables["scores"])
    assert set(files) == {
        "results", "summary", "comparison", "failures", "scores", "questions", "perplexity",
    }  # fmt: skip
    assert math.isfinite(pd.read_csv(files["summary"])["value"].iloc[0])


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"measures": []}, InputError, "measures: expected a list of at least one measure"),
        (
            {"measures": [3]},
            InputError,
            r"measures\[0\]: expected a measure, such as .*, got 3",
        ),
        ({"measures": [RequestScores()] * 2}, InputError, "two are named 'scores'"),
        ({"edits": [1]}, InputError, "edits: expected edits by name"),
        ({"edits": {UNEDITED: None}}, InputError, "expected names other than 'unedited'"),
        ({"edits": {"e": 3}}, InputError, r"edits\['e'\]: expected an EditSet"),
        ({"edits": {"e": []}}, InputError, "expected one for each of the 2 requests"),
        ({"measures": [RequestScores]}, InputError, r"measures\[0\]: .* make one of the class"),
        ({"measures": [Counting([], name="summary")]}, InputError, "its name becomes that of a file"),
        ({"measures": [Counting([], name="../x")]}, InputError, "its name becomes that of a file"),
        ({"cases": []}, InputError, "requests: expected at least one"),
        ({"at_once": 0}, RangeError, "at_once"),
        ({"batch_size": 0}, RangeError, "batch_size"),
        ({"collateral_edits": 0}, RangeError, "collateral_edits: expected 1 or more, or None"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_run(
    tiny_model: HookedTransformer, how: dict[str, Any], error: type[Exception], message: str
) -> None:
    asked: list[Any] = []
    given = {"cases": CASES, "measures": [Counting(asked)], **how}
    with pytest.raises(error, match=message):
        run_suite(tiny_model, given.pop("cases"), given.pop("measures"), **given)
    assert asked == []


def test_edits_of_other_requests_are_refused_by_suites_and_by_evaluate(tiny_model: HookedTransformer) -> None:
    """Else a wrong order would give efficacy 0 without a word."""
    own = [
        replace(random_edit(tiny_model, seed), requests=(case.request,)) for seed, case in enumerate(CASES)
    ]
    run_suite(tiny_model, CASES, [RequestScores()], edits={"own": own})
    message = r"\[0\]: made for 'Paris is the capital of' -> ' Italy', but requests\[0\] is 'Miles Davis"
    with pytest.raises(InputError, match=r"edits\['own'\]" + message):
        run_suite(tiny_model, CASES, [RequestScores()], edits={"own": own[::-1]})
    with pytest.raises(InputError, match="edits" + message):
        evaluate(tiny_model, [MILES, PARIS], edits=own[::-1])


def test_rows_that_say_too_little_are_refused_at_once(tiny_model: HookedTransformer) -> None:
    class Mute(Counting):
        def prepare(self, *rest: Any) -> Reader:
            return lambda edit, chosen: [{"one": 1.0}]

    class Tensors(Counting):
        def prepare(self, *rest: Any) -> Reader:
            return lambda edit, chosen: [{"one": torch.ones(1), "item": "x", "request": 0}]

    with pytest.raises(InputError, match="counting: its rows lack item, request"):
        run_suite(tiny_model, CASES, [Mute([])])
    with pytest.raises(InputError, match="counting: expected a plain value in the column 'one', got Tensor"):
        run_suite(tiny_model, CASES, [Tensors([])])


def test_an_edit_of_another_model_is_refused(tiny_model: HookedTransformer) -> None:
    edit = EditSet(random_edit(tiny_model, 1).edits, "0" * 64)
    with pytest.raises(ModelError, match="computed for another model"):
        run_suite(tiny_model, CASES, [RequestScores()], edits={"e": edit})


def test_tables_and_edits_that_are_not_there_are_named(tiny_model: HookedTransformer) -> None:
    found = run_suite(tiny_model, CASES, [HeldOutPerplexity(TEXTS)], edits={"e": random_edit(tiny_model, 1)})
    with pytest.raises(InputError, match="edit: expected one of unedited, e, got 'f'"):
        found.rows("perplexity", "f")
    with pytest.raises(InputError, match="table: expected one of perplexity, got 'scores'"):
        found.scores("e")
    with pytest.raises(InputError, match="reference: expected one of unedited, e, got 'f'"):
        found.compare("f")
    with pytest.raises(InputError, match="drawdown: expected scores or questions"):
        found.drawdown()
    with pytest.raises(InputError, match="by_relation: expected scores"):
        found.by_relation("e")
    assert NAME in random_edit(tiny_model, 1).parameters
