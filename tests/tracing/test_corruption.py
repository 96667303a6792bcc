"""Noise: its draws, its size, its records, and its own baseline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from mechstyle.errors import InputError, RangeError, TextError
from mechstyle.facts import Fact
from mechstyle.runs import logits
from mechstyle.tokens import encode, encode_fact
from mechstyle.tracing.corrupted import Corrupted
from mechstyle.tracing.corruption import GaussianNoise, UniformNoise
from mechstyle.tracing.reference import embedding_sigma
from mechstyle.tracing.setup import prepare_fact
from tests.checkpoints import KINDS
from tests.conftest import Architectures
from tests.oracles import trace_loop

FACT = Fact("The instrument of {} is the", "Miles Davis", " trumpet")
NOISES = {"gaussian": GaussianNoise, "uniform": UniformNoise}


def drawn(
    model: HookedTransformer, noise: GaussianNoise | UniformNoise, samples: int = 10, seed: int = 0
) -> Corrupted:
    return noise.embeddings(model, FACT, encode_fact(model, FACT), samples=samples, seed=seed)


@pytest.mark.parametrize("rule", NOISES)
def test_draws_belong_to_their_seed_and_more_samples_keep_the_first(
    tiny_model: HookedTransformer, rule: str
) -> None:
    noise = NOISES[rule](sigma=0.5)
    few, many = (drawn(tiny_model, noise, samples, seed=4).values for samples in (3, 6))
    assert torch.equal(few, many[:3])
    assert few.dtype == torch.float32
    assert not torch.equal(many[0], many[1])
    assert not torch.equal(many, drawn(tiny_model, noise, 6, seed=5).values)


def test_gaussian_draws_have_the_asked_spread(tiny_model: HookedTransformer) -> None:
    values = drawn(tiny_model, GaussianNoise(multiple=3.0, sigma=0.5), samples=400).values
    assert values.std().item() == pytest.approx(1.5, rel=0.02)
    assert abs(values.mean().item()) < 0.03


@pytest.mark.parametrize("noise", [UniformNoise(multiple=3.0, sigma=0.5), UniformNoise(width=1.5)])
def test_uniform_draws_fill_their_width(tiny_model: HookedTransformer, noise: UniformNoise) -> None:
    values = drawn(tiny_model, noise, samples=400).values
    assert 1.49 < values.abs().max().item() <= 1.5
    assert values.std().item() == pytest.approx(1.5 / 3**0.5, rel=0.02)


def test_sigma_is_that_of_the_given_subjects_or_that_of_the_packaged_ones(
    tiny_model: HookedTransformer,
) -> None:
    own = drawn(tiny_model, GaussianNoise(reference=["Paris", "Zürich"])).record
    assert own["sigma"] == embedding_sigma(tiny_model, ["Paris", "Zürich"])
    assert own["sigma_source"] == "2 given reference subjects"
    packaged = drawn(tiny_model, UniformNoise()).record
    assert packaged["sigma_source"] == "200 packaged reference subjects"
    assert packaged["width"] == pytest.approx(3 * packaged["sigma"])


def test_explicit_draws_are_used_as_they_are_and_recorded_by_hash(tiny_model: HookedTransformer) -> None:
    draws = torch.arange(2.0 * 2 * 32).reshape(2, 2, 32)
    found = drawn(tiny_model, GaussianNoise(draws=draws), samples=10)
    assert torch.equal(found.values, draws)
    assert found.record == drawn(tiny_model, GaussianNoise(draws=draws.clone())).record
    assert found.record["sha256"] != drawn(tiny_model, GaussianNoise(draws=draws + 1)).record["sha256"]


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("rule", NOISES)
def test_the_baseline_is_that_of_the_same_noise_put_onto_or_in_place_of_the_embedding(
    tiny_model: HookedTransformer, rule: str, replace: bool
) -> None:
    noise = NOISES[rule](sigma=0.5, replace=replace)
    setup = prepare_fact(tiny_model, FACT, corruption=noise, metric="logprob", samples=3)
    question = setup.questions[0].question
    side = setup.corrupted(question)
    found = question.score(logits(tiny_model, side.ids, hooks=list(side.hooks), n_last=question.n_answer))
    encoded, values = setup.encoded, drawn(tiny_model, noise, samples=3).values
    assert encoded.subject is not None

    def edit_of(draw: Tensor) -> Any:
        def edit(state: Tensor) -> None:
            for row, token in enumerate(encoded.subject):
                state[0, token] = draw[row] if replace else state[0, token] + draw[row]

        return "hook_embed", edit

    ids = encoded.ids.tolist()
    wanted = [
        trace_loop.score(
            trace_loop.run(tiny_model, ids, [edit_of(draw)])[0], ids, encoded.n_prompt, "logprob"
        )
        for draw in values
    ]
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_a_batch_of_many_cells_repeats_the_samples_and_a_slice_keeps_its_own(
    tiny_model: HookedTransformer,
) -> None:
    found = drawn(tiny_model, GaussianNoise(sigma=1.0), samples=3)
    state = torch.zeros(6, 8, 32)
    changed = found.hook()[1](state, hook=None)
    assert not state.any()
    inside = changed[:, found.tokens.start : found.tokens.stop]
    assert torch.equal(inside, found.values.repeat(2, 1, 1))
    assert not changed[:, : found.tokens.start].any()
    assert not changed[:, found.tokens.stop :].any()
    some = found.hook(slice(1, 3))[1](state[:2], hook=None)
    assert torch.equal(some[:, found.tokens.start : found.tokens.stop], found.values[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_noise_changes_nothing_but_the_embeddings_of_the_subject(
    architectures: Architectures, kind: str
) -> None:
    """Also where positions are learned and added: noise in place of an embedding leaves them as they are."""
    model = architectures(kind)
    found = drawn(model, GaussianNoise(sigma=0.5, replace=True), samples=1)
    ids = encode(model, FACT.prompt).ids[None]
    with torch.no_grad():
        clean = model(ids, stop_at_layer=0)
        with model.hooks(fwd_hooks=[found.hook()]):
            noisy = model(ids, stop_at_layer=0)
        positions = clean - model.embed(ids)
    inside = slice(found.tokens.start, found.tokens.stop)
    torch.testing.assert_close(noisy[:, inside], found.values.to(clean.dtype) + positions[:, inside])
    outside = [at for at in range(ids.shape[1]) if at not in found.tokens]
    assert torch.equal(noisy[:, outside], clean[:, outside])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: GaussianNoise(-1.0), RangeError, r"noise \(multiple of sigma\): expected a finite number"),
        (lambda: GaussianNoise(sigma=float("inf")), RangeError, "sigma: expected a finite number of 0 or"),
        (lambda: UniformNoise(width=-0.1), RangeError, "width: expected a finite number of 0 or more"),
        (lambda: UniformNoise(float("nan")), RangeError, r"noise \(multiple of sigma\)"),
        (lambda: UniformNoise(width=1.0, sigma=1.0), InputError, "width: it already says the noise"),
        (lambda: GaussianNoise(replace=1), InputError, "replace: expected True or False, got 1"),
        (lambda: GaussianNoise(reference=[]), InputError, "subjects: expected at least one"),
        (lambda: UniformNoise(reference="Paris"), InputError, "subjects: expected a list of names"),
        (lambda: GaussianNoise(draws=[1.0]), InputError, "expected a tensor of draws, got list"),
        (lambda: GaussianNoise(draws=torch.zeros(0, 2, 32)), InputError, "at least one sample"),
        (lambda: GaussianNoise(draws=torch.full((1, 2, 3), torch.nan)), InputError, "got NaN or infinity"),
    ],
)
def test_noise_out_of_range_is_refused_when_it_is_made(
    make: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


def test_draws_that_do_not_fit_and_prompts_without_a_subject_are_refused(
    tiny_model: HookedTransformer,
) -> None:
    with pytest.raises(InputError, match=r"expected \[sample, 2, 32\] .* got shape \[1, 5, 32\]"):
        drawn(tiny_model, GaussianNoise(draws=torch.zeros(1, 5, 32)))
    for noise in (GaussianNoise(), UniformNoise()):
        with pytest.raises(TextError, match="no subject tokens to corrupt"):
            noise.embeddings(tiny_model, FACT, encode(tiny_model, FACT.prompt), samples=1, seed=0)
