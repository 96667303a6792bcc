"""Metrics against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mechstyle.errors import InputError, RangeError
from mechstyle.metrics import (
    answer_logprobs,
    answer_probs,
    bootstrap_means,
    interval,
    kl_divergence,
    logit_difference,
)


def random_logits(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_answers_logprob_is_the_sum_over_its_tokens() -> None:
    logits, ids = (
        random_logits(3, 6, 11),
        torch.randint(0, 11, (3, 6), generator=torch.Generator().manual_seed(1)),
    )
    expected = [
        sum(float(torch.log_softmax(logits[row, at - 1], -1)[ids[row, at]]) for at in (4, 5))
        for row in range(3)
    ]
    assert answer_logprobs(logits, ids, 4).tolist() == pytest.approx(expected, abs=1e-12)
    assert answer_logprobs(logits, ids, 4, reduce="mean").tolist() == pytest.approx(
        np.array(expected) / 2, abs=1e-12
    )
    assert answer_probs(logits, ids, 4).tolist() == pytest.approx(np.exp(expected), abs=1e-12)


def test_each_row_may_have_its_own_answer() -> None:
    logits, ids = (
        random_logits(2, 6, 11),
        torch.randint(0, 11, (2, 6), generator=torch.Generator().manual_seed(1)),
    )
    starts, stops = torch.tensor([2, 4]), torch.tensor([5, 6])
    together = answer_logprobs(logits, ids, starts, stop=stops, reduce="mean")
    alone = [
        answer_logprobs(logits[row : row + 1, :stop], ids[row : row + 1, :stop], start, reduce="mean").item()
        for row, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True))
    ]
    assert together.tolist() == pytest.approx(alone, abs=1e-12)


def test_one_row_of_ids_serves_every_row_of_logits() -> None:
    logits, ids = random_logits(3, 4, 11), torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(answer_logprobs(logits, ids, 3), answer_logprobs(logits, ids.expand(3, -1), 3))


def test_infinite_logits_outside_of_an_answer_do_not_matter() -> None:
    logits, ids = random_logits(2, 4, 5), torch.zeros(2, 4, dtype=torch.long)
    logits[0, 1] = torch.nan
    found = answer_logprobs(logits, ids, torch.tensor([3, 2]))
    assert bool(torch.isfinite(found).all())


def test_low_precision_logits_are_scored_in_fp32() -> None:
    logits, ids = random_logits(1, 3, 7).bfloat16(), torch.tensor([[0, 1, 2]])
    found = answer_logprobs(logits, ids, 2)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(torch.log_softmax(logits.double()[0, 1], -1)[2].item(), abs=1e-5)


@pytest.mark.parametrize(("start", "stop"), [(0, None), (4, None), (3, 3), (2, 5)])
def test_an_answer_outside_of_the_row_is_refused(start: int, stop: int | None) -> None:
    with pytest.raises(RangeError, match=r"n_prompt: expected 1 <= n_prompt < stop <= 4"):
        answer_logprobs(random_logits(1, 4, 5), torch.zeros(1, 4, dtype=torch.long), start, stop=stop)


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(InputError, match="reduce: expected 'sum' or 'mean', got 'max'"):
        answer_logprobs(random_logits(1, 4, 5), torch.zeros(1, 4, dtype=torch.long), 3, reduce="max")  # type: ignore[arg-type]


def test_logit_difference_subtracts_the_other_token() -> None:
    logits = torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, 5.0]])
    assert logit_difference(logits, torch.tensor([0, 2]), torch.tensor([1, 0])).tolist() == [1.5, 5.0]


def test_kl_divergence_is_zero_for_itself_and_known_for_two_coins() -> None:
    logits = random_logits(4, 9)
    assert kl_divergence(logits, logits + 3).abs().max() < 1e-12
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
    expected = 0.5 * np.log(2) + 0.5 * np.log(2 / 3)
    assert kl_divergence(p.log(), q.log()).item() == pytest.approx(expected, abs=1e-6)


def test_bootstrap_intervals_hold_the_mean_and_shrink_with_the_sample() -> None:
    values = np.random.default_rng(0).normal(2.0, 1.0, size=(400, 3))
    low, high = interval(values)
    narrow = high - low
    assert (low < values.mean(0)).all()
    assert (values.mean(0) < high).all()
    np.testing.assert_allclose(narrow, 2 * 1.96 / np.sqrt(400), rtol=0.15)
    wide = np.subtract(*interval(values[:100])[::-1])
    assert (wide > 1.5 * narrow).all()


def test_bootstrap_of_equal_values_is_that_value_and_seeds_repeat() -> None:
    np.testing.assert_allclose(bootstrap_means(np.full((5, 2), 3.0), resamples=7), 3.0)
    values = np.arange(6.0)
    np.testing.assert_array_equal(bootstrap_means(values, seed=4), bootstrap_means(values, seed=4))
    assert (bootstrap_means(values, seed=4) != bootstrap_means(values, seed=5)).any()


def test_intervals_refuse_nothing_and_odd_levels() -> None:
    with pytest.raises(RangeError, match="values: expected at least one item"):
        interval(np.empty((0, 2)))
    with pytest.raises(RangeError, match="level: expected a share between 0 and 1"):
        interval(np.ones(3), level=95)
    with pytest.raises(RangeError, match="resamples: expected at least 1"):
        bootstrap_means(np.ones(3), resamples=0)
