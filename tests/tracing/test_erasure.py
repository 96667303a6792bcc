"""Erasure by its theorems: what it removes, that nothing smaller does, and how well labels were predicted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mechstyle.errors import InputError
from mechstyle.tracing.erasure import fit_eraser, leave_one_out


def data(rows: int = 60, d: int = 12, objects: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Correlated vectors whose means differ by label."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % objects
    mixing = torch.randn(d, d, generator=generator).double()
    means = torch.randn(objects, d, generator=generator).double()
    return torch.randn(rows, d, generator=generator).double() @ mixing + means[labels], labels


def covariance_with_labels(x: Tensor, labels: Tensor) -> Tensor:
    z = torch.nn.functional.one_hot(labels).double()
    return (x - x.mean(0)).T @ (z - z.mean(0)) / len(x)


@pytest.mark.parametrize(("rows", "d"), [(60, 12), (20, 30)], ids=["many rows", "fewer rows than dimensions"])
def test_nothing_linear_about_the_labels_is_left(rows: int, d: int) -> None:
    x, labels = data(rows, d)
    eraser = fit_eraser(x, labels)
    after = x + eraser.shift(x)
    assert covariance_with_labels(x, labels).abs().max() > 0.1
    assert covariance_with_labels(after, labels).abs().max() < 1e-9
    for label in range(4):
        torch.testing.assert_close(after[labels == label].mean(0), x.mean(0), atol=1e-8, rtol=0)
    assert eraser.rank == 3


def test_erasing_twice_is_erasing_once_and_the_mean_stays() -> None:
    x, labels = data()
    eraser = fit_eraser(x, labels)
    once = x + eraser.shift(x)
    assert eraser.shift(once).abs().max() < 1e-9
    torch.testing.assert_close(once.mean(0), x.mean(0))
    torch.testing.assert_close(eraser.removed @ eraser.removed, eraser.removed, atol=1e-9, rtol=0)


def test_no_other_projection_that_erases_moves_the_vectors_less() -> None:
    x, labels = data()
    least = (fit_eraser(x, labels).shift(x) ** 2).sum()
    directions = torch.linalg.qr(covariance_with_labels(x, labels)[:, :3]).Q
    orthogonal = (x - x.mean(0)) @ directions @ directions.T
    assert covariance_with_labels(x - orthogonal, labels).abs().max() < 1e-9
    assert least < 0.9 * (orthogonal**2).sum()


def test_held_out_predictions_are_those_of_a_fit_without_the_row() -> None:
    x, labels = data(24, 5, 3)
    z = torch.nn.functional.one_hot(labels).double()
    centred = x - x.mean(0)
    penalty = 0.1 * len(x) * centred.var(0, correction=0).mean() * torch.eye(6).double()
    penalty[0, 0] = 0
    right = 0
    for row in range(len(x)):
        others = [one for one in range(len(x)) if one != row]
        inputs = torch.cat([torch.ones(len(x), 1).double(), centred], 1)
        some = inputs[others]
        weights = torch.linalg.solve(some.T @ some + penalty, some.T @ z[others])
        right += int((inputs[row] @ weights).argmax() == labels[row])
    assert leave_one_out(x, labels) == pytest.approx(right / len(x))
    assert 0.4 < right / len(x) <= 1


def test_labels_that_mean_nothing_cannot_be_predicted() -> None:
    x, labels = data(200, 12, 4)
    shuffled = labels[torch.randperm(200, generator=torch.Generator().manual_seed(1))]
    assert leave_one_out(x, shuffled) < 0.4 < leave_one_out(x, labels)


@pytest.mark.parametrize(
    ("vectors", "labels", "message"),
    [
        (torch.zeros(3), torch.zeros(3), r"vectors: expected \[row, d\] and a label for each row"),
        (torch.zeros(3, 2), torch.zeros(2), "vectors: expected"),
        (torch.full((2, 2), torch.nan), torch.tensor([0, 1]), "vectors: expected finite numbers"),
        (torch.zeros(3, 2), torch.tensor([5, 5, 5]), "labels: expected at least two different ones"),
    ],
)
def test_bad_input_is_refused(vectors: Tensor, labels: Tensor, message: str) -> None:
    for call in (fit_eraser, leave_one_out):
        with pytest.raises(InputError, match=message):
            call(vectors, labels)
