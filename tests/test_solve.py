"""The closed form against explicit formulas, the identities between methods, and optimality."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mechstyle.errors import InputError, RangeError, WorkError
from mechstyle.solve import closed_form_update

D_IN, D_OUT = 12, 5


def problem(batch: int, seed: int = 0, d_in: int = D_IN) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(5 * d_in, d_in, generator=generator, dtype=torch.float64)
    scales = torch.linspace(0.1, 2.0, d_in, dtype=torch.float64)
    samples = draw * scales
    keys = torch.randn(batch, d_in, generator=generator, dtype=torch.float64)
    residual = torch.randn(batch, D_OUT, generator=generator, dtype=torch.float64)
    return keys, residual, samples.T @ samples / len(samples)


def memit_formula(keys: Tensor, residual: Tensor, covariance: Tensor, ridge: float) -> Tensor:
    return torch.linalg.inv(ridge * covariance + keys.T @ keys) @ keys.T @ residual


def emmet_formula(keys: Tensor, residual: Tensor, covariance: Tensor, ridge: float) -> Tensor:
    inverse = torch.linalg.inv(covariance)
    gram = keys @ inverse @ keys.T + ridge * torch.eye(len(keys), dtype=torch.float64)
    return inverse @ keys.T @ torch.linalg.inv(gram) @ residual


@pytest.mark.parametrize("batch", [1, 4, 12, 30])
@pytest.mark.parametrize("ridge", [1e-3, 1.0, 100.0])
def test_update_is_the_explicit_memit_formula_whatever_the_batch(batch: int, ridge: float) -> None:
    keys, residual, covariance = problem(batch)
    update = closed_form_update(keys, residual, covariance, ridge).dense()
    torch.testing.assert_close(
        update, memit_formula(keys, residual, covariance, ridge), rtol=1e-9, atol=1e-11
    )


@pytest.mark.parametrize("batch", [1, 4, 11])
def test_push_through_identity_makes_memit_and_ridged_emmet_the_same_matrix(batch: int) -> None:
    keys, residual, covariance = problem(batch)
    memit = closed_form_update(keys, residual, covariance, 0.7, form="dense").dense()
    torch.testing.assert_close(memit, emmet_formula(keys, residual, covariance, 0.7), rtol=1e-9, atol=1e-11)


@given(
    batch=st.integers(1, 20),
    seed=st.integers(0, 10_000),
    ridge=st.floats(1e-3, 1e3),
    other_reads=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_both_solves_agree(batch: int, seed: int, ridge: float, other_reads: bool) -> None:
    keys, residual, covariance = problem(batch, seed)
    # Reading close to the written keys keeps the non-symmetric Gram matrix well away from singular.
    read = keys + 1e-2 * problem(batch, seed + 1)[0] * ridge / (1 + ridge) if other_reads else None
    short = closed_form_update(keys, residual, covariance, ridge, read, form="batch").dense()
    tall = closed_form_update(keys, residual, covariance, ridge, read, form="dense").dense()
    torch.testing.assert_close(short, tall, rtol=1e-5, atol=1e-7 * float(short.abs().max()) + 1e-12)


def test_the_written_key_then_gives_exactly_the_wanted_value() -> None:
    keys, residual, covariance = problem(4)
    update = closed_form_update(keys, residual, covariance)
    torch.testing.assert_close(keys @ update.dense(), residual, rtol=1e-10, atol=1e-12)
    assert (update.jitter, update.gram_jitter) == (0.0, 0.0)


def test_emmet_of_one_edit_is_the_textbook_rome_formula() -> None:
    keys, residual, covariance = problem(1)
    direction = torch.linalg.inv(covariance) @ keys[0]
    rome = torch.outer(direction / (keys[0] @ direction), residual[0])
    torch.testing.assert_close(
        closed_form_update(keys, residual, covariance).dense(), rome, rtol=1e-10, atol=1e-12
    )


def test_published_rome_writes_its_residual_at_the_read_key() -> None:
    keys, residual, covariance = problem(1)
    bare = keys + 0.1 * problem(1, seed=1)[0]
    update = closed_form_update(keys, residual, covariance, read_keys=bare).dense()
    direction = torch.linalg.inv(covariance) @ keys[0]
    torch.testing.assert_close(bare @ update, residual, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(update, torch.outer(direction / (bare[0] @ direction), residual[0]))


def test_read_keys_equal_to_the_keys_change_nothing() -> None:
    keys, residual, covariance = problem(3)
    plain = closed_form_update(keys, residual, covariance, 0.5).dense()
    torch.testing.assert_close(
        closed_form_update(keys, residual, covariance, 0.5, keys.clone()).dense(), plain
    )


@given(seed=st.integers(0, 10_000), size=st.floats(1e-3, 10.0))
@settings(max_examples=30, deadline=None)
def test_no_other_interpolating_update_disturbs_preserved_keys_less(seed: int, size: float) -> None:
    keys, residual, covariance = problem(4, seed)
    update = closed_form_update(keys, residual, covariance).dense()
    generator = torch.Generator().manual_seed(seed + 1)
    noise = torch.randn(D_IN, D_OUT, generator=generator, dtype=torch.float64) * size
    competitor = update + noise - torch.linalg.pinv(keys) @ keys @ noise
    torch.testing.assert_close(keys @ competitor, residual, rtol=1e-7, atol=1e-7)

    def disturbance(delta: Tensor) -> float:
        return float((delta * (covariance @ delta)).sum())

    assert disturbance(update) <= disturbance(competitor) * (1 + 1e-9)


@given(seed=st.integers(0, 10_000), ridge=st.floats(1e-2, 1e2))
@settings(max_examples=20, deadline=None)
def test_the_ridged_update_is_the_minimum_of_the_least_squares_objective(seed: int, ridge: float) -> None:
    keys, residual, covariance = problem(4, seed)
    update = closed_form_update(keys, residual, covariance, ridge).dense().requires_grad_()
    loss = ((keys @ update - residual) ** 2).sum() + ridge * (update * (covariance @ update)).sum()
    (gradient,) = torch.autograd.grad(loss, update)
    assert float(gradient.abs().max()) < 1e-7 * (1 + ridge)


def test_factors_have_rank_at_most_the_smaller_side_and_fp64() -> None:
    keys, residual, covariance = problem(3)
    update = closed_form_update(keys.float(), residual.float(), covariance.float())
    assert update.left.shape == (D_IN, 3)
    assert update.right.shape == (3, D_OUT)
    assert update.left.dtype == update.right.dtype == torch.float64
    assert closed_form_update(*problem(30)).left.shape == (D_IN, D_OUT)


def test_a_rank_deficient_covariance_works_with_the_smallest_ridge_and_reports_it() -> None:
    keys, residual, covariance = problem(2)
    basis = torch.linalg.qr(problem(6, seed=3)[0].T)[0]
    deficient = basis @ basis.T @ covariance @ basis @ basis.T
    update = closed_form_update(keys, residual, deficient)
    assert 0 < update.jitter < 1e-8 * float(deficient.diagonal().mean())
    torch.testing.assert_close(keys @ update.dense(), residual, rtol=1e-3, atol=1e-3)
    assert closed_form_update(keys, residual, covariance).jitter == 0.0


def test_a_key_given_twice_reports_the_ridge_on_the_gram_matrix() -> None:
    keys, residual, covariance = problem(1)
    update = closed_form_update(keys.repeat(2, 1), residual.repeat(2, 1), covariance)
    assert update.gram_jitter > 0.0
    assert update.jitter == 0.0
    torch.testing.assert_close(keys @ update.dense(), residual, rtol=1e-6, atol=1e-6)


def test_inputs_are_left_as_they_were() -> None:
    given = problem(2)
    before = [tensor.clone() for tensor in given]
    closed_form_update(*given, 0.5)
    assert all(torch.equal(now, then) for now, then in zip(given, before, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda k, r, c: (k[0], r, c), r"keys: expected shape \[batch, d_in\], not empty, got \[12\]"),
        (lambda k, r, c: (k[:0], r[:0], c), "keys: expected shape"),
        (
            lambda k, r, c: (k, r[:1], c),
            r"residual: expected shape \[2, d_out\], one row for each key, got \[1, 5\]",
        ),
        (lambda k, r, c: (k, r, c[:3, :3]), r"covariance: expected shape \[12, 12\].* got \[3, 3\]"),
        (lambda k, r, c: (k * math.nan, r, c), "keys: expected finite numbers"),
        (lambda k, r, c: (k, r * math.inf, c), "residual: expected finite numbers"),
        (lambda k, r, c: (k, r, c * math.nan), "covariance: expected finite numbers"),
        (lambda k, r, c: (k, r, torch.triu(c)), "covariance: expected a symmetric matrix"),
        (lambda k, r, c: (k, r, -c), "covariance: expected a positive semi-definite"),
        (lambda k, r, c: (k, r, 0 * c), "covariance: expected a positive semi-definite, non-zero"),
        (lambda k, r, c: (0 * k, r, c), "keys: expected a positive semi-definite, non-zero"),
    ],
)
def test_bad_tensors_are_refused_with_the_name_of_the_argument(change, message: str) -> None:
    with pytest.raises(InputError, match=message):
        closed_form_update(*change(*problem(2)))


def test_read_keys_of_another_shape_are_refused() -> None:
    keys, residual, covariance = problem(2)
    with pytest.raises(InputError, match=r"read_keys: expected the shape of keys \[2, 12\], got \[1, 12\]"):
        closed_form_update(keys, residual, covariance, read_keys=keys[:1])


def test_read_keys_that_do_not_see_the_update_are_a_work_error() -> None:
    keys, residual, covariance = torch.eye(3)[:1], torch.ones(1, 2), torch.eye(3)
    with pytest.raises(WorkError, match="read_keys: expected keys that meet the written ones"):
        closed_form_update(keys, residual, covariance, read_keys=torch.eye(3)[1:2])


@pytest.mark.parametrize("ridge", [-1.0, math.nan, math.inf])
def test_a_ridge_out_of_range_is_refused(ridge: float) -> None:
    with pytest.raises(RangeError, match="ridge: expected a finite number >= 0"):
        closed_form_update(*problem(2), ridge)


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(InputError, match="form: expected 'auto', 'batch' or 'dense', got 'qr'"):
        closed_form_update(*problem(2), form="qr")  # type: ignore[arg-type]
