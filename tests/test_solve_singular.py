"""A singular second moment: the keys still are written, at the least disturbance, and the ridge is told."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mechstyle.solve import closed_form_update

D_IN, D_OUT = 48, 5
ZERO = 1e-10
"""Eigenvalues below this multiple of the largest one are zero."""


def problem(rank: int, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, residual and the second moment of ``rank`` samples."""
    generator = torch.Generator().manual_seed(100 * rank + batch)
    samples, keys, residual = (
        torch.randn(rows, columns, generator=generator, dtype=torch.float64)
        for rows, columns in ((rank, D_IN), (batch, D_IN), (batch, D_OUT))
    )
    return keys, residual, samples.T @ samples / rank


def least_disturbing(keys: Tensor, residual: Tensor, covariance: Tensor) -> Tensor:
    """Of all updates that write the keys exactly the one of least disturbance, by another way.

    An update that writes them, plus what they cannot see, chosen by least squares.
    """
    values, vectors = torch.linalg.eigh(covariance)
    roots = torch.where(values > ZERO * values[-1], values.clamp(min=0.0).sqrt(), 0.0)[:, None] * vectors.T
    some = torch.linalg.pinv(keys) @ residual
    unseen = torch.linalg.svd(keys)[2][len(keys) :].T
    return some + unseen @ torch.linalg.lstsq(roots @ unseen, -roots @ some, driver="gelsd").solution


def disturbance(update: Tensor, covariance: Tensor) -> float:
    return float((update * (covariance @ update)).sum())


@pytest.mark.parametrize("batch", [1, 12, 20, 40, 47])
@pytest.mark.parametrize("rank", [1, 8, 30, 44, 47])
def test_keys_are_written_at_the_least_disturbance_however_singular_the_moment(rank: int, batch: int) -> None:
    keys, residual, covariance = problem(rank, batch)
    update = closed_form_update(keys, residual, covariance)
    assert update.jitter > 0.0 or rank == D_IN - 1  # one direction may hide in the rounding
    assert update.gram_jitter == 0.0
    found, best = update.dense(), least_disturbing(keys, residual, covariance)
    # Rank 47 is the hardest, as rounding fills it up: how well it is solved depends on the processor.
    assert float((keys @ found - residual).norm() / residual.norm()) <= 2e-6
    scale = float(covariance.diagonal().mean()) * float(residual.square().sum())
    assert disturbance(found, covariance) <= (1 + 1e-3) * disturbance(best, covariance) + 1e-6 * scale


@pytest.mark.parametrize("rank", [8, 30])
def test_with_a_ridge_both_solves_agree_on_a_singular_moment(rank: int) -> None:
    keys, residual, covariance = problem(rank, 40)
    short = closed_form_update(keys, residual, covariance, 0.5, form="batch").dense()
    tall = closed_form_update(keys, residual, covariance, 0.5, form="dense").dense()
    torch.testing.assert_close(keys @ short, keys @ tall, rtol=1e-4, atol=1e-4)


def test_many_keys_that_repeat_a_few_are_written_at_the_least_disturbance_too() -> None:
    keys, residual, covariance = problem(500, 10)
    once = closed_form_update(keys, residual, covariance).dense()
    often = closed_form_update(keys.repeat(6, 1), residual.repeat(6, 1), covariance)
    assert often.gram_jitter > 0.0
    torch.testing.assert_close(often.dense(), once, rtol=1e-6, atol=1e-8)
