"""On real architectures attribution patching is the first-order effect of each cell, of any kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

from mechstyle.facts import Fact
from mechstyle.tokens import encode_fact
from mechstyle.tracing import GaussianNoise, Trace, causal_trace
from mechstyle.tracing.attribution import attribution_patching
from mechstyle.tracing.kinds import KINDS
from tests.checkpoints import KINDS as ARCHITECTURES
from tests.oracles.attribution_loop import Patching, Side, settings

FACT = Fact("{} plays the", "Miles Davis", " trumpet too")
WINDOW, LAYER = 3, 1
LOOPED = [
    pytest.param(kind, marks=pytest.mark.slow) if kind in ("llama", "mistral", "qwen2") else kind
    for kind in (*ARCHITECTURES, "mistral-local")
]
"""The slow ones have nothing that no other one has."""
Models = Callable[..., HookedTransformer]


def draws(model: Any, samples: int = 2, size: float = 1.0) -> Tensor:
    subject = encode_fact(model, FACT).subject
    assert subject is not None
    generator = torch.Generator().manual_seed(3)
    return size * torch.randn(
        samples, len(subject), model.cfg.d_model, generator=generator, dtype=torch.float64
    )


def estimated(model: Any, noise: Tensor, **options: Any) -> Trace:
    options = {"kinds": tuple(KINDS), "window": WINDOW, "neuron_layer": LAYER, "check": 0, **options}
    return attribution_patching(model, FACT, corruption=GaussianNoise(draws=noise), **options)


def answer_logprob(model: Any) -> Callable[[Tensor], Tensor]:
    """Log-probability of the answer from the logits of a whole sequence, written out."""
    answer = encode_fact(model, FACT).target_ids

    def score(logits: Tensor) -> Tensor:
        last = logits[:, -len(answer) :].log_softmax(-1)
        return sum((last[:, at, int(token)] for at, token in enumerate(answer)), last.new_zeros(len(last)))

    return score


def some_cells(trace: Trace, kind: str, some: int, seed: int) -> list[tuple[int, ...]]:
    shape = trace.data[kind].shape[1:]
    random = np.random.default_rng(seed)
    return [
        tuple(int(random.integers(2 * (axis == 0) and 0, n)) for axis, n in enumerate(shape))
        for _ in range(some)
    ]


def set_by(kind: str, cell: tuple[int, ...], n_layers: int) -> list[Any]:
    token, layer, part = (cell[0], LAYER, cell[1]) if kind == "neurons" else (*cell, 0)[:3]
    return settings(kind, token, layer, part, width=WINDOW, n_layers=n_layers)


def sides(model: Any, draw: Tensor) -> tuple[Side, Side]:
    encoded = encode_fact(model, FACT)
    assert encoded.subject is not None
    ids = encoded.ids.tolist()[:-1]
    return Side(ids), Side(ids, draw, tuple(encoded.subject))


@pytest.mark.parametrize("kind", LOOPED)
def test_every_cell_is_its_first_order_effect_by_a_loop_over_cells(architectures: Models, kind: str) -> None:
    model = architectures(kind)
    noise, n_layers = draws(model, 1), int(model.cfg.n_layers)
    clean, corrupted = sides(model, noise[0])
    both = kind in ("gpt2", "gptj", "llama-gqa")
    for direction, base, source in (("denoising", corrupted, clean), ("noising", clean, corrupted))[
        : 1 + both
    ]:
        trace = estimated(model, noise, direction=direction)
        patching = Patching(model, base, source, answer_logprob(model))
        assert trace.clean == pytest.approx(patching.score(clean), abs=1e-10)
        assert float(trace.corrupted[0]) == pytest.approx(patching.score(corrupted), abs=1e-10)
        for number, name in enumerate(trace.kinds):
            effects = trace.indirect_effect(name, reduce=None).values[0]
            assert np.abs(effects).max() > 1e-3
            for cell in some_cells(trace, name, 1, number):
                wanted = patching.first_order(set_by(name, cell, n_layers))
                assert effects[cell] == pytest.approx(wanted, abs=1e-9), (name, cell)


@pytest.mark.parametrize("kind", ["gpt2", "llama-gqa", "gptj"])
def test_integrated_is_the_mean_gradient_between_the_embeddings(architectures: Models, kind: str) -> None:
    model = architectures(kind)
    noise = draws(model, 1)
    clean, corrupted = sides(model, noise[0])
    single = ("resid", "heads", "q", "k", "v", "pattern", "neurons")
    for direction, base, source in (("denoising", corrupted, clean), ("noising", clean, corrupted)):
        trace = estimated(model, noise, kinds=single, method="integrated", steps=3, direction=direction)
        patching = Patching(model, base, source, answer_logprob(model))
        for number, name in enumerate(single):
            effects = trace.indirect_effect(name, reduce=None).values[0]
            for cell in some_cells(trace, name, 1, number):
                (setting,) = set_by(name, cell, int(model.cfg.n_layers))
                assert effects[cell] == pytest.approx(patching.along(setting, 3), abs=1e-9), (name, cell)


@pytest.mark.parametrize("method", ["gradient", "integrated"])
@pytest.mark.parametrize("kind", ["gptj", "qwen2"])
def test_as_the_noise_vanishes_the_estimate_is_what_the_engine_measures(
    architectures: Models, kind: str, method: str
) -> None:
    model = architectures(kind)
    noise = draws(model, 2, size=1e-4)
    found = estimated(model, noise, method=method, steps=2)
    exact = causal_trace(
        model, FACT, noise=noise, kinds=tuple(KINDS), metric="logprob", window=WINDOW, neuron_layer=LAYER
    )
    for name in found.kinds:
        wanted = exact.indirect_effect(name, reduce=None)
        got = found.indirect_effect(name, reduce=None)
        assert got.dims == wanted.dims
        largest = float(np.abs(wanted.values).max())
        np.testing.assert_allclose(got.values, wanted.values, rtol=0, atol=3e-3 * largest)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-4), (torch.bfloat16, 0.3)])
def test_other_precisions_give_the_same_up_to_rounding(
    architectures: Models, dtype: torch.dtype, most: float
) -> None:
    model = architectures("llama-gqa")
    noise = draws(model)
    for method in ("gradient", "integrated"):
        wanted = estimated(model, noise, method=method, steps=2)
        found = estimated(architectures("llama-gqa", dtype), noise, method=method, steps=2)
        for name in wanted.kinds:
            pair = (one.indirect_effect(name).values for one in (found, wanted))
            difference = np.abs(np.subtract(*pair)).max()
            assert difference < most * np.abs(wanted.indirect_effect(name).values).max(), name


def test_a_bridge_gives_the_numbers_of_the_model_that_it_wraps(
    tiny_folder: Path, tiny_model: HookedTransformer
) -> None:
    bridge = TransformerBridge.boot_transformers(str(tiny_folder), device="cpu")
    noise, kinds = draws(tiny_model), ("resid", "mlp", "attn", "severed_mlp", "heads", "v")
    bridge.tokenizer = tiny_model.tokenizer
    found, wanted = (
        attribution_patching(
            model,
            FACT,
            corruption=GaussianNoise(draws=noise),
            kinds=kinds,
            window=2,
            prepend_bos=False,
            check=4,
        )
        for model in (bridge, tiny_model)
    )
    assert (found.settings["engine"], wanted.settings["engine"]) == ("whole", "resume")
    for name in kinds:
        np.testing.assert_allclose(found.data[name], wanted.data[name], atol=2e-4)
    assert found.settings["check"].keys() == wanted.settings["check"].keys()
