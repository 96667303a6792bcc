"""Updates in the null space of preserved keys: the published formula, what preserved keys see, bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mechstyle.errors import InputError, RangeError
from mechstyle.null_space import null_space, null_space_update
from mechstyle.solve import closed_form_update

WIDTH, RANK = 12, 7


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


PRESERVED = random(40, RANK, seed=0) @ random(RANK, WIDTH, seed=1)
MOMENT = PRESERVED.T @ PRESERVED / 40
KEYS, RESIDUAL, BEFORE = random(3, WIDTH, seed=2), random(3, 5, seed=3), random(4, WIDTH, seed=4)


def published(keys: Tensor, residual: Tensor, projection: Tensor, l2: float, previous: Tensor) -> Tensor:
    normal = projection @ (keys.T @ keys + previous.T @ previous) + l2 * torch.eye(WIDTH).double()
    return torch.linalg.solve(normal, projection @ keys.T @ residual)


@pytest.mark.parametrize("n_before", [0, 4, 40])
@pytest.mark.parametrize("l2", [1e-3, 10.0])
def test_the_update_is_the_published_formula(n_before: int, l2: float) -> None:
    basis, previous = null_space(MOMENT, 0.0), random(n_before, WIDTH, seed=4)
    update = null_space_update(KEYS, RESIDUAL, basis, l2, previous)
    expected = published(KEYS, RESIDUAL, basis @ basis.T, l2, previous)
    torch.testing.assert_close(update.dense(), expected, rtol=1e-9, atol=1e-11)
    assert update.left.shape == (WIDTH, len(KEYS))


def test_preserved_keys_of_a_rank_deficient_moment_see_nothing() -> None:
    basis = null_space(MOMENT, 0.0)
    assert basis.shape == (WIDTH, WIDTH - RANK)
    change = null_space_update(KEYS, RESIDUAL, basis, 1e-6).dense()
    assert (PRESERVED @ change).norm() < 1e-12 * PRESERVED.norm() * change.norm()
    assert (KEYS @ change).norm() > 0.5 * RESIDUAL.norm()


def test_without_preserved_keys_it_is_the_least_squares_of_memit_with_an_identity_for_moment() -> None:
    update = null_space_update(KEYS, RESIDUAL, torch.eye(WIDTH), 2.0)
    expected = closed_form_update(KEYS, RESIDUAL, torch.eye(WIDTH), 2.0)
    torch.testing.assert_close(update.dense(), expected.dense(), rtol=1e-10, atol=1e-12)


def test_keys_written_before_change_less_when_they_are_known() -> None:
    basis = torch.eye(WIDTH).double()
    blind = null_space_update(KEYS, RESIDUAL, basis, 1e-6).dense()
    aware = null_space_update(KEYS, RESIDUAL, basis, 1e-6, BEFORE).dense()
    assert (BEFORE @ aware).norm() < 1e-3 * (BEFORE @ blind).norm()
    torch.testing.assert_close(KEYS @ aware, RESIDUAL, rtol=1e-4, atol=1e-4)


def test_the_threshold_is_relative_to_the_scale_of_the_keys_unless_absolute() -> None:
    spread = torch.diag(torch.tensor([8.0, 1.0, 0.5, 0.1]))
    for scale in (1e-6, 1.0, 1e6):
        assert null_space(scale * spread, 0.3).shape[1] == 2
    assert [null_space(s * spread, 0.3, absolute=True).shape[1] for s in (1.0, 0.2)] == [1, 3]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.eye(3), 0.5), InputError, "none of its 3 eigenvalues .* raise the threshold"),
        ((torch.ones(2, 3), 0.5), InputError, r"square matrix, got shape \[2, 3\]"),
        ((torch.full((2, 2), torch.nan), 0.5), InputError, "NaN or infinity"),
        ((torch.eye(3), -1.0), RangeError, "threshold: expected a finite number of 0 or more"),
    ],
)
def test_moments_without_a_null_space_are_told(arguments: tuple[Any, ...], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        null_space(*arguments)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"l2": 0.0}, RangeError, "l2: expected a finite number above 0, got 0.0"),
        ({"keys": torch.ones(3)}, InputError, r"keys: expected shape \[batch, d_in\]"),
        ({"residual": torch.ones(2, 5)}, InputError, r"residual: expected shape \[3, d_out\]"),
        ({"basis": torch.ones(5, 2)}, InputError, r"basis: expected shape \[12, kept\]"),
        ({"previous": torch.ones(5, 2)}, InputError, r"previous: expected shape \[earlier, 12\]"),
        ({"residual": torch.full((3, 5), torch.inf)}, InputError, "residual: expected finite numbers"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any], error: type, message: str) -> None:
    arguments = {"keys": KEYS, "residual": RESIDUAL, "basis": torch.eye(WIDTH), "l2": 1.0, **changes}
    with pytest.raises(error, match=message):
        null_space_update(**arguments)
