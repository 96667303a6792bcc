"""Traces under every corruption and of every target: what must hold in every cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from mechstyle.errors import InputError, WorkError
from mechstyle.facts import Fact
from mechstyle.tracing.causal_trace import causal_trace
from mechstyle.tracing.corruption import GaussianNoise, UniformNoise
from mechstyle.tracing.patching import activation_patching
from mechstyle.tracing.replacement import MeanAblation, TokenReplacement
from mechstyle.tracing.setup import prepare_fact
from mechstyle.tracing.targets import Contrast
from tests.checkpoints import KINDS
from tests.conftest import Architectures
from tests.tracing.setups import clean_value, corrupted_values

FACT = Fact("The instrument of {} is the", "Miles Davis", " trumpet")
ENGINES = ("resume", "whole")
CORRUPTIONS = {
    "gaussian": GaussianNoise(),
    "in place": GaussianNoise(replace=True),
    "uniform": UniformNoise(),
    "replacement": TokenReplacement(["Bill Evans", "Bo"]),
    "mean": MeanAblation(),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_baseline_of_a_trace_belongs_to_its_corruption(
    tiny_model: HookedTransformer, name: str, engine: Any
) -> None:
    how: dict[str, Any] = {"corruption": CORRUPTIONS[name], "metric": "logprob", "samples": 3, "seed": 4}
    trace = causal_trace(tiny_model, FACT, kinds=("resid", "mlp"), engine=engine, **how)
    setup = prepare_fact(tiny_model, FACT, **how)
    np.testing.assert_allclose(trace.corrupted.values, corrupted_values(tiny_model, setup), atol=1e-5)
    assert trace.clean == pytest.approx(clean_value(tiny_model, setup), abs=1e-5)
    assert setup.record.items() <= trace.settings.items()
    # One token is asked for: the last state of the last token decides it alone.
    restored = trace.data["resid"].isel(token=-1, layer=-1).values
    np.testing.assert_allclose(restored, trace.clean, atol=1e-5)
    assert (trace.indirect_effect("mlp", reduce=None).isel(token=slice(setup.first)) == 0).all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
def test_tracing_with_a_replaced_subject_is_patching_between_the_two_prompts(
    architectures: Architectures, kind: str, engine: Any
) -> None:
    model = architectures(kind)
    how: dict[str, Any] = {"metric": "logprob", "kinds": ("resid", "mlp", "attn"), "engine": engine}
    trace = causal_trace(model, FACT, corruption=TokenReplacement("Bill Evans"), **how)
    patched = activation_patching(model, FACT, "The instrument of Bill Evans is the", **how)
    np.testing.assert_allclose(trace.corrupted.values, patched.corrupted.values, atol=1e-9)
    for name in trace.kinds:
        np.testing.assert_allclose(trace.data[name].values, patched.data[name].values, atol=1e-9)
    assert float(abs(trace.total_effect())) > 1e-3


@pytest.mark.parametrize("engine", ENGINES)
def test_a_contrast_is_traced_cell_by_cell_as_the_difference_of_two_traces(
    tiny_model: HookedTransformer, engine: Any
) -> None:
    styled, plain = " trumpet. Rome", " piano"
    how: dict[str, Any] = {"metric": "logprob", "samples": 2, "engine": engine}
    both = causal_trace(tiny_model, FACT, answer=Contrast(styled, plain), **how)
    one, other = (causal_trace(tiny_model, FACT, answer=text, **how) for text in (styled, plain))
    assert both.clean == pytest.approx(one.clean - other.clean, abs=1e-5)
    for name in both.kinds:
        np.testing.assert_allclose(both.data[name], one.data[name] - other.data[name], atol=2e-5)
    assert both.settings["metric"] == "logprob difference"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_function_that_is_the_log_probability_gives_the_trace_of_the_log_probability(
    tiny_model: HookedTransformer, engine: Any
) -> None:
    named = causal_trace(tiny_model, FACT, metric="logprob", samples=2, engine=engine)
    (token,) = named.settings["answer_tokens"]

    def own(logits: Tensor) -> Tensor:
        return logits[:, 0].log_softmax(-1)[:, token]

    called = causal_trace(tiny_model, FACT, metric=own, samples=2, engine=engine)
    for name in named.kinds:
        np.testing.assert_allclose(called.data[name].values, named.data[name].values, atol=1e-5)
    assert (called.settings["metric"], called.data["mlp"].attrs["units"]) == ("own", "metric's own")


@pytest.mark.parametrize("engine", ENGINES)
def test_minus_kl_is_zero_where_everything_is_restored_and_negative_elsewhere(
    tiny_model: HookedTransformer, engine: Any
) -> None:
    trace = causal_trace(tiny_model, FACT, metric="neg_kl", samples=3, engine=engine)
    assert trace.clean == 0.0
    assert (trace.corrupted < -1e-4).all()
    np.testing.assert_allclose(trace.data["resid"].isel(token=-1, layer=-1).values, 0, atol=1e-6)
    assert (trace.data["resid"].isel(token=-1, layer=0) < -1e-6).all()


def test_a_function_that_fails_is_named(tiny_model: HookedTransformer) -> None:
    def whole(logits: Tensor) -> Tensor:
        return logits

    def odd(logits: Tensor) -> Tensor:
        return torch.full_like(logits[:, 0, 0], torch.nan)

    with pytest.raises(InputError, match="metric: whole must give a tensor with one number for each"):
        causal_trace(tiny_model, FACT, metric=whole, samples=1)
    with pytest.raises(WorkError, match="metric: odd of a clean run is NaN or infinite"):
        causal_trace(tiny_model, FACT, metric=odd, samples=1)
    assert not any(point.fwd_hooks for point in tiny_model.hook_dict.values())
