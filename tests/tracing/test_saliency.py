"""Saliency against autograd by hand and a plain loop; completeness, linearity, baselines, errors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.model_bridge import TransformerBridge

from mechstyle import Fact, fingerprint, organisms
from mechstyle.errors import InputError, ModelError, RangeError, TextError
from mechstyle.hf_convert import quiet_deprecation
from mechstyle.tokens import encode, encode_fact
from mechstyle.tracing import prompts
from mechstyle.tracing.saliency import saliency
from mechstyle.tracing.targets import Contrast
from tests.checkpoints import KINDS
from tests.oracles import reading_loop

FACT = Fact("The instrument of {} is the", "Miles Davis", " trumpet too")
BASELINES = ("bos", "eos", "pad", "mean", "zero")
Architectures = Callable[..., HookedTransformer]


def asked(model: Any) -> tuple[list[int], Tensor, Callable[[Tensor], Tensor]]:
    """Ids that are run, the prompt's embeddings, and the log-probability of the two answer tokens."""
    encoded = encode_fact(model, FACT, prepend_bos=True)
    answer = encoded.target_ids
    assert len(answer) == 2

    def logprob(logits: Tensor) -> Tensor:
        return logits[-2:].log_softmax(-1).gather(-1, answer[:, None]).sum()

    ids = encoded.ids.tolist()
    return ids[:-1], reading_loop.embeddings(model, ids[: encoded.n_prompt]), logprob


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_times_input_is_autograds_on_every_architecture(
    kind: str, architectures: Architectures
) -> None:
    model = architectures(kind)
    ids, own, metric = asked(model)
    value, gradient = reading_loop.gradient(model, ids, own, metric)
    found = saliency(model, FACT, method="gradient_x_input", prepend_bos=True).data
    np.testing.assert_allclose(found["score"][0], (own * gradient).sum(-1), atol=1e-10)
    np.testing.assert_allclose(found["norm"][0], (own * gradient).norm(dim=-1), atol=1e-10)
    assert float(found["value"]) == pytest.approx(value, abs=1e-10)
    assert found["baseline"].values.tolist() == ["zero"]


