"""The shares of variance are those of least squares, and planted tables give the shares that were planted."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mechstyle.errors import InputError, RangeError
from mechstyle.study.variance import trace_ranks, variance_explained

Panel = NDArray[np.float64]
LAYERS = np.array([0.9, 0.7, 0.2, 0.0])


def _random(n_facts: int = 30, n_layers: int = 4, seed: int = 0) -> tuple[Panel, Panel]:
    rng = np.random.default_rng(seed)
    effect = rng.random((n_facts, n_layers))
    return LAYERS[:n_layers] + 0.3 * effect + 0.2 * rng.standard_normal(effect.shape), effect


def _least_squares(success: Panel, columns: list[Panel]) -> float:
    """R² by solving the regression on a design matrix."""
    design = np.column_stack(columns)
    y = success.ravel()
    fitted = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return 1 - float(((y - fitted) ** 2).sum() / ((y - y.mean()) ** 2).sum())


def test_all_shares_are_those_of_least_squares_on_a_design_matrix() -> None:
    success, effect = _random()
    layers = [np.tile(row, len(success)) for row in np.eye(4)]
    found = variance_explained(success, effect)["r2"]
    assert found["layer"] == pytest.approx(_least_squares(success, layers))
    assert found["effect"] == pytest.approx(_least_squares(success, [np.ones(effect.size), effect.ravel()]))
    assert found["both"] == pytest.approx(_least_squares(success, [*layers, effect.ravel()]))
    assert found["added"] == pytest.approx(found["both"] - found["layer"])


def test_success_that_depends_on_the_layer_only_is_explained_by_it_alone() -> None:
    effect = np.random.default_rng(1).random((20, 4))
    found = variance_explained(np.tile(LAYERS, (20, 1)), effect)
    assert found.loc["layer"].tolist()[:3] == pytest.approx([1.0, 1.0, 1.0])
    assert found.loc["added", "r2"] == pytest.approx(0.0, abs=1e-12)
    assert found.loc["effect", "r2"] < 0.1


def test_success_that_is_the_effect_is_explained_by_it_alone() -> None:
    effect = np.random.default_rng(1).random((200, 4))
    found = variance_explained(2 * effect + 1, effect)
    assert found.loc["effect", "r2"] == pytest.approx(1.0)
    assert found.loc["both", "r2"] == pytest.approx(1.0)
    assert found.loc["layer", "r2"] < 0.03
    assert found.loc["added", "p"] < 0.01


def test_an_effect_that_varies_with_the_layer_only_adds_nothing() -> None:
    success, _ = _random()
    found = variance_explained(success, np.tile(LAYERS, (30, 1)))
    assert found.loc["added", "r2"] == 0.0
    assert found.loc["added", "p"] == 1.0


def test_an_effect_that_has_nothing_to_do_with_success_is_not_told_from_chance() -> None:
    success, _ = _random()
    values = [
        variance_explained(success, np.random.default_rng(seed).random((30, 4))).loc["added", "p"]
        for seed in range(40)
    ]
    assert 0.3 < float(np.mean(values)) < 0.7


def test_intervals_hold_the_true_share_about_as_often_as_they_say() -> None:
    hits = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        success = LAYERS + np.sqrt(LAYERS.var()) * rng.standard_normal((80, 4))
        row = variance_explained(success, rng.random((80, 4)), resamples=300).loc["layer"]
        hits += row["low"] <= 0.5 <= row["high"]
    assert 51 <= hits <= 60


def test_resampling_is_over_facts_with_all_their_layers() -> None:
    success, effect = _random()
    once = variance_explained(success, effect, resamples=4000)
    same = variance_explained(np.repeat(success, 1, axis=0)[::-1], effect[::-1], resamples=4000)
    twice = variance_explained(np.tile(success, (4, 1)), np.tile(effect, (4, 1)), resamples=4000)
    assert same["r2"].to_numpy() == pytest.approx(once["r2"].to_numpy())
    width = (twice["high"] - twice["low"]) / (once["high"] - once["low"])
    assert width["layer"] == pytest.approx(0.5, abs=0.06)


def test_success_that_never_varies_has_no_share() -> None:
    found = variance_explained(np.full((5, 4), 0.3), np.random.default_rng(0).random((5, 4)))
    assert found.isna().all(axis=None)


def test_an_effect_that_never_varies_explains_nothing() -> None:
    success, _ = _random()
    found = variance_explained(success, np.full(success.shape, 0.1))
    assert found.loc[["effect", "added"], "r2"].tolist() == [0.0, 0.0]


def test_the_same_seed_gives_the_same_intervals() -> None:
    panels = _random()
    assert variance_explained(*panels, seed=3).equals(variance_explained(*panels, seed=3))
    assert not variance_explained(*panels, seed=3).equals(variance_explained(*panels, seed=4))


def test_ranks_count_from_the_peak_of_the_trace() -> None:
    success = np.array([[0.1, 0.9, 0.2], [0.1, 0.9, 0.2], [0.9, 0.9, 0.1]])
    effect = np.array([[0.0, 0.5, 0.1], [0.5, 0.0, 0.1], [0.5, 0.5, 0.1]])
    found = trace_ranks(success, effect)
    assert found["best"].tolist() == [1, 1, 0]
    assert found["peak"].tolist() == [1, 0, 0]
    assert found["rank"].tolist() == [1.0, 3.0, 1.5]


def test_where_no_edit_works_the_rank_is_that_of_chance() -> None:
    found = trace_ranks(np.zeros((2, 5)), np.random.default_rng(0).random((2, 5)))
    assert found["rank"].tolist() == [3.0, 3.0]


@pytest.mark.parametrize(
    ("success", "effect", "message"),
    [
        (np.zeros((3, 2)), np.zeros((2, 3)), r"one shape.*\[3, 2\] and \[2, 3\]"),
        (np.zeros((1, 3)), np.zeros((1, 3)), "two facts and two layers"),
        (np.zeros((3, 1)), np.zeros((3, 1)), "two facts and two layers"),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), "finite numbers, got NaN"),
    ],
)
def test_tables_that_cannot_be_compared_are_refused(success: Panel, effect: Panel, message: str) -> None:
    with pytest.raises(InputError, match=message):
        variance_explained(success, effect)


@pytest.mark.parametrize("wrong", [{"level": 1.0}, {"resamples": 0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(RangeError, match=next(iter(wrong))):
        variance_explained(*_random(), **wrong)
