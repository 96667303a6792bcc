"""Belief consistency: answers planted in a cache, a model that ignores its prompt, and a plain loop."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from transformer_lens import HookedTransformer
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from mechstyle.beliefs import Belief, BeliefChain
from mechstyle.cases import Case
from mechstyle.editing.memory import EditCache
from mechstyle.editing.memory_editors import edit_cache, in_context_edit
from mechstyle.errors import InputError, TextError
from mechstyle.evaluation.beliefs import BeliefConsistency
from mechstyle.evaluation.measure import Conditions, Row
from mechstyle.facts import EditRequest, Fact
from tests.evaluation.test_scores import edited, random_edit, unigram
from tests.oracles import score_loop

MILES = EditRequest(Fact("The instrument of {} is the", "Miles Davis", " trumpet", "plays"), " guitar")
CHAIN = BeliefChain(
    Belief(MILES.fact.prompt, (" guitar", " trumpet", " piano")),
    Belief("The capital of the {} is", (" Paris", " London", " Rome")),
    "The capital of the instrument of Miles Davis is",
    "the capital of the instrument of Miles Davis is {}",
)
MEASURE = BeliefConsistency((CHAIN,))
PLAIN = Conditions(prepend_bos=False, batch_size=5)
CAPITALS = {
    "The capital of the guitar is": " Paris",
    "The capital of the trumpet is": " London",
    "The capital of the piano is": " Rome",
}


def planted(model: HookedTransformer, answers: dict[str, str]) -> EditCache:
    """A cache that gives each prompt its answer; the prompt's first word counts as the subject."""
    requests = []
    for prompt, answer in answers.items():
        subject, rest = prompt.split(maxsplit=1)
        requests.append(EditRequest(Fact(f"{{}} {rest}", subject, " something else"), answer))
    return edit_cache(model, requests)


def asked(question: str, answer: str) -> str:
    return f"Is it {question} that the capital of the instrument of Miles Davis is {answer}? Answer:"


def rows(model: HookedTransformer, measure: BeliefConsistency, edit: Any = None) -> list[Row]:
    reader = measure.prepare(model, [Case(MILES)], PLAIN)
    return reader(edit, [0])


def chain_row(model: HookedTransformer, answers: dict[str, str]) -> Row:
    return rows(model, MEASURE, planted(model, answers))[0]


def test_beliefs_that_imply_each_other_are_consistent_whatever_they_are(
    tiny_model: HookedTransformer,
) -> None:
    for believed, implied in ((" guitar", " Paris"), (" trumpet", " London"), (" piano", " Rome")):
        row = chain_row(tiny_model, {**CAPITALS, CHAIN.first.prompt: believed, CHAIN.compound: implied})
        assert (row["first"], row["second"], row["compound"]) == (believed, implied, implied)
        assert (row["consistent"], row["control"], row["gain"]) == (True, 0, 1)
        assert row["believes_new"] == (believed == " guitar")


def test_an_edit_that_the_compound_does_not_follow_is_inconsistent(tiny_model: HookedTransformer) -> None:
    row = chain_row(tiny_model, {**CAPITALS, CHAIN.first.prompt: " guitar", CHAIN.compound: " London"})
    assert (row["second"], row["compound"], row["consistent"]) == (" Paris", " London", False)
    assert (row["control"], row["gain"]) == (1 / 2, -1 / 2)  # one of two other answers would imply it


def test_consistency_is_about_the_models_own_second_belief_and_not_about_the_truth(
    tiny_model: HookedTransformer,
) -> None:
    wrong = {**CAPITALS, "The capital of the guitar is": " Rome", "The capital of the piano is": " Paris"}
    row = chain_row(tiny_model, {**wrong, CHAIN.first.prompt: " guitar", CHAIN.compound: " Rome"})
    assert (row["consistent"], row["gain"]) == (True, 1)


def test_a_model_that_ignores_what_it_is_asked_gains_nothing(tiny_model: HookedTransformer) -> None:
    model = unigram(tiny_model, {" trumpet": 9, " guitar": 5})
    chain = replace(CHAIN, second=Belief(CHAIN.second.prompt, (" guitar", " trumpet", " piano")))
    measure = BeliefConsistency((chain,), yes=" trumpet", no=" guitar")
    found = rows(model, measure)
    assert [row["kind"] for row in found] == ["chain", "yes-no"]
    assert (found[0]["consistent"], found[0]["control"], found[0]["gain"]) == (True, 1, 0)