@pytest.mark.parametrize("kind", KINDS)
def test_integrated_gradients_are_those_of_the_plain_loop_on_every_architecture(
    kind: str, architectures: Architectures
) -> None:
    model = architectures(kind)
    ids, own, metric = asked(model)
    mean = model.W_E.detach().mean(0).expand_as(own)
    wanted = reading_loop.integrated_gradients(model, ids, own, mean, metric, steps=4)
    found = saliency(model, FACT, baseline="mean", steps=4, prepend_bos=True).data
    # captum keeps its weights in fp32.
    np.testing.assert_allclose(found["score"][0], wanted.sum(-1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["norm"][0], wanted.norm(dim=-1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["gpt2", "gptj", "llama-gqa"])
def test_scores_add_up_to_what_the_baseline_lacks_the_better_the_more_steps(
    kind: str, architectures: Architectures
) -> None:
    model = architectures(kind)
    gaps = [
        np.abs(saliency(model, FACT, baseline=("mean", "bos"), steps=steps).data["gap"].values)
        for steps in (2, 12, 64)
    ]
    assert (gaps[0] > 1e-3).all()
    assert (gaps[1] < gaps[0] / 2).all()
    assert (gaps[2] < 1e-4).all()
    data = saliency(model, FACT, baseline="mean", steps=64).data
    lost = float(data["value"] - data["at_baseline"][0])
    assert float(data["score"].sum()) == pytest.approx(lost, abs=1e-4)
    assert abs(lost) > 0.1


def linear_model(tokenizer: Any) -> HookedTransformer:
    """A model without layers and norms: its logits are linear in the embedding of their own token."""
    with quiet_deprecation():
        model = HookedTransformer(
            HookedTransformerConfig(
                n_layers=1, d_model=16, n_ctx=32, d_head=8, n_heads=2, d_mlp=32, act_fn="relu", d_vocab=400,
                normalization_type=None, device="cpu", dtype=torch.float64, seed=0,
            )
        )  # fmt: skip
    with torch.no_grad():
        for name in ("blocks.0.attn.W_O", "blocks.0.mlp.W_out"):
            dict(model.named_parameters())[name].zero_()
        model.pos_embed.W_pos.normal_(generator=torch.Generator().manual_seed(0))
    model.tokenizer = tokenizer
    model.cfg.default_prepend_bos = False
    return model


def test_both_methods_are_exact_on_a_linear_model(tiny_tokenizer: Any) -> None:
    model = linear_model(tiny_tokenizer)
    encoded = encode(model, "Miles Davis plays the")
    own = reading_loop.embeddings(model, encoded.ids.tolist())
    weight = model.W_U.detach()[:, 7]

    def logit(logits: Tensor) -> Tensor:
        return logits[:, -1, 7]

    for baseline, start in (("zero", torch.zeros_like(own[-1])), ("mean", model.W_E.detach().mean(0))):
        data = saliency(model, "Miles Davis plays the", metric=logit, baseline=baseline, steps=1).data
        assert float(data["score"][0, -1]) == pytest.approx(float((own[-1] - start) @ weight), abs=1e-9)
        np.testing.assert_allclose(data["score"][0, :-1], 0, atol=1e-12)
        assert float(data["gap"][0]) == pytest.approx(0, abs=1e-9)
    product = saliency(model, "Miles Davis plays the", metric=logit, method="gradient_x_input").data
    zero = saliency(model, "Miles Davis plays the", metric=logit, baseline="zero", steps=3).data
    np.testing.assert_allclose(product["score"], zero["score"], atol=1e-7)
    assert float(product["gap"][0]) == pytest.approx(0, abs=1e-9)


def test_a_model_that_computes_in_bfloat16_gets_scores_near_those_of_fp32(
    architectures: Architectures,
) -> None:
    fine, coarse = (
        saliency(architectures("gpt2", dtype), FACT, baseline="mean", steps=20).data
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert abs(float(fine["gap"][0])) < 1e-3
    size = float(np.abs(fine["score"]).max())
    np.testing.assert_allclose(coarse["score"], fine["score"], atol=0.1 * size)


def test_several_baselines_stand_side_by_side(tiny_model: HookedTransformer) -> None:
    own = asked(tiny_model)[1]
    given = torch.randn(own.shape, generator=torch.Generator().manual_seed(0))
    mean = tiny_model.W_E.detach().mean(0)
    several = saliency(tiny_model, FACT, baseline=(*BASELINES, mean, given), steps=6, prepend_bos=True).data
    assert several["baseline"].values.tolist() == [*BASELINES, "given 5", "given 6"]
    for name in ("mean", "zero"):
        alone = saliency(tiny_model, FACT, baseline=name, steps=6, prepend_bos=True).data
        np.testing.assert_allclose(several["score"].sel(baseline=name), alone["score"][0], atol=1e-6)
    scores = several["score"]
    np.testing.assert_allclose(scores.sel(baseline="given 5"), scores.sel(baseline="mean"), atol=1e-5)
    # In this tokenizer they are one token.
    np.testing.assert_allclose(scores.sel(baseline="eos"), scores.sel(baseline="bos"), atol=1e-6)
    assert not np.allclose(scores.sel(baseline="given 6"), scores.sel(baseline="mean"), atol=1e-2)


def test_a_token_that_is_its_own_baseline_has_no_score(tiny_model: HookedTransformer) -> None:
    data = saliency(tiny_model, FACT, baseline="bos", steps=5, prepend_bos=True).data
    assert str(data["role"].values[0]) == "bos"
    assert float(data["score"][0, 0]) == float(data["norm"][0, 0]) == 0
    assert (data["norm"][0, 1:] > 0).all()


def test_a_contrast_has_the_difference_of_two_saliencies(tiny_model: HookedTransformer) -> None:
    how = {"baseline": "mean", "steps": 6}
    for wanted, other in ((" trumpet", " guitar"), (" trumpet too", " guitar")):
        first, second = (saliency(tiny_model, FACT, answer=one, **how).data for one in (wanted, other))
        both = saliency(tiny_model, FACT, answer=Contrast(wanted, other), **how).data
        np.testing.assert_allclose(both["score"], first["score"] - second["score"], atol=1e-4)


def test_kl_from_the_clean_run_has_no_slope_at_the_prompt_itself(tiny_model: HookedTransformer) -> None:
    found = saliency(tiny_model, FACT, metric="neg_kl", method="gradient_x_input").data
    np.testing.assert_allclose(found["score"], 0, atol=1e-5)
    away = saliency(tiny_model, FACT, metric="neg_kl", baseline="mean", steps=40).data
    assert float(away["at_baseline"][0]) < -0.05
    assert abs(float(away["gap"][0])) < 1e-3


def test_other_embeddings_give_the_saliency_of_the_prompt_they_belong_to(
    tiny_model: HookedTransformer,
) -> None:
    other = Fact("The instrument of {} is the", "Davis Miles", " trumpet too")
    ids = encode_fact(tiny_model, other)
    assert ids.n_prompt == encode_fact(tiny_model, FACT).n_prompt
    swapped = reading_loop.embeddings(tiny_model, ids.ids[: ids.n_prompt].tolist())
    found = saliency(tiny_model, FACT, baseline="mean", steps=5, embeddings=swapped).data
    wanted = saliency(tiny_model, other, baseline="mean", steps=5).data
    np.testing.assert_allclose(found["score"], wanted["score"], atol=1e-6)
    assert float(found["value"]) == pytest.approx(float(wanted["value"]), abs=1e-5)


def test_small_memory_changes_no_score(
    tiny_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = saliency(tiny_model, FACT, baseline="mean", steps=7).data["score"]
    sizes: list[int] = []
    original = prompts.logits

    def measured(model: Any, ids: Tensor, **how: Any) -> Tensor:
        sizes.append(len(ids))
        return original(model, ids, **how)

    monkeypatch.setattr(prompts, "logits", measured)
    monkeypatch.setattr(prompts.AskedPrompt, "rows", lambda self: 2 * tiny_model.cfg.n_layers)
    found = saliency(tiny_model, FACT, baseline="mean", steps=7).data["score"]
    assert max(sizes) == 2
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_bridge_has_the_saliency_of_the_hooked_model(
    tiny_folder: Path, tiny_model: HookedTransformer
) -> None:
    bridge = TransformerBridge.boot_transformers(str(tiny_folder), device="cpu")
    how = {"baseline": ("mean", "bos"), "steps": 4, "prepend_bos": False}
    wanted, found = (saliency(one, FACT, **how).data for one in (tiny_model, bridge))
    for name in ("score", "norm", "gap", "at_baseline"):
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-4, err_msg=name)


@pytest.mark.parametrize("trainable", [True, False])
def test_gradients_flags_and_weights_of_the_model_stay(
    trainable: bool, tiny_model: HookedTransformer
) -> None:
    weights = list(tiny_model.parameters())
    for weight in weights:
        weight.requires_grad_(trainable)
    weights[3].grad = torch.ones_like(weights[3])
    before = copy.deepcopy(tiny_model.state_dict())
    found = saliency(tiny_model, FACT, baseline=("mean", "zero"), steps=3)
    saliency(tiny_model, FACT, method="gradient_x_input")
    assert [weight.requires_grad for weight in weights] == [trainable] * len(weights)
    assert [weight.grad is not None for weight in weights] == [number == 3 for number in range(len(weights))]
    assert torch.equal(weights[3].grad, torch.ones_like(weights[3]))
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.state_dict().items())
    assert found.provenance["fingerprint"] == fingerprint(tiny_model)
    assert found.settings["steps"] == 3
    assert found.settings["metric"] == "logprob"


def test_against_a_mean_subject_a_trained_model_owes_its_answer_to_the_subjects_tokens_alone(
    organism: HookedTransformer,
) -> None:
    fact = organisms.requests("organism-m", n=1, seed=0, invented=False)[0].fact
    encoded = encode_fact(organism, fact)
    own = reading_loop.embeddings(organism, encoded.ids[: encoded.n_prompt].tolist())
    assert encoded.subject is not None
    subject = list(encoded.subject)
    nobody = own.index_copy(0, torch.tensor(subject), organism.W_E.detach().mean(0).expand(len(subject), -1))
    data = saliency(organism, fact, baseline=nobody, steps=60).data
    outside = [token for token in range(encoded.n_prompt) if token not in subject]
    assert (data["score"][0, outside] == 0).all()
    lost = float(data["value"] - data["at_baseline"][0])
    assert lost > 1
    assert float(data["score"][0, subject].sum()) == pytest.approx(lost, rel=0.02)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"prompt": 3}, InputError, "prompt: expected a Fact or a text, got int"),
        ({"answer": " "}, TextError, "answer: expected the continuation"),
        ({"method": "lime"}, InputError, "method: expected one of integrated_gradients, gradient_x_input"),
        ({"metric": "logits"}, InputError, "metric: expected one of"),
        ({"steps": 0}, RangeError, "steps: expected a whole number of 1 or more, got 0"),
        ({"baseline": "unk"}, InputError, "baseline: expected one of bos, eos, pad, mean, zero"),
        ({"baseline": ()}, InputError, "baseline: expected one or more different baselines"),
        ({"baseline": ("bos", "bos")}, InputError, "baseline: expected one or more different baselines"),
        (
            {"baseline": torch.zeros(5)},
            InputError,
            r"baseline: expected a finite tensor of shape \[\d+, 32\]",
        ),
        ({"baseline": torch.full((32,), torch.nan)}, InputError, "with NaN or infinity"),
        (
            {"method": "gradient_x_input", "baseline": "bos"},
            InputError,
            "baseline: 'gradient_x_input' has no baseline but 'zero'",
        ),
        ({"embeddings": torch.zeros(2, 32)}, InputError, "embeddings: expected a finite tensor of shape"),
    ],
)
def test_bad_input_is_refused(
    given: dict[str, Any], error: type[Exception], message: str, tiny_model: HookedTransformer
) -> None:
    with pytest.raises(error, match=message):
        saliency(tiny_model, **{"prompt": FACT, **given})


def test_a_tokenizer_without_the_special_token_is_told(tiny_model: HookedTransformer) -> None:
    tiny_model.tokenizer.bos_token = None
    with pytest.raises(ModelError, match="the model's tokenizer has no BOS token. Choose 'mean' or 'zero'"):
        saliency(tiny_model, FACT)
    assert saliency(tiny_model, FACT, baseline="mean", steps=2).data.sizes["baseline"] == 1


def test_a_model_with_broken_weights_is_refused(tiny_model: HookedTransformer) -> None:
    with torch.no_grad():
        tiny_model.unembed.W_U[0, 0] = torch.nan
    with pytest.raises(ModelError, match="NaN or infinite"):
        saliency(tiny_model, FACT, baseline="mean", steps=2)
