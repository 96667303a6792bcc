"""Attribution patching is exact where the model is linear in what is put in, for every kind of cell."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformers import PreTrainedTokenizerFast

from mechstyle.facts import Fact
from mechstyle.tokens import encode_fact
from mechstyle.tracing import GaussianNoise, Trace
from mechstyle.tracing.attribution import attribution_patching
from tests.oracles.attribution_loop import Patching, Side, settings
from tests.tracing.linear import linear_model, without_softmax

FACT = Fact("{} plays the", "Miles Davis", " trumpet")
LINEAR = ("resid", "mlp", "attn", "severed_mlp", "severed_attn", "heads", "v", "neurons")
ATTENDING = ("q", "k", "v", "pattern", "heads")
MODELS: dict[str, dict[str, Any]] = {
    "sequential": {},
    "grouped": {"grouped": True, "rotary": True},
    "parallel": {"parallel": True, "rotary": True},
}
Models = Callable[..., HookedTransformer]


def logit(logits: Tensor) -> Tensor:
    return logits[:, -1, 7]


@pytest.fixture(scope="module")
def linear(tiny_tokenizer: PreTrainedTokenizerFast) -> Callable[..., HookedTransformer]:
    return lambda name, **more: linear_model(tiny_tokenizer, **MODELS[name], **more)


def draws(model: HookedTransformer, samples: int = 2) -> Tensor:
    subject = encode_fact(model, FACT).subject
    assert subject is not None
    return torch.randn(samples, len(subject), model.cfg.d_model, generator=torch.Generator().manual_seed(3))


def estimated(model: Any, *, noise: Tensor, **options: Any) -> Trace:
    return attribution_patching(model, FACT, corruption=GaussianNoise(draws=noise), **options)


def sides(model: HookedTransformer, noise: Tensor) -> tuple[Side, Side]:
    """The clean side and one corrupted side, for the oracle."""
    encoded = encode_fact(model, FACT)
    assert encoded.subject is not None
    ids = encoded.ids.tolist()[:-1]
    return Side(ids), Side(ids, noise, tuple(encoded.subject))


def cells(trace: Trace, kind: str, some: int) -> list[tuple[int, ...]]:
    """Some cells (token, layer, part) from the subject on, by a fixed seed."""
    grid = trace.data[kind]
    first = encode_first(trace)
    every = list(product(range(first, grid.sizes["token"]), *(range(n) for n in grid.shape[2:])))
    picked = np.random.default_rng(1).permutation(len(every))[:some]
    return [every[index] for index in picked]


def encode_first(trace: Trace) -> int:
    return [str(role) for role in trace.data["role"].values].index("first subject token")


def oracle_cell(kind: str, cell: tuple[int, ...], model: Any, window: int, layer: int | None) -> list[Any]:
    if kind == "neurons":
        token, part = cell
        assert layer is not None
        cell = (token, layer, part)
    token, at, part = (*cell, 0)[:3]
    return settings(kind, token, at, part, width=window, n_layers=model.cfg.n_layers)


def require_exact(
    trace: Trace,
    model: Any,
    noise: Tensor,
    kind: str,
    *,
    window: int = 1,
    some: int = 2,
    layer: int | None = None,
) -> None:
    """Compare some cells under every draw with whole runs of one cell each.

    Args:
        layer: look at cells of this layer only.
    """
    effects = trace.indirect_effect(kind, reduce=None)
    noising = trace.settings["direction"] == "noising"
    for sample, draw in enumerate(noise):
        clean, corrupted = sides(model, draw)
        patching = Patching(model, *((clean, corrupted) if noising else (corrupted, clean)), logit)
        for cell in cells(trace, kind, some):
            if kind != "neurons" and layer is not None:
                cell = (cell[0], layer, *cell[2:])
            wanted = patching.exact(oracle_cell(kind, cell, model, window, layer))
            assert float(effects.values[(sample, *cell)]) == pytest.approx(wanted, abs=1e-9), (kind, cell)
    assert np.abs(effects.values).max() > 0.01


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("name", MODELS)
def test_on_a_linear_model_every_estimate_is_the_exact_effect(
    linear: Callable[..., HookedTransformer], name: str, direction: str
) -> None:
    model, noise = linear(name), draws(linear(name))
    trace = estimated(
        model, noise=noise, kinds=LINEAR, metric=logit, window=3, neuron_layer=1, direction=direction
    )
    for kind in LINEAR:
        require_exact(trace, model, noise, kind, window=3, layer=1 if kind == "neurons" else None)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("name", MODELS)
def test_what_is_inside_of_one_attention_is_exact_where_no_softmax_bends_it(
    linear: Callable[..., HookedTransformer], name: str, direction: str
) -> None:
    model = without_softmax(linear(name, looking=2), 2)
    noise = draws(model)
    trace = estimated(model, noise=noise, kinds=ATTENDING, metric=logit, direction=direction)
    for kind in ATTENDING:
        require_exact(trace, model, noise, kind, layer=2)


def test_windows_and_severed_paths_are_exact_by_whole_runs_too(
    linear: Callable[..., HookedTransformer],
) -> None:
    model = linear("parallel")
    noise, kinds = draws(model, 3), ("mlp", "attn", "severed_mlp", "severed_attn")
    resumed = estimated(model, noise=noise, kinds=kinds, metric=logit, window=3)
    model.add_hook("blocks.0.hook_resid_pre", lambda state, hook: None)
    whole = estimated(model, noise=noise, kinds=kinds, metric=logit, window=3, batch_size=4)
    assert (resumed.settings["engine"], whole.settings["engine"]) == ("resume", "whole")
    for kind in kinds:
        np.testing.assert_allclose(whole.data[kind], resumed.data[kind], atol=1e-9)
