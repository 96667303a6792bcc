"""Questions of any scope: right answers by three kinds of success, against known chances and a plain loop."""

from __future__ import annotations

import math

import pytest
from transformer_lens import HookedTransformer
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from mechstyle.cases import Case, Question
from mechstyle.editing.memory_editors import edit_cache, in_context_edit
from mechstyle.errors import InputError, TextError
from mechstyle.evaluation.measure import Conditions
from mechstyle.evaluation.questions import Questions
from tests.evaluation.measures import CASES, MILES, PARIS, random_edit, stages, unigram, unigram_edit
from tests.oracles import score_loop

TWO = Question("place", "near", "Rome is the capital of", (" France", " Italy"), (" trumpet", " guitar"))


def rows_of(model: HookedTransformer, *questions: Question, **how: bool) -> list[dict[str, object]]:
    cases = [Case(MILES, questions=questions)]
    return Questions.of(cases, **how).prepare(model, cases, Conditions(False))(None, [0])


def test_every_row_equals_a_loop_over_single_tokens_before_and_under_the_edit(
    tiny_model: HookedTransformer, tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    before, after = stages(tiny_model, Questions.of(CASES), random_edit(tiny_model, 1))
    assert [row["request"] for row in before] == [0, 0, 1]
    assert [row["item"] for row in before] == [row["item"] for row in after]
    for row in before:
        answer = score_loop.answer(tiny_hf, tiny_tokenizer, row["prompt"], row["answer"])
        foil = score_loop.answer(tiny_hf, tiny_tokenizer, row["prompt"], row["foil"])
        assert row["logp_answer"] == pytest.approx(answer.mean, abs=2e-5)
        assert row["logp_foil"] == pytest.approx(foil.mean, abs=2e-5)
        assert row["p_answer"] == pytest.approx(math.exp(answer.mean), abs=2e-5)
        assert row["success"] == (answer.mean > foil.mean)
        assert row["exact"] == answer.exact
    assert any(one["logp_answer"] != other["logp_answer"] for one, other in zip(before, after, strict=True))


def test_the_most_probable_answer_competes_with_the_most_probable_foil(tiny_model: HookedTransformer) -> None:
    model = unigram(tiny_model, {" Italy": 6, " France": 2, " guitar": 4, " trumpet": 3})
    (row,) = rows_of(model, TWO)
    total = model.cfg.d_vocab - 4 + 15
    assert (row["answer"], row["foil"], row["success"], row["exact"]) == (" Italy", " guitar", True, True)
    assert (row["p_answer"], row["p_foil"]) == (
        pytest.approx(6 / total, rel=1e-5),
        pytest.approx(4 / total, rel=1e-5),
    )


def test_an_edit_with_a_known_effect_moves_success_as_it_must(tiny_model: HookedTransformer) -> None:
    model = unigram(tiny_model, {" Italy": 6, " guitar": 4})
    before, after = stages(
        model, Questions(("place",)), unigram_edit(model, {" guitar": 3}), [Case(MILES, questions=(TWO,))]
    )
    assert [(row["success"], row["exact"]) for row in (*before, *after)] == [(True, True), (False, False)]


def test_a_question_without_foils_is_counted_by_exact_matches_alone(tiny_model: HookedTransformer) -> None:
    model = unigram(tiny_model, {" Italy": 6})
    (row,) = rows_of(model, Question("place", "near", "Rome is the capital of", (" Italy",)))
    assert (row["success"], row["foil"], row["p_foil"], row["exact"]) == (None, None, None, True)


def test_free_generation_counts_any_answer(tiny_model: HookedTransformer) -> None:
    model = unigram(tiny_model, {" Italy": 6})
    asked = [
        Question("place", "near", "Rome is the capital of", (" France", " Italy"), (" the",)),
        Question("place", "near", "Paris is the capital of", (" France",), (" Italy",)),
    ]
    first, second = rows_of(model, *asked, generate=True)
    assert (first["generated"], second["generated"]) == (True, False)
    assert str(first["completion"]).startswith(" Italy Italy")
    names = [metric.name for metric in Questions(("place",), generate=True).metrics]
    assert names == ["place", "place_exact", "place_generated"]


def test_what_requires_knowledge_that_the_model_lacks_is_kept_but_not_counted(
    tiny_model: HookedTransformer,
) -> None:
    model = unigram(tiny_model, {" Italy": 6, " France": 4})
    known, unknown = (("Rome is in", " Italy"), ("Paris is in", " France"))
    fair = Question("two-hop", "hard in", "He was born in", (" Italy",), (" France",), (known,))
    unfair = Question("two-hop", "hard in", "He lives in", (" Italy",), (" France",), (known, unknown))
    first, second = rows_of(model, fair, unfair)
    assert (first["fair"], first["success"], first["fair_success"]) == (True, True, True)
    assert (second["fair"], second["success"], second["fair_success"]) == (False, True, None)


def test_fairness_is_that_of_the_unedited_model(tiny_model: HookedTransformer) -> None:
    model = unigram(tiny_model, {" Italy": 6, " France": 4})
    question = Question("two-hop", "hard in", "He", (" Italy",), (" France",), (("Rome is in", " Italy"),))
    before, after = stages(
        model,
        Questions(("two-hop",)),
        unigram_edit(model, {" France": 9}),
        [Case(MILES, questions=(question,))],
    )
    assert [(row["fair"], row["success"]) for row in (*before, *after)] == [(True, True), (True, False)]


@pytest.mark.parametrize("batch_size", [1, 2, 50])
def test_rows_do_not_depend_on_the_batch_or_on_the_other_cases(
    tiny_model: HookedTransformer, batch_size: int
) -> None:
    questions = Questions.of(CASES)
    whole = questions.prepare(tiny_model, CASES, Conditions(False, 32))(None, [0, 1])
    read = questions.prepare(tiny_model, CASES, Conditions(False, batch_size))
    apart = [*read(None, [0]), *read(None, [1])]
    for one, other in zip(whole, apart, strict=True):
        assert {key: value for key, value in one.items() if not isinstance(value, float)} == {
            key: value for key, value in other.items() if not isinstance(value, float)
        }
        assert one["logp_answer"] == pytest.approx(other["logp_answer"], abs=1e-5)


def test_sum_compares_whole_answers_and_mean_their_tokens(tiny_model: HookedTransformer) -> None:
    model = unigram(tiny_model, {" pian": 8, "o": 8, " guitar": 4})
    question = Question("plays", "in", "He plays the", (" piano",), (" guitar",))
    assert [rows_of(model, question, reduce=how)[0]["success"] for how in ("mean", "sum")] == [True, False]  # type: ignore[arg-type]


def test_a_cached_answer_is_right_where_it_is_asked_for(tiny_model: HookedTransformer) -> None:
    question = Question("rewrite", "in", MILES.fact.prompt, (" guitar",), (" trumpet",))
    cases = [Case(MILES, questions=(question,))]
    measure = Questions.of(cases, generate=True)
    _, after = stages(tiny_model, measure, edit_cache(tiny_model, MILES), cases)
    (row,) = after
    assert (row["success"], row["exact"], row["generated"], row["accuracy"]) == (True, True, True, 1.0)
    assert row["completion"] == " guitar"


def test_an_edit_in_context_stands_before_the_question(
    tiny_model: HookedTransformer, tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    edit = in_context_edit(tiny_model, MILES)
    _, after = stages(tiny_model, Questions.of(CASES), edit)
    row = after[1]
    wanted = score_loop.answer(tiny_hf, tiny_tokenizer, edit.context + row["prompt"], row["answer"])
    assert row["logp_answer"] == pytest.approx(wanted.mean, abs=2e-5)


def test_kinds_come_from_the_cases_and_only_these_are_asked(tiny_model: HookedTransformer) -> None:
    assert Questions.of(CASES).kinds == ("reversal", "place")
    rows = Questions(("place",)).prepare(tiny_model, CASES, Conditions(False))(None, [0, 1])
    assert [row["kind"] for row in rows] == ["place", "place"]
    assert Questions(("place",)).prepare(tiny_model, [Case(PARIS)], Conditions(False))(None, [0]) == []


def test_wrong_questions_are_told_before_anything_is_run(tiny_model: HookedTransformer) -> None:
    with pytest.raises(InputError, match="cases: expected questions, but none of the cases holds any"):
        Questions.of([Case(MILES)])
    with pytest.raises(InputError, match="reduce: expected 'mean' or 'sum', got 'max'"):
        Questions(("place",), reduce="max")  # type: ignore[arg-type]
    long = Question("place", "near", "Rome is a city. " * 40, (" Italy",))
    with pytest.raises(TextError, match=r"requests\[0\], place prompt .* too long"):
        rows_of(tiny_model, long)
    unread = Question("place", "near", "Rome", (" Italy",), (), (("Rome is a city. " * 40, " Italy"),))
    with pytest.raises(TextError, match=r"requests\[0\], place prompt 'Rome', which requires"):
        rows_of(tiny_model, unread)
