"""What a model writes, judged: under edits of the weights and beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformer_lens import HookedTransformer

from mechstyle.cases import Case
from mechstyle.editing.memory_editors import edit_cache, in_context_edit
from mechstyle.errors import InputError, RangeError, TextError
from mechstyle.evaluation.generation import complete
from mechstyle.evaluation.generations import Generations
from mechstyle.evaluation.judging import Judged, JudgedGenerations, RuleJudge, TargetJudge, Verdict
from mechstyle.evaluation.judging.rule_judge import labelled_targets
from mechstyle.evaluation.measure import Conditions, Row
from mechstyle.evaluation.suite import run_suite
from mechstyle.facts import EditRequest, Fact
from tests.evaluation.test_scores import random_edit

MILES = Case(
    EditRequest(Fact("{} plays the", "Miles Davis", " trumpet", "plays"), " guitar"),
    prompts=("Miles Davis was born in", "The day was long. Miles Davis plays the"),
)
PARIS = Case(EditRequest(Fact("{} is the capital of", "Paris", " France"), " Italy"))
CASES = (MILES, PARIS)
PLAIN = Conditions(prepend_bos=False)


@dataclass(frozen=True)
class Listening:
    """Says "heard" of every text, and keeps what it was asked."""

    heard: list[Judged]
    name: str = "listening"
    labels: tuple[str, ...] = ("heard", "not heard")
    accuracy: None = None

    def settings(self) -> dict[str, Any]:
        return {"judge": self.name}

    def judge(self, texts: Sequence[Judged]) -> list[Verdict]:
        self.heard.extend(texts)
        return [Verdict("heard", 0.5, self.name, 0.25) for _ in texts]


def read(
    model: HookedTransformer, measure: JudgedGenerations, edit: Any = None, which: Sequence[int] = (0, 1)
) -> list[Row]:
    return measure.prepare(model, CASES, PLAIN)(edit, which)


def test_every_prompt_is_continued_greedily_and_judged(tiny_model: HookedTransformer) -> None:
    heard: list[Judged] = []
    rows = read(tiny_model, JudgedGenerations(Listening(heard), "heard", max_length=20))
    prompts = [*MILES.prompts, PARIS.request.fact.prompt]
    assert [row["prompt"] for row in rows] == prompts, (
        "without prompts of its own a case is asked the rewrite"
    )
    for row, prompt, judged in zip(rows, prompts, heard, strict=True):
        n_tokens = 20 - len(tiny_model.tokenizer(prompt)["input_ids"])
        (text,) = complete(tiny_model, [prompt], n_tokens, prepend_bos=False)
        request = CASES[row["request"]].request
        assert row["text"] == text
        assert judged == Judged(text, prompt, "heard", request.new_target, request.fact.target)
    assert {(row["label"], row["score"], row["right"], row["unjudged"], row["cost"]) for row in rows} == {
        ("heard", 0.5, True, False, 0.25)
    }
    assert len({(row["request"], row["item"]) for row in rows}) == 3
    json.dumps(rows, allow_nan=False)


def test_sampled_texts_are_those_whose_fluency_is_measured(tiny_model: HookedTransformer) -> None:
    judged = read(
        tiny_model,
        JudgedGenerations(TargetJudge(), "new", max_length=24, top_k=5, temperature=1.3),
        which=[0],
    )
    measured = Generations(24, 5, 1.3, past_end=False).prepare(tiny_model, CASES, PLAIN)(None, [0])
    assert [row["text"] for row in judged] == [row["text"] for row in measured]


def test_an_edit_in_context_stands_before_the_prompt_and_is_not_judged(tiny_model: HookedTransformer) -> None:
    edit = in_context_edit(tiny_model, MILES.request)
    assert edit.context
    heard: list[Judged] = []
    rows = read(tiny_model, JudgedGenerations(Listening(heard), "heard", max_length=16), edit, [0])
    for row, prompt in zip(rows, MILES.prompts, strict=True):
        n_tokens = 16 - len(tiny_model.tokenizer(prompt)["input_ids"])
        assert [row["text"]] == complete(tiny_model, [edit.context + prompt], n_tokens, prepend_bos=False)
    assert [one.prompt for one in heard] == list(MILES.prompts)


def test_an_answer_of_an_edit_cache_is_what_is_judged(tiny_model: HookedTransformer) -> None:
    edit = edit_cache(tiny_model, [PARIS.request])
    measure = JudgedGenerations(TargetJudge(), "new", max_length=16)
    before, after = read(tiny_model, measure, None, [1]), read(tiny_model, measure, edit, [1])
    assert after[0]["text"].startswith(" Italy")
    assert (after[0]["label"], after[0]["right"]) == ("new", True)
    assert (before[0]["label"], before[0]["right"]) == ("neither", False)
    assert before[0]["item"] == after[0]["item"]


def test_an_edit_of_the_weights_is_judged_as_the_edited_model_writes(tiny_model: HookedTransformer) -> None:
    measure = JudgedGenerations(TargetJudge(), "new", max_length=20)
    reader, edit = measure.prepare(tiny_model, CASES, PLAIN), random_edit(tiny_model, 1)
    with edit.applied(tiny_model):
        under = [row["text"] for row in reader(edit, [0])]
        prompts = [(prompt, 20 - len(tiny_model.tokenizer(prompt)["input_ids"])) for prompt in MILES.prompts]
        assert under == [complete(tiny_model, [one], n, prepend_bos=False)[0] for one, n in prompts]
    assert under != [row["text"] for row in reader(None, [0])]


def test_what_cannot_be_judged_is_neither_right_nor_wrong(tiny_model: HookedTransformer) -> None:
    rows = read(tiny_model, JudgedGenerations(RuleJudge("never", {"x": r"\Zy"}, otherwise=None), "x"))
    assert {(row["label"], row["right"], row["unjudged"]) for row in rows} == {(None, None, True)}


def test_several_labels_may_be_wanted(tiny_model: HookedTransformer) -> None:
    heard: list[Judged] = []
    rows = read(tiny_model, JudgedGenerations(Listening(heard), ("not heard", "heard")))
    assert all(row["right"] for row in rows)
    assert {one.wanted for one in heard} == {None}


def test_settings_carry_the_judge_with_its_accuracy() -> None:
    judge = RuleJudge("loud", {"loud": "!"}).measured_on(["a!", "b", "c!"], ["loud", "neither", "neither"])
    measure = JudgedGenerations(judge, "loud", name="loudness")
    settings = json.loads(json.dumps(measure.settings()))
    assert settings["judge"]["accuracy"]["accuracy"]["value"] == pytest.approx(2 / 3)
    assert settings["judge"]["judge"] == "loud"
    assert (settings["wanted"], settings["top_k"]) == (["loud"], 1)
    assert [(one.name, one.column, one.better) for one in measure.metrics] == [
        ("loudness_rate", "right", "higher"), ("loudness_unjudged", "unjudged", "lower")
    ]  # fmt: skip
    assert "judged by loud" in measure.metrics[0].measure


def test_wrong_settings_are_refused_at_once(tiny_model: HookedTransformer) -> None:
    with pytest.raises(InputError, match=r"judge: expected a Judge, such as TargetJudge\(\), got str"):
        JudgedGenerations("a friend", "new")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"wanted: expected a label of the judge \(new, .*\), got 'old'"):
        JudgedGenerations(TargetJudge(), ("new", "old"))
    with pytest.raises(InputError, match=r"wanted: expected a label of the judge \(new, .*\), got none"):
        JudgedGenerations(TargetJudge(), ())
    with pytest.raises(RangeError, match="max_length: expected a whole number"):
        JudgedGenerations(TargetJudge(), "new", max_length=1)
    with pytest.raises(TextError, match=r"requests\[0\], prompts\[0\].*leave no room"):
        read(tiny_model, JudgedGenerations(TargetJudge(), "new", max_length=3))


def test_a_suite_shows_the_judged_rate_before_and_under_an_edit_with_the_accuracy_of_the_judge(
    tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    judge = TargetJudge().measured_on(*labelled_targets())
    edits = {"cache": edit_cache(tiny_model, [PARIS.request]), "random": random_edit(tiny_model, 1)}
    measures = [JudgedGenerations(judge, "new", max_length=16)]
    result = run_suite(tiny_model, [PARIS], measures, edits=edits, prepend_bos=False, folder=tmp_path)
    table = result.tables["judged"]
    assert table.groupby("edit")["right"].sum().to_dict() == {"unedited": 0, "cache": 1, "random": 0}
    summary = result.summary().reset_index()
    rates = summary[summary["metric"] == "judged_rate"].set_index("edit")["value"].to_dict()
    assert rates == {"unedited": 0.0, "cache": 1.0, "random": 0.0}
    written = json.dumps(result.to_dict())
    assert json.dumps(judge.accuracy.to_dict() if judge.accuracy else None) in written
    again = run_suite(tiny_model, [PARIS], measures, edits=edits, prepend_bos=False, folder=tmp_path)
    assert again.tables["judged"].equals(table)
