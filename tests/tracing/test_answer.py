"""Metrics with known answers, and metrics that fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from mechstyle.errors import InputError, WorkError
from mechstyle.facts import Fact
from mechstyle.metrics import logit_difference
from mechstyle.tokens import encode_fact
from mechstyle.tracing.answer import Question

FACT = Fact("The instrument of {} is the", "Miles Davis", " trumpet too")
N_VOCAB = 400


@pytest.fixture
def question(tiny_model: HookedTransformer) -> Question:
    return Question(encode_fact(tiny_model, FACT), "logprob")


def rows(n: int, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(n, 2, N_VOCAB, generator=generator, dtype=torch.float64)).to(dtype)


def logprobs(logits: Tensor, ids: Tensor) -> list[list[float]]:
    """[row][token], from the definition."""
    every = (logits.double().exp() / logits.double().exp().sum(-1, keepdim=True)).log()
    return [[float(every[row, at, int(token)]) for at, token in enumerate(ids)] for row in range(len(logits))]


def test_a_whole_answer_is_the_sum_over_its_tokens(question: Question) -> None:
    logits, ids = rows(3), question.encoded.target_ids
    assert len(ids) == question.n_answer == 2
    sums = np.array(logprobs(logits, ids)).sum(1)
    np.testing.assert_allclose(question.score(logits), sums, rtol=1e-12)
    np.testing.assert_allclose(replace(question, metric="prob").score(logits), np.exp(sums), rtol=1e-12)


def test_per_token_divides_the_log_probability_by_the_number_of_tokens(question: Question) -> None:
    logits, each = rows(3), replace(question, per_token=True)
    means = np.array(logprobs(logits, question.encoded.target_ids)).mean(1)
    np.testing.assert_allclose(each.score(logits), means, rtol=1e-12)
    np.testing.assert_allclose(replace(each, metric="prob").score(logits), np.exp(means), rtol=1e-12)
    assert each.metric_name == "logprob per token"


def test_minus_kl_is_zero_on_the_clean_run_and_negative_elsewhere(question: Question) -> None:
    clean = rows(1)
    asked = replace(question, metric="neg_kl").given(clean)
    np.testing.assert_array_equal(asked.score(clean), [0.0])
    found = asked.score(rows(4, seed=1))
    assert (found < -0.1).all()
    p, q = (one.softmax(-1) for one in (clean[0], rows(4, seed=1)))
    np.testing.assert_allclose(found, -(p * (p / q).log()).sum((-1, -2)), rtol=1e-9)


def test_minus_kl_needs_the_clean_run_and_other_metrics_do_not(question: Question) -> None:
    with pytest.raises(InputError, match=r"'neg_kl' compares with the clean run; call question\.given"):
        replace(question, metric="neg_kl").score(rows(1))
    assert question.given(rows(1)) is question


def test_the_other_answer_of_one_run_is_subtracted(question: Question) -> None:
    """Twins but for the last token: what they share cancels, what is left is the logit difference."""
    other = question.encoded.target_ids.clone()
    other[-1] = 7
    logits = rows(3)
    found = replace(question, other=other).score(logits)
    wanted = logit_difference(logits[:, -1], question.encoded.target_ids[-1:].expand(3), other[-1:].expand(3))
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_scores_are_computed_in_fp32_at_least(question: Question, dtype: torch.dtype) -> None:
    logits = rows(2, dtype=dtype)
    seen = []

    def first(found: Tensor) -> Tensor:
        seen.append(found.dtype)
        return found[:, 0, 0]

    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert question.score_tensor(logits).dtype == wide
    replace(question, metric=first).score(logits)
    assert seen == [wide]
    np.testing.assert_allclose(question.score(logits), question.score(logits.double()), rtol=1e-5)


@pytest.mark.parametrize("metric", ["prob", "logprob", "neg_kl", lambda logits: logits.square().sum((1, 2))])
def test_gradients_flow_to_the_logits_of_their_own_row(question: Question, metric: Any) -> None:
    logits = rows(2).requires_grad_()
    asked = replace(question, metric=metric).given(rows(1, seed=5))
    (gradient,) = torch.autograd.grad(asked.score_tensor(logits)[1], logits)
    assert not gradient[0].any()
    assert gradient[1].any()


def test_a_function_scores_the_positions_that_predict_the_answer(question: Question) -> None:
    def margin(logits: Tensor) -> Tensor:
        best = logits[:, 0].topk(2).values
        return best[:, 0] - best[:, 1]

    asked = replace(question, metric=margin)
    top = rows(3)[:, 0].sort(-1).values
    np.testing.assert_allclose(asked.score(rows(3)), top[:, -1] - top[:, -2])
    assert (asked.metric_name, asked.units) == ("margin", "metric's own")


@pytest.mark.parametrize(
    ("metric", "came"),
    [
        (lambda logits: logits[:, 0], r"shape \[3, 400\]"),
        (lambda logits: logits.sum(), r"shape \[\]"),
        (lambda logits: logits[:2, 0, 0], r"shape \[2\]"),
        (lambda logits: 1.0, "float"),
        (lambda logits: None, "NoneType"),
    ],
)
def test_a_function_must_give_one_number_a_row(
    question: Question, metric: Callable[[Tensor], Any], came: str
) -> None:
    with pytest.raises(InputError, match=rf"metric: <lambda> must give .* 3 rows .* it gave {came}"):
        replace(question, metric=metric).score(rows(3))


def test_scores_that_are_not_finite_name_the_metric_and_the_run(question: Question) -> None:
    def odd(logits: Tensor) -> Tensor:
        return logits[:, 0, 0] / 0

    with pytest.raises(WorkError, match="metric: odd of a clean run is NaN or infinite. Mend the function"):
        replace(question, metric=odd).score(rows(1), run="clean")
    with pytest.raises(WorkError, match="metric: logprob of a corrupted run is NaN .* Use less noise"):
        question.score(torch.full_like(rows(1), torch.nan))


def test_the_greedy_answer_is_the_answer_token_by_token(question: Question) -> None:
    logits = torch.zeros(1, 2, N_VOCAB)
    for at, token in enumerate(question.encoded.target_ids):
        logits[0, at, token] = 1
    assert question.greedy(logits)
    logits[0, 1, 5] = 2
    assert not question.greedy(logits)
