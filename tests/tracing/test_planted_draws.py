"""Noise draws where the fact's place is known: paired, repeatable, with intervals that hold what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mechstyle.tokens import encode_fact
from mechstyle.tracing import GaussianNoise, Trace, causal_trace
from tests.planted import NEURON, Planted, mlp_fact

SIGMA = 0.3
LEVEL = 0.9
REPEATS = 30


@pytest.fixture(scope="module")
def planted() -> Planted:
    return mlp_fact(n_layers=3, write=0, read=1)


def noisy(planted: Planted, *, samples: int = 20, **settings: Any) -> Trace:
    return causal_trace(
        planted.model,
        planted.fact,
        **{"sigma": SIGMA, "window": 1, "samples": samples, "kinds": ("resid", "mlp"), **settings},
    )


@pytest.fixture(scope="module")
def repeats(planted: Planted) -> list[Trace]:
    return [noisy(planted, seed=seed) for seed in range(REPEATS)]


def test_one_seed_gives_identical_bits(planted: Planted) -> None:
    first, again = noisy(planted, seed=3), noisy(planted, seed=3)
    for name in ("resid", "mlp", "corrupted"):
        assert first.data[name].values.tobytes() == again.data[name].values.tobytes()


def test_all_kinds_and_cells_see_the_same_draws(planted: Planted) -> None:
    """A cell that recovers everything gives the clean answer in *every* draw, not only in the mean."""
    trace = noisy(planted)
    whole = trace.data["resid"].isel(token=1, layer=0).values
    assert np.ptp(trace.corrupted.values) > 0.5
    np.testing.assert_allclose(whole, trace.clean, atol=1e-3)
    # What the noise leaves alone in a draw, no cell can change.
    alone = noisy(planted, kinds=("mlp",))
    np.testing.assert_array_equal(alone.data["mlp"].values, trace.data["mlp"].values)
    np.testing.assert_array_equal(alone.corrupted.values, trace.corrupted.values)


def test_draws_of_different_seeds_are_different_and_agree_in_the_mean(repeats: list[Trace]) -> None:
    corrupted = np.stack([trace.corrupted.values for trace in repeats])
    assert len(np.unique(corrupted.round(9))) > 0.5 * corrupted.size
    means = corrupted.mean(1)
    expected = corrupted.std() / np.sqrt(corrupted.shape[1])
    assert means.std() == pytest.approx(expected, rel=0.35)


def test_intervals_hold_the_mean_of_all_draws_as_often_as_they_say(repeats: list[Trace]) -> None:
    """A percentile bootstrap over 20 draws covers a little less than it says, never much less."""
    effects = np.stack([trace.indirect_effect("mlp").values for trace in repeats])
    truth = effects.mean(0)
    limits = [trace.interval("mlp", level=LEVEL) for trace in repeats]
    holds = np.array([(low.values[1, 0] <= truth[1, 0] <= high.values[1, 0]) for low, high in limits])
    slack = 2.6 * np.sqrt(LEVEL * (1 - LEVEL) / REPEATS)
    assert LEVEL - 0.04 - slack <= holds.mean() < 1.0
    wide = np.array([trace.interval("mlp", level=0.99)[1].values[1, 0] for trace in repeats[:5]])
    assert (wide >= [high.values[1, 0] for _, high in limits[:5]]).all()


def test_the_interval_of_a_cell_without_effect_is_zero(repeats: list[Trace]) -> None:
    low, high = repeats[0].interval("mlp")
    assert np.abs(low.values[1, 1:]).max() < 1e-6
    assert np.abs(high.values[1, 1:]).max() < 1e-6


def test_the_answer_under_noise_is_what_one_neuron_makes_of_the_noise(planted: Planted) -> None:
    """In closed form: neurons are piecewise linear in the noisy name, and logits linear in neurons."""
    trace = noisy(planted, samples=6)
    encoded = encode_fact(planted.model, planted.fact)
    noise = GaussianNoise(sigma=SIGMA).embeddings(planted.model, planted.fact, encoded, samples=6, seed=0)
    draws = noise.values[:, 1].double().numpy()
    n_names = 7
    names = np.eye(n_names)[0] + draws[:, :n_names]
    answers = np.maximum(2 * names - 1, 0) + draws[:, 32 : 32 + n_names] / 10
    vocabulary = planted.model.cfg.d_vocab
    logits = np.zeros((6, vocabulary))
    logits[:, :n_names] = 12 * answers
    logits[:, n_names] = 1.2 * draws[:, 39]  # the head moves 8 directions, the eighth is a colour's
    expected = np.exp(logits[:, 0]) / np.exp(logits).sum(1)
    np.testing.assert_allclose(trace.corrupted.values, expected, atol=2e-3)
    assert planted.model.W_out[0, NEURON, 32] == 10
