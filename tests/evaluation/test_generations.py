"""Fluency and consistency of generations against a plain loop, under edits of the weights and beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from transformer_lens import HookedTransformer
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from mechstyle.cases import Case
from mechstyle.editing.memory_editors import edit_cache, in_context_edit
from mechstyle.errors import RangeError, TextError
from mechstyle.evaluation.fluency import words
from mechstyle.evaluation.generations import Generations
from mechstyle.evaluation.measure import Conditions
from mechstyle.evaluation.sampling import uniforms
from mechstyle.evaluation.similarity import TfidfSpace
from mechstyle.facts import EditRequest, Fact
from tests.evaluation.test_scores import edited, random_edit, unigram
from tests.oracles import text_scores

MILES = Case(
    EditRequest(Fact("{} plays the", "Miles Davis", " trumpet", "plays"), " guitar"),
    prompts=("Miles Davis was born in", "Miles Davis plays the", "Miles Davis was born in"),
    references=("Jimi Hendrix plays the guitar.", "The guitar is an instrument."),
)
PARIS = Case(
    EditRequest(Fact("{} is the capital of", "Paris", " France"), " Italy"), prompts=("Paris is a city in",)
)
SILENT = Case(PARIS.request, references=("Rome is the capital of Italy.",))
CASES = (MILES, PARIS, SILENT)
SHORT = Generations(max_length=24)
EVERY = range(len(CASES))


def loop(
    hf: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    case: int,
    place: int,
    front: str = "",
    answer: str = "",
    bos: bool = False,
    seed: int = 0,
    length: int = 24,
    top_k: int | None = 5,
) -> str:
    """The text behind a prompt, of ``length`` tokens together with it; a blank line for each end of text."""
    prompt = CASES[case].prompts[place]
    room = length - len(tokenizer(prompt)["input_ids"])
    said = tokenizer(answer)["input_ids"]
    ids = [tokenizer.bos_token_id] * bos + tokenizer(front + prompt)["input_ids"] + said
    numbers = uniforms(seed, ("generations", case, place), room)[len(said) :]
    new = text_scores.sampled(hf, tokenizer, ids, numbers, top_k=top_k, past_end=True)
    return answer + tokenizer.decode(new).replace(tokenizer.eos_token, "\n\n")


def by_kind(rows: Sequence[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["kind"] == kind]


@pytest.mark.parametrize(("bos", "seed", "top_k"), [(False, 0, 5), (True, 7, None)])
def test_rows_equal_a_plain_loop_before_an_edit_and_under_it(
    tiny_model: HookedTransformer,
    tiny_hf: GPT2LMHeadModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    bos: bool,
    seed: int,
    top_k: int | None,
) -> None:
    reader = replace(SHORT, top_k=top_k).prepare(
        tiny_model, CASES, Conditions(prepend_bos=bos, seed=seed, batch_size=3)
    )
    edit = random_edit(tiny_model, 1)
    before = reader(None, EVERY)
    with edit.applied(tiny_model):
        after = reader(edit, EVERY)
    documents = [*MILES.references, *SILENT.references]
    for hf, rows in ((tiny_hf, before), (edited(tiny_hf, edit), after)):
        generated = by_kind(rows, "generation")
        places = [(0, 0), (0, 1), (0, 2), (1, 0)]
        texts = []
        for row, (case, place) in zip(generated, places, strict=True):
            own = loop(hf, tiny_tokenizer, case=case, place=place, bos=bos, seed=seed, top_k=top_k)
            texts.append(row["prompt"] + own)
            assert (row["request"], row["prompt"]) == (case, CASES[case].prompts[place])
            assert row["text"] == own
            assert row["fluency"] == pytest.approx(text_scores.fluency(words(texts[-1])))
        (judged,) = by_kind(rows, "case")
        assert judged["request"] == 0
        wanted = text_scores.cosine(" ".join(texts[:3]), " ".join(MILES.references), documents)
        assert judged["consistency"] == pytest.approx(wanted)
    assert [row["item"] for row in before] == [row["item"] for row in after]
    assert before != after


def test_texts_go_on_behind_their_end_unless_they_are_not_to(tiny_model: HookedTransformer) -> None:
    """A model that says " trumpet" and the end of a text at even chances, as its two most probable tokens."""
    end = tiny_model.tokenizer.eos_token
    model = unigram(tiny_model, {" trumpet": 100, end: 100})
    whole, ended = (
        replace(SHORT, top_k=2, past_end=past_end).prepare(model, CASES, Conditions(False))(None, [0])[1]
        for past_end in (True, False)
    )
    assert whole["n_tokens"] == 20
    assert whole["text"].count(" trumpet") + whole["text"].count("\n\n") == 20
    assert set(words(whole["text"])) == {"trumpet"}
    assert whole["text"].startswith(ended["text"] + "\n\n")
    assert ended["text"] == " trumpet" * ended["n_tokens"]


def test_rows_of_one_case_are_those_of_all_cases_and_of_any_batch(tiny_model: HookedTransformer) -> None:
    together = SHORT.prepare(tiny_model, CASES, Conditions(False, batch_size=1))(None, EVERY)
    reader = SHORT.prepare(tiny_model, CASES, Conditions(False))
    assert [row for index in EVERY for row in reader(None, [index])] == together
    assert reader(None, [1, 0]) == [row for index in (1, 0) for row in together if row["request"] == index]
    assert reader(None, []) == reader(None, [2]) == []


def test_rows_are_plain_json_and_pair_by_request_and_item(tiny_model: HookedTransformer) -> None:
    rows = SHORT.prepare(tiny_model, CASES, Conditions(False))(None, EVERY)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert len({(row["request"], row["item"]) for row in rows}) == len(rows) == 5
    assert {row["relation"] for row in rows} == {"plays", None}
    for metric in SHORT.metrics:
        assert all(row[metric.column] is not None for row in by_kind(rows, str(metric.kind)))


def test_one_prompt_asked_twice_is_answered_with_two_draws_and_another_seed_with_others(
    tiny_model: HookedTransformer,
) -> None:
    first, other = (
        SHORT.prepare(tiny_model, CASES, Conditions(False, seed=seed))(None, [0]) for seed in (0, 1)
    )
    assert first[0]["prompt"] == first[2]["prompt"]
    assert first[0]["text"] != first[2]["text"]
    assert [row["text"] for row in first[:3]] != [row["text"] for row in other[:3]]


def test_texts_are_as_long_as_asked_for_or_as_the_models_context(tiny_model: HookedTransformer) -> None:
    n_ctx, tokenizer = int(tiny_model.cfg.n_ctx), tiny_model.tokenizer
    n_prompt = len(tokenizer(MILES.prompts[1])["input_ids"])
    for bos in (False, True):
        for asked, length in ((20, 20), (100, n_ctx - int(bos))):
            reader = Generations(max_length=asked).prepare(tiny_model, CASES, Conditions(bos))
            assert reader(None, [0])[1]["n_tokens"] == length - n_prompt


@pytest.mark.parametrize("bos", [False, True])
def test_prompts_stand_behind_the_context_of_an_edit_which_is_no_part_of_the_text(
    tiny_model: HookedTransformer,
    tiny_hf: GPT2LMHeadModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    bos: bool,
) -> None:
    edit = in_context_edit(tiny_model, MILES.request, prepend_bos=bos)
    rows = SHORT.prepare(tiny_model, CASES, Conditions(bos))(edit, [0])
    for place, row in enumerate(rows[:3]):
        own = loop(tiny_hf, tiny_tokenizer, case=0, place=place, front=edit.context, bos=bos)
        assert row["text"] == own
        assert row["fluency"] == pytest.approx(text_scores.fluency(words(row["prompt"] + own)))


@pytest.mark.parametrize("answer", [" guitar", " guitar too, and the long trumpet of London is the capital"])
def test_a_recalled_answer_comes_first_and_the_model_goes_on_with_the_draws_that_are_left(
    tiny_model: HookedTransformer,
    tiny_hf: GPT2LMHeadModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    answer: str,
) -> None:
    edit = edit_cache(tiny_model, replace(MILES.request, new_target=answer))
    reader = replace(SHORT, max_length=8).prepare(tiny_model, CASES, Conditions(False))
    before, after = reader(None, [0]), reader(edit, [0])
    said = len(tiny_tokenizer(answer)["input_ids"])
    assert after[1]["text"] == loop(tiny_hf, tiny_tokenizer, case=0, place=1, answer=answer, length=8)
    assert after[1]["text"].startswith(answer)
    assert after[1]["n_tokens"] == max(4, said)
    assert [after[0], after[2]] == [before[0], before[2]], "prompts that the cache does not know"


def test_a_given_space_is_used_as_it_is(tiny_model: HookedTransformer) -> None:
    documents = ["The guitar of Jimi Hendrix.", "The trumpet.", "A city in France is an instrument"]
    space = TfidfSpace.fit(documents)
    measure = replace(SHORT, space=space)
    rows = measure.prepare(tiny_model, CASES, Conditions(False))(None, [0])
    texts = " ".join(row["prompt"] + row["text"] for row in rows[:3])
    wanted = text_scores.cosine(texts, " ".join(MILES.references), documents)
    assert rows[3]["consistency"] == pytest.approx(wanted)
    assert measure.settings()["tfidf"] == {"n_documents": 3, "sha256": space.sha256}


def test_references_that_cases_share_are_one_document(tiny_model: HookedTransformer) -> None:
    twice = SHORT.prepare(tiny_model, (MILES, MILES, SILENT), Conditions(False))(None, [0])
    once = SHORT.prepare(tiny_model, (MILES, SILENT), Conditions(False))(None, [0])
    assert twice == once


def test_settings_are_json_and_tell_what_the_numbers_depend_on() -> None:
    assert json.loads(json.dumps(SHORT.settings())) == {
        "max_length": 24,
        "top_k": 5,
        "temperature": 1.0,
        "past_end": True,
        "tfidf": "fitted on the references of all cases",
    }


def test_wrong_options_are_refused_at_once() -> None:
    for length in (1, 2.5, True):
        with pytest.raises(RangeError, match="max_length: expected a whole number of 2 or more"):
            Generations(max_length=length)  # type: ignore[arg-type]
    with pytest.raises(RangeError, match="top_k: expected"):
        Generations(top_k=0)
    with pytest.raises(RangeError, match="temperature: expected"):
        Generations(temperature=0)


def test_texts_that_cannot_be_used_are_named_before_anything_is_run(tiny_model: HookedTransformer) -> None:
    tiny_model.forward = None  # type: ignore[method-assign,assignment]
    conditions = Conditions(False)
    long = replace(PARIS, prompts=("Paris is", "Paris is a city in " * 20))
    with pytest.raises(TextError, match=re.escape("requests[1], prompts[1] 'Paris is a city in Paris")):
        SHORT.prepare(tiny_model, (MILES, long), conditions)
    with pytest.raises(
        TextError,
        match=re.escape("requests[0], prompts[0] 'Miles Davis was born in': its tokens leave no room"),
    ):
        Generations(max_length=3).prepare(tiny_model, CASES, conditions)
    with pytest.raises(TextError, match="documents: expected a word of two letters or more"):
        SHORT.prepare(tiny_model, [replace(MILES, references=("?",))], conditions)


def test_a_context_that_leaves_too_little_room_says_what_fits(tiny_model: HookedTransformer) -> None:
    edit = in_context_edit(tiny_model, [MILES.request, PARIS.request])
    reader = Generations(max_length=64).prepare(tiny_model, CASES, Conditions(False))
    with pytest.raises(TextError, match=r"requests\[0\], prompts\[0\] .* behind 'Imagine that") as caught:
        reader(edit, [0])
    (fits,) = re.findall(r"set max_length to (\d+) or less", str(caught.value))
    reader = Generations(max_length=int(fits)).prepare(tiny_model, CASES, Conditions(False))
    assert reader(edit, [0])
    reader = Generations(max_length=int(fits) + 1).prepare(tiny_model, CASES, Conditions(False))
    with pytest.raises(TextError, match="set max_length"):
        reader(edit, [0])
