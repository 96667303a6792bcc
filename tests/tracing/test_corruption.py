"""Sigma and the noise draws."""

from __future__ import annotations

import pytest
import torch
from transformer_lens import HookedTransformer

from mechstyle.errors import InputError, TextError
from mechstyle.tokens import encode
from mechstyle.tracing import GaussianNoise, embedding_sigma, reference_sigma


def test_sigma_is_the_spread_of_the_subjects_embedding_entries(tiny_model: HookedTransformer) -> None:
    subjects = ["Miles Davis", "Paris", "Zürich"]
    rows = [tiny_model.W_E[int(token)] for subject in subjects for token in encode(tiny_model, subject).ids]
    expected = torch.stack(rows).detach().double()
    expected = (expected - expected.mean()).square().mean().sqrt()
    assert embedding_sigma(tiny_model, subjects) == pytest.approx(float(expected), rel=1e-9)


def test_a_model_without_reference_subjects_uses_its_whole_embedding(tiny_model: HookedTransformer) -> None:
    sigma, source = reference_sigma(tiny_model)
    assert source == "all token embeddings"
    assert sigma == pytest.approx(float(tiny_model.W_E.detach().double().std(correction=0)))


def test_draws_have_the_asked_spread_and_belong_to_their_seed() -> None:
    noise = GaussianNoise(multiple=3.0)
    draws = noise.sample(sigma=0.5, n_tokens=4, d_model=256, samples=40, seed=1)
    assert draws.std().item() == pytest.approx(1.5, rel=0.02)
    assert abs(draws.mean().item()) < 0.03
    assert torch.equal(draws, noise.sample(sigma=0.5, n_tokens=4, d_model=256, samples=40, seed=1))
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws, noise.sample(sigma=0.5, n_tokens=4, d_model=256, samples=40, seed=2))


def test_explicit_draws_are_used_as_they_are_and_recorded_by_hash() -> None:
    draws = torch.arange(12.0).reshape(2, 2, 3)
    noise = GaussianNoise(draws=draws)
    assert torch.equal(noise.sample(sigma=None, n_tokens=2, d_model=3, samples=10, seed=0), draws)
    assert noise.record() == GaussianNoise(draws=draws.clone()).record()
    assert noise.record() != GaussianNoise(draws=draws + 1).record()


def test_reference_subjects_are_checked(tiny_model: HookedTransformer) -> None:
    with pytest.raises(InputError, match="subjects: expected at least one reference subject"):
        embedding_sigma(tiny_model, [])
    with pytest.raises(TextError):
        embedding_sigma(tiny_model, [""])
