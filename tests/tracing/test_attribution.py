"""Attribution patching: what it takes, what it gives, and that it leaves the model as it was."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformers import PreTrainedTokenizerFast

from mechstyle.blocks import has_hooks
from mechstyle.errors import InputError, NonFiniteError, RangeError, TextError, WorkError
from mechstyle.facts import Fact
from mechstyle.tracing import GaussianNoise, Trace, causal_trace
from mechstyle.tracing.attribution import attribution_patching
from mechstyle.tracing.kinds import KINDS
from mechstyle.tracing.rank_correlation import rank_correlation
from mechstyle.tracing.targets import Contrast
from tests.tracing.linear import linear_model

FACT = Fact("{} plays the", "Miles Davis", " trumpet")
OTHER = "Chet Baker plays the"
Models = Callable[..., HookedTransformer]


def estimated(model: Any, **options: Any) -> Trace:
    return attribution_patching(model, FACT, **{"samples": 3, "check": 0, **options})


def effects(trace: Trace, kind: str) -> Any:
    return trace.indirect_effect(kind, reduce=None).values


@pytest.mark.parametrize("steps", [1, 4])
def test_integrated_gradients_add_up_to_the_total_effect_of_a_quadratic_metric(
    tiny_tokenizer: PreTrainedTokenizerFast, steps: int
) -> None:
    model = linear_model(tiny_tokenizer)

    def square(logits: Tensor) -> Tensor:
        return logits[:, -1, 7] ** 2 + 3 * logits[:, -1, 5] * logits[:, -1, 7]

    for direction, sign in (("denoising", 1), ("noising", -1)):
        found = {
            method: estimated(model, metric=square, method=method, steps=steps, direction=direction)
            for method in ("gradient", "integrated")
        }
        total = sign * found["integrated"].total_effect(reduce=None).values[:, None]
        sums = {method: effects(trace, "resid").sum(1) for method, trace in found.items()}
        # The last layer's other tokens have no effect: what is left is what the answer reads.
        np.testing.assert_allclose(
            sums["integrated"], np.broadcast_to(total, sums["integrated"].shape), rtol=1e-9
        )
        assert np.abs(sums["gradient"] - total).min() > 0.01 * np.abs(total).min()


def test_two_prompts_are_compared_at_the_tokens_in_which_they_differ(architectures: Models) -> None:
    model, clean = architectures("gpt2"), Fact("The instrument of {} is the", "Miles Davis", " trumpet")
    trace = attribution_patching(model, clean, "The instrument of Bill Evans is the", check=0)
    reverse = attribution_patching(
        model, "The instrument of Bill Evans is the", clean, answer=" trumpet", check=0
    )
    first = trace.token("first subject token")
    assert trace.settings["samples"] == 1
    assert not effects(trace, "mlp")[:, :first].any()
    assert np.abs(effects(trace, "mlp")[:, first:]).max() > 1e-3
    assert reverse.clean == pytest.approx(float(trace.corrupted[0]), abs=1e-10)
    noising = attribution_patching(
        model, "The instrument of Bill Evans is the", clean, answer=" trumpet", direction="noising", check=0
    )
    for kind in trace.kinds:
        np.testing.assert_allclose(effects(noising, kind), effects(trace, kind), atol=1e-10)


def test_a_contrast_is_the_difference_of_its_continuations(architectures: Models) -> None:
    model, kinds = architectures("neox"), ("resid", "mlp", "severed_mlp", "heads")
    wanted, other = " trumpet too,", " guitar"
    parts = [estimated(model, answer=text, kinds=kinds) for text in (wanted, other)]
    whole = estimated(model, answer=Contrast(wanted, other), kinds=kinds)
    assert whole.clean == pytest.approx(parts[0].clean - parts[1].clean, abs=1e-10)
    for kind in kinds:
        np.testing.assert_allclose(
            effects(whole, kind), effects(parts[0], kind) - effects(parts[1], kind), atol=1e-10
        )


@pytest.mark.parametrize("metric", ["prob", "neg_kl"])
def test_other_metrics_are_their_own_first_order_effects(architectures: Models, metric: Any) -> None:
    model = architectures("gpt2")
    noise = GaussianNoise(0.3, sigma=1e-3)
    found = estimated(model, metric=metric, corruption=noise, method="integrated", kinds=("resid",))
    exact = causal_trace(model, FACT, metric=metric, corruption=noise, samples=3, kinds=("resid",))
    last = (slice(None), exact.token("last prompt token"), -1)  # the state that alone gives the answer
    np.testing.assert_allclose(effects(found, "resid")[last], effects(exact, "resid")[last], rtol=2e-2)
    assert (effects(exact, "resid")[last] != 0).all()


def test_divergence_is_estimated_in_noising_by_integrated_gradients(architectures: Models) -> None:
    options: dict[str, Any] = {"metric": "neg_kl", "direction": "noising", "kinds": ("resid",)}
    found = estimated(architectures("gpt2"), method="integrated", steps=40, **options)
    assert np.abs(effects(found, "resid")).max() > 1e-3


@pytest.mark.parametrize("method", ["gradient", "integrated"])
def test_the_size_of_batches_changes_nothing(architectures: Models, method: str) -> None:
    model, kinds = architectures("llama-gqa"), tuple(KINDS)
    for direction in ("denoising", "noising"):
        found = [
            estimated(
                model, kinds=kinds, neuron_layer=0, window=2, method=method, steps=2, direction=direction,
                batch_size=rows,
            )
            for rows in (None, 2)
        ]  # fmt: skip
        for kind in kinds:
            for other in found[1:]:
                np.testing.assert_allclose(effects(other, kind), effects(found[0], kind), atol=1e-12)


def test_two_forward_runs_and_one_backward_run_give_all_kinds(tiny_model: HookedTransformer) -> None:
    calls = {"forward": 0, "backward": 0}
    tiny_model.add_hook("ln_final.hook_scale", lambda state, hook: calls.update(forward=calls["forward"] + 1))
    tiny_model.add_hook(
        "ln_final.hook_scale", lambda state, hook: calls.update(backward=calls["backward"] + 1), dir="bwd"
    )
    kinds = tuple(name for name in KINDS if "severed" not in name)
    estimated(tiny_model, kinds=kinds, window=1, neuron_layer=2)
    assert calls == {"forward": 2, "backward": 1}


def test_the_model_keeps_no_gradients_flags_or_hooks(tiny_model: HookedTransformer) -> None:
    frozen = "blocks.1.mlp.W_in"
    dict(tiny_model.named_parameters())[frozen].requires_grad_(False)
    before = {name: weight.detach().clone() for name, weight in tiny_model.named_parameters()}

    def stopping(logits: Tensor) -> Tensor:
        raise KeyboardInterrupt

    estimated(tiny_model, check=2)
    with pytest.raises(KeyboardInterrupt):
        estimated(tiny_model, metric=stopping)
    for name, weight in tiny_model.named_parameters():
        assert weight.grad is None
        assert weight.requires_grad == (name != frozen)
        assert torch.equal(weight, before[name])
    assert not has_hooks(tiny_model)
    assert torch.is_grad_enabled()


def test_gradients_flow_in_a_model_without_trainable_weights(tiny_model: HookedTransformer) -> None:
    wanted = estimated(tiny_model)
    with torch.no_grad():
        found = estimated(tiny_model.requires_grad_(False))
    assert found.data.drop_attrs().equals(wanted.data.drop_attrs())


def test_the_trace_says_how_it_was_made_and_is_saved(tiny_model: HookedTransformer, tmp_path: Path) -> None:
    trace = estimated(
        tiny_model, method="integrated", steps=2, kinds=("mlp", "heads", "neurons"), neuron_layer=1
    )
    told = {name: trace.settings[name] for name in ("method", "steps", "direction", "neuron_layer", "check")}
    assert told == {
        "method": "integrated", "steps": 2, "direction": "denoising", "neuron_layer": 1, "check": None,
    }  # fmt: skip
    assert trace.data["neurons"].dims == ("sample", "token", "neuron")
    assert trace.data["neurons"].attrs["layer"] == 1
    trace.save(tmp_path / "trace.nc")
    assert Trace.load(tmp_path / "trace.nc") == trace
    assert estimated(tiny_model, steps=7).settings["steps"] is None


def test_the_check_compares_random_cells_with_exact_ones(architectures: Models) -> None:
    model, kinds = architectures("gpt2"), ("resid", "mlp", "heads", "neurons")
    options: dict[str, Any] = {"kinds": kinds, "neuron_layer": 2, "samples": 2, "seed": 5}
    trace = estimated(model, check=10_000, **options)
    exact = causal_trace(model, FACT, metric="logprob", **{**options, "samples": 1})
    one = attribution_patching(model, FACT, check=0, **{**options, "samples": 1})
    told = trace.settings["check"]
    assert (told["samples"], told["seed"]) == (1, 5)
    for kind in kinds:  # so many cells are all cells
        wanted = rank_correlation(exact, one, kind)
        found = told["rank_correlation"][kind]
        assert found["value"] == pytest.approx(wanted.value, abs=1e-9)
        assert found["n_cells"] == wanted.n_cells
    few = estimated(model, check=6, **options)
    again = estimated(model, check=6, **options)
    assert few == again
    assert {found["n_cells"] for found in few.settings["check"]["rank_correlation"].values()} == {6}
    assert effects(few, "mlp") == pytest.approx(effects(trace, "mlp"), abs=1e-12)


def test_the_check_is_perfect_on_a_linear_model(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model = linear_model(tiny_tokenizer)
    for direction in ("denoising", "noising"):
        trace = estimated(
            model, kinds=("mlp", "severed_attn", "v"), window=2, direction=direction, check=15,
            metric=lambda logits: logits[:, -1, 7],
        )  # fmt: skip
        for found in trace.settings["check"]["rank_correlation"].values():
            assert found["value"] == pytest.approx(1)


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"kinds": ("mlps",)}, InputError, "kinds: expected one or more different ones of resid"),
    ({"kinds": ()}, InputError, "kinds: expected one or more"),
    ({"method": "shapley"}, InputError, "method: expected 'gradient' or 'integrated', got 'shapley'"),
    ({"direction": "back"}, InputError, "direction: expected 'denoising' or 'noising', got 'back'"),
    ({"steps": 0}, RangeError, "steps: expected a whole number of 1 or more, got 0"),
    ({"window": 0}, RangeError, "window: expected a whole number of at least 1, got 0"),
    ({"samples": 0}, RangeError, "samples: expected a whole number of at least 1, got 0"),
    ({"batch_size": 0}, RangeError, "batch_size: expected a whole number"),
    ({"check": -1}, RangeError, "check: expected a whole number of 1 or more, got -1"),
    ({"kinds": ("neurons",)}, InputError, "neuron_layer: expected the layer whose neurons are wanted"),
    ({"neuron_layer": 1}, InputError, "neuron_layer: expected None without the kind 'neurons', got 1"),
    ({"kinds": ("neurons",), "neuron_layer": 9}, RangeError, "neuron_layer must be an integer from 0 to 2"),
    ({"metric": "loss"}, InputError, "metric: expected one of"),
    ({"metric": "neg_kl", "direction": "noising"}, InputError, "its gradient at the clean run is 0"),
    ({"corrupted": OTHER, "seed": 0.5}, InputError, "seed: expected a whole number, got 0.5"),
    ({"corrupted": OTHER, "samples": 0}, RangeError, "samples: expected a whole number of at least 1, got 0"),
    ({"corrupted": OTHER, "samples": True}, RangeError, "samples: expected a whole number"),
    ({"corrupted": OTHER, "corruption": GaussianNoise()}, InputError, "corruption: expected None, since"),
    ({"corrupted": "Chet Baker plays"}, TextError, "corrupted: expected 4 tokens"),
    ({"corrupted": 3}, InputError, "corrupted: expected a prompt or a Fact, got int"),
    (
        {"metric": lambda logits: logits.detach()[:, -1, 0]},
        InputError,
        "metric: expected one with a gradient",
    ),
    (
        {"metric": lambda logits: logits[:, -1, 0] / 0},
        WorkError,
        "metric: <lambda> of a corrupted run is NaN",
    ),
    (
        {"metric": lambda logits: (logits[:, -1, 0] * 0).sqrt()},
        NonFiniteError,
        "model: its gradients are NaN or infinite",
    ),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD, ids=[message for _, _, message in BAD])
def test_bad_input_is_named(
    tiny_model: HookedTransformer, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        estimated(tiny_model, **options)


def test_one_prompt_alone_is_not_enough(tiny_model: HookedTransformer) -> None:
    with pytest.raises(
        InputError, match="clean: expected a Fact, whose subject is corrupted, or two prompts"
    ):
        attribution_patching(tiny_model, "Miles Davis plays the", answer=" trumpet")


def test_a_model_that_gives_no_numbers_is_named(tiny_model: HookedTransformer) -> None:
    with torch.no_grad():
        tiny_model.unembed.W_U.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="its logits on the clean prompt are NaN or infinite"):
        estimated(tiny_model)