def test_a_model_that_always_says_yes_scores_a_half(tiny_model: HookedTransformer) -> None:
    model = unigram(tiny_model, {" trumpet": 9, " guitar": 5})
    for yes, no in ((" trumpet", " guitar"), (" guitar", " trumpet")):
        row = rows(model, BeliefConsistency((CHAIN,), yes=yes, no=no))[1]
        assert (row["consistent"], row["uncalibrated"]) == (0.5, 0.5)
        assert row["margin_implied"] == pytest.approx(0, abs=1e-5)


def test_planted_verdicts_have_their_known_scores(tiny_model: HookedTransformer) -> None:
    beliefs = {**CAPITALS, CHAIN.first.prompt: " trumpet", CHAIN.compound: " London"}
    verdicts = [asked(how, which) for which in ("London", "Paris") for how in ("true", "false")]
    for said, expected in (
        ((" yes", " no", " no", " yes"), 1),  # true: London; false: Paris
        ((" no", " yes", " yes", " no"), 0),
        ((" yes", " no", " yes", " no"), 0.5),
    ):
        plan = {**beliefs, **dict(zip(verdicts, said, strict=True))}
        row = rows(tiny_model, MEASURE, planted(tiny_model, plan))[1]
        assert (row["implied"], row["other"]) == (" London", " Paris")
        assert (row["consistent"], row["uncalibrated"]) == (expected, expected)


def test_a_no_to_a_statement_and_to_its_negation_counts_without_calibration_only(
    tiny_model: HookedTransformer,
) -> None:
    plan = {**CAPITALS, CHAIN.first.prompt: " trumpet", CHAIN.compound: " London"}
    plan |= {asked("true", "London"): " no", asked("false", "London"): " no"}
    plan |= {asked("true", "Paris"): " no", asked("false", "Paris"): " yes"}
    row = rows(tiny_model, MEASURE, planted(tiny_model, plan))[1]
    assert row["uncalibrated"] == 0.5
    assert abs(row["margin_implied"]) < abs(row["margin_other"])


