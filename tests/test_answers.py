"""Answers are scored as by single runs, however they share runs, batches and padding."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformer_lens import HookedTransformer
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from mechstyle import answers, runs
from mechstyle.answers import AnswerScore, score_answers, shared_runs
from mechstyle.errors import NonFiniteError, RangeError
from mechstyle.metrics import answer_logprobs
from mechstyle.tokens import encode, pad
from tests.oracles import score_loop

PAIRS = [
    ("Miles Davis plays the", " trumpet"),
    ("Miles Davis plays the", " guitar"),
    ("Miles Davis plays the", " piano too"),
    ("Miles Davis plays the", " piano"),
    ("Miles Davis plays", " the trumpet"),
    ("The mother tongue of Danielle Darrieux is", " Zürich"),
    ("Paris is the capital of", " France"),
    ("Paris is the capital of", " France"),
]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5).map(tuple), max_size=12))
def test_every_input_begins_one_run_and_no_run_begins_another(inputs: list[tuple[int, ...]]) -> None:
    found = shared_runs(inputs)
    assert sorted(index for indices in found.values() for index in indices) == list(range(len(inputs)))
    for run, indices in found.items():
        assert run in inputs
        assert all(run[: len(inputs[index])] == inputs[index] for index in indices)
        assert not any(other != run and other[: len(run)] == run for other in found)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("bos", [False, True])
def test_scores_are_those_of_single_runs_in_the_order_asked(
    tiny_model: HookedTransformer,
    tiny_hf: GPT2LMHeadModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    batch_size: int,
    bos: bool,
) -> None:
    encoded = [encode(tiny_model, prompt, target=target, prepend_bos=bos) for prompt, target in PAIRS]
    found = score_answers(tiny_model, encoded, batch_size=batch_size)
    for (prompt, target), score in zip(PAIRS, found, strict=True):
        wanted = score_loop.answer(tiny_hf, tiny_tokenizer, prompt, target, bos=bos)
        assert score.logp == pytest.approx(sum(wanted.logps), abs=2e-5)
        assert score.mean_logp == pytest.approx(wanted.mean, abs=2e-5)
        assert (score.exact, score.n_tokens) == (wanted.exact, len(wanted.logps))


def test_padding_on_the_left_gives_the_scores_of_padding_on_the_right(tiny_model: HookedTransformer) -> None:
    encoded = [encode(tiny_model, prompt, target=target) for prompt, target in PAIRS]
    batch = pad(encoded, pad_id=0, side="left")
    run = runs.logits(tiny_model, batch.ids, attention_mask=batch.attention_mask)
    first = torch.tensor([one.n_prompt for one in encoded]) + batch.shift
    left = answer_logprobs(run, batch.ids, first)
    right = [score.logp for score in score_answers(tiny_model, encoded, batch_size=100)]
    torch.testing.assert_close(left, torch.tensor(right), atol=2e-5, rtol=0)


def test_right_tokens_are_told_one_by_one(
    tiny_model: HookedTransformer, tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """A greedy continuation is right throughout; with its second token replaced, so is its first alone."""
    prompt = "Paris is"
    ids = tiny_tokenizer(prompt)["input_ids"]
    own = []
    for _ in range(3):
        own.append(int(score_loop.next_distribution(tiny_hf, ids + own).argmax()))
    wrong = [own[0], (own[1] + 1) % tiny_model.cfg.d_vocab]
    wrong.append(int(score_loop.next_distribution(tiny_hf, ids + wrong).argmax()))
    plain = encode(tiny_model, prompt)
    each = [
        type(plain)(plain.text, torch.tensor(ids + more), (), (), len(ids), None, False)
        for more in (own, wrong)
    ]
    right, broken = score_answers(tiny_model, each, batch_size=8)
    assert (right.right, right.exact, right.accuracy) == ((True, True, True), True, 1.0)
    assert (broken.right, broken.exact) == ((True, False, True), False)
    assert broken.accuracy == pytest.approx(2 / 3)


def test_the_answers_of_one_prompt_are_run_once_and_last_tokens_never(
    tiny_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    plain = answers.logits

    def counting(model: object, ids: torch.Tensor, **rest: object) -> torch.Tensor:
        shapes.append(tuple(ids.shape))
        return plain(model, ids, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(answers, "logits", counting)
    one_token = [encode(tiny_model, "Paris is the capital of", target=t) for t in (" France", " Italy")]
    assert all(len(one.target_ids) == 1 for one in one_token)
    score_answers(tiny_model, one_token, batch_size=8)
    assert shapes == [(1, one_token[0].n_prompt)]


def test_a_score_is_a_sum_and_a_mean() -> None:
    score = AnswerScore(math.log(0.25), (True, False))
    assert math.exp(score.mean_logp) == pytest.approx(0.5)
    assert (score.n_tokens, score.exact, score.accuracy) == (2, False, 0.5)


def test_wrong_sizes_and_wrong_numbers_are_told(tiny_model: HookedTransformer) -> None:
    encoded = [encode(tiny_model, "Paris is", target=" the")]
    with pytest.raises(RangeError, match="batch_size: expected a whole number of 1 or more, got 0"):
        score_answers(tiny_model, encoded, batch_size=0)
    with torch.no_grad():
        tiny_model.unembed.b_U[0] = math.nan
    with pytest.raises(NonFiniteError, match="log-probability of 'Paris is the' is nan"):
        score_answers(tiny_model, encoded, batch_size=1)