def by_hand(
    hf: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, front: str, *, mean: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    @functools.cache
    def logp(prompt: str, answer: str) -> float:
        said = score_loop.answer(hf, tokenizer, front + prompt, answer)
        return said.mean if mean else sum(said.logps)

    def best(prompt: str, candidates: Sequence[str]) -> str:
        return max(candidates, key=lambda one: logp(prompt, one))

    def margin(prompt: str) -> float:
        return logp(prompt, " yes") - logp(prompt, " no")

    first = best(CHAIN.first.prompt, CHAIN.first.candidates)
    seconds = {
        one: best(f"The capital of the{one} is", CHAIN.second.candidates) for one in CHAIN.first.candidates
    }
    second, compound = seconds.pop(first), best(CHAIN.compound, CHAIN.second.candidates)
    control = sum(one == compound for one in seconds.values()) / 2
    other = " London" if second == " Paris" else " Paris"
    implied_margin, other_margin = (
        margin(asked("true", one[1:])) - margin(asked("false", one[1:])) for one in (second, other)
    )
    assert min(abs(implied_margin), abs(other_margin)) > 1e-3
    chain = {"first": first, "second": second, "compound": compound, "control": control}
    yes_no = {
        "implied": second,
        "margin_implied": implied_margin,
        "margin_other": other_margin,
        "consistent": ((implied_margin > 0) + (other_margin < 0)) / 2,
        "uncalibrated": (
            (margin(asked("true", second[1:])) > 0) + (margin(asked("true", other[1:])) < 0)
        ) / 2,
    }  # fmt: skip
    return {**chain, "consistent": second == compound, "gain": (second == compound) - control}, yes_no


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_rows_equal_a_plain_loop_before_and_under_edits(
    tiny_model: HookedTransformer,
    tiny_hf: GPT2LMHeadModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    reduce: Any,
) -> None:
    measure = replace(MEASURE, reduce=reduce)
    reader = measure.prepare(tiny_model, [Case(MILES)], PLAIN)
    told = in_context_edit(tiny_model, MILES)
    weights = random_edit(tiny_model, 3)
    stages = [(None, tiny_hf, ""), (weights, edited(tiny_hf, weights), ""), (told, tiny_hf, told.context)]
    for edit, hf, front in stages if reduce == "mean" else stages[1:2]:
        if edit is None:
            found = reader(None, [0])
        else:
            with edit.applied(tiny_model):
                found = reader(edit, [0])
        for row, expected in zip(
            found, by_hand(hf, tiny_tokenizer, front, mean=reduce == "mean"), strict=True
        ):
            for name, value in expected.items():
                assert row[name] == (pytest.approx(value, abs=5e-5) if isinstance(value, float) else value), (
                    name
                )


def test_rows_can_be_paired_written_as_json_and_belong_to_their_case(tiny_model: HookedTransformer) -> None:
    other = EditRequest(Fact("{} is the capital of", "Paris", " France"), " Italy")
    second = BeliefChain(
        Belief(other.fact.prompt, (" Italy", " France")),
        Belief("People in {} speak", (" Italian", " French")),
        "In the country of Paris people speak",
    )
    measure = BeliefConsistency((second, CHAIN, replace(CHAIN, compound="Its capital is", statement=None)))
    cases = [Case(MILES), Case(EditRequest(other.fact, " London")), Case(replace(MILES, new_target=" piano"))]
    reader = measure.prepare(tiny_model, cases, PLAIN)
    found = reader(None, [2, 0, 1])
    assert [(row["request"], row["kind"]) for row in found if row["kind"] == "chain"] == [
        (2, "chain"), (2, "chain"), (0, "chain"), (0, "chain"), (1, "chain")
    ]  # fmt: skip
    assert [row["request"] for row in found if row["kind"] == "yes-no"] == [2, 0]
    assert len({(row["request"], row["item"]) for row in found}) == len(found) == 7
    assert json.loads(json.dumps(found)) == found
    assert reader(None, []) == []
    apart = [*reader(None, [2]), *reader(None, [0]), *reader(None, [1])]
    assert sorted(map(str, apart)) == sorted(map(str, found))
    assert json.loads(json.dumps(measure.settings()))["chains"][0]["compound"] == second.compound


def test_metrics_are_means_of_columns_that_the_rows_have(tiny_model: HookedTransformer) -> None:
    found = rows(tiny_model, MEASURE)
    for metric in MEASURE.metrics:
        values = [row[metric.column] for row in found if row["kind"] == metric.kind]
        assert len(values) == 1
        assert math.isfinite(values[0])


def test_chains_without_a_case_and_prompts_that_do_not_fit_are_told_before_any_run(
    tiny_model: HookedTransformer,
) -> None:
    foreign = replace(CHAIN, first=Belief("Nobody plays the", (" guitar", " piano")))
    with pytest.raises(InputError, match=r"chains: expected a case that edits 'Nobody plays the', a chain's"):
        BeliefConsistency((CHAIN, foreign)).prepare(tiny_model, [Case(MILES)], PLAIN)
    long = BeliefConsistency((replace(CHAIN, compound="word " * 80 + "is"),))
    with pytest.raises(TextError, match=r"requests\[0\], belief prompt 'word word"):
        long.prepare(tiny_model, [Case(MILES)], PLAIN)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"chains": ()}, InputError, "chains: expected one or more BeliefChains, got"),
        ({"chains": ("a",)}, InputError, "chains: expected one or more BeliefChains, got"),
        ({"reduce": "max"}, InputError, "reduce: expected"),
        ({"question": "True?"}, TextError, "question: expected '{}' exactly once"),
        ({"negation": "{} {}"}, TextError, "negation: expected '{}' exactly once"),
        ({"no": " yes"}, TextError, "no: expected another answer than yes=' yes'"),
    ],
)
def test_wrong_settings_are_told(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        BeliefConsistency(**{"chains": (CHAIN,), **options})


def test_wrong_chains_are_told() -> None:
    with pytest.raises(TextError, match=r"Belief.candidates: expected two or more different answers to 'A'"):
        Belief("A", (" b", " b"))
    with pytest.raises(TextError, match=r"Belief.candidates: expected a tuple of texts, got ' b'"):
        Belief("A", " b")  # type: ignore[arg-type]
    with pytest.raises(TextError, match=r"Belief.candidates\[1\]: expected text that is not blank"):
        Belief("A", (" b", " "))
    with pytest.raises(TextError, match=r"BeliefChain.second.prompt: expected '{}' exactly once"):
        replace(CHAIN, second=Belief("The capital is", (" b", " c")))
    with pytest.raises(TextError, match=r"BeliefChain.first: expected a Belief, got str"):
        replace(CHAIN, first="Who?")  # type: ignore[arg-type]
    with pytest.raises(TextError, match=r"BeliefChain.statement: expected '{}' exactly once"):
        replace(CHAIN, statement="it is so")
    with pytest.raises(TextError, match=r"BeliefChain.statement: expected text with '{}', got None"):
        replace(CHAIN, statement=None).stated(" b")
