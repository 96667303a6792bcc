"""Whatever the library measures on a ``TransformerBridge`` it measures on the ``HookedTransformer`` too."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import xarray as xr
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerFast

from mechstyle import EditRequest, Fact
from mechstyle.editing.covariance import covariance
from mechstyle.editing.keys import sample_contexts, subject_keys
from mechstyle.editing.methods import rome
from mechstyle.editing.targets import TargetOptions, optimise_target
from mechstyle.evaluation.scores import evaluate
from mechstyle.models import load_model, parameter
from mechstyle.runs import capture, logits
from mechstyle.sites import Site
from mechstyle.tokens import encode_fact, pad
from mechstyle.tracing import causal_trace
from tests.checkpoints import KINDS, random_hf
from tests.conftest import CORPUS

FACT = Fact(template="The instrument of {} is the", subject="Miles Davis", target=" trumpet")
REQUEST = EditRequest(
    fact=FACT,
    new_target=" guitar",
    paraphrases=("Each day {} played the",),
    neighborhood=(("Chet Baker plays the", " trumpet"),),
)
CONTEXTS = ("{}", "The day was long. {}")
WORDS = " ".join(CORPUS).split()
TEXTS = [" ".join(random.Random(seed).sample(WORDS, 12)) for seed in range(60)]
"""Enough different keys for a covariance of full rank."""


@dataclass(frozen=True)
class Pair:
    """One checkpoint on both backends. Do not change it."""

    hooked: HookedTransformer
    bridge: TransformerBridge


@pytest.fixture(scope="module", params=KINDS)
def folder(
    request: pytest.FixtureRequest,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder: Path = tmp_path_factory.mktemp(request.param)
    random_hf(request.param, len(tiny_tokenizer)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pair(folder: Path) -> Pair:
    return Pair(load_model(folder), TransformerBridge.boot_transformers(str(folder), device="cpu"))


def close(found: Tensor, wanted: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found, wanted, atol=atol, rtol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_and_states_of_padded_prompts_agree(side: str, pair: Pair) -> None:
    prompts = [encode_fact(pair.hooked, FACT, template=context, prepend_bos=False) for context in CONTEXTS]
    batch = pad(prompts, pad_id=0, side=side)
    real = batch.attention_mask.bool()
    found, wanted = (
        logits(model, batch.ids, attention_mask=batch.attention_mask) for model in (pair.bridge, pair.hooked)
    )
    close(found[real], wanted[real])
    sites = [Site(layer, kind) for layer in range(3) for kind in ("resid", "mlp", "attn", "key")]
    sites.append(Site(0, "embed"))
    states, expected = (
        capture(model, batch.ids, sites, attention_mask=batch.attention_mask)
        for model in (pair.bridge, pair.hooked)
    )
    for site in sites:
        close(states[site][real], expected[site][real])


def test_traces_agree_cell_by_cell_with_the_same_noise_by_default(pair: Pair) -> None:
    how = {"samples": 3, "window": 2, "prepend_bos": False, "metric": "logprob"}
    found, wanted = causal_trace(pair.bridge, FACT, **how), causal_trace(pair.hooked, FACT, **how)
    xr.testing.assert_allclose(found.data, wanted.data, atol=1e-5, rtol=0)
    assert found.provenance["settings"]["noise"] == wanted.provenance["settings"]["noise"]


def test_a_trace_of_a_processed_bridge_is_that_of_the_plain_model_under_the_same_draws(
    pair: Pair, folder: Path
) -> None:
    """Why: see ``test_processed.py``."""
    bridge = TransformerBridge.boot_transformers(str(folder), device="cpu")
    bridge.enable_compatibility_mode(disable_warnings=True)
    draws = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(3))
    encoded = encode_fact(pair.hooked, FACT, prepend_bos=False)
    assert encoded.subject is not None
    how = {"noise": draws[:, : len(encoded.subject)], "window": 2, "metric": "logprob", "prepend_bos": False}
    found, wanted = causal_trace(bridge, FACT, **how), causal_trace(pair.hooked, FACT, **how)
    assert float(wanted.data["resid"].max() - wanted.data["resid"].min()) > 0.1
    xr.testing.assert_allclose(found.data, wanted.data, atol=2e-5, rtol=0)


def test_keys_and_covariance_agree(pair: Pair) -> None:
    found, wanted = (
        subject_keys(model, FACT, layer=1, contexts=CONTEXTS, prepend_bos=False)
        for model in (pair.bridge, pair.hooked)
    )
    close(found, wanted)
    found, wanted = (
        covariance(model, TEXTS, layers=[0, 2], n_keys=300, prepend_bos=False)
        for model in (pair.bridge, pair.hooked)
    )
    for layer in (0, 2):
        close(found[layer], wanted[layer])
    assert found.provenance == wanted.provenance


def test_contexts_sampled_with_one_seed_are_the_same(pair: Pair) -> None:
    found, wanted = (
        sample_contexts(model, 0, lengths=((4, 2), (6, 1))) for model in (pair.bridge, pair.hooked)
    )
    assert found == wanted


def test_targets_agree_and_leave_gradients_and_hooks_as_they_were(pair: Pair) -> None:
    asked = [weight.requires_grad for weight in pair.bridge.parameters()]
    found, wanted = (
        optimise_target(
            model, REQUEST, layer=1, contexts=CONTEXTS, options=TargetOptions(steps=6), prepend_bos=False
        )
        for model in (pair.bridge, pair.hooked)
    )
    close(found.delta, wanted.delta, atol=1e-4)
    close(found.output, wanted.output)
    close(torch.tensor(found.losses), torch.tensor(wanted.losses), atol=1e-4)
    assert [weight.requires_grad for weight in pair.bridge.parameters()] == asked
    assert all(weight.grad is None for weight in pair.bridge.parameters())
    assert not any(point.fwd_hooks or point.bwd_hooks for point in pair.bridge.hook_points())


@pytest.mark.parametrize("legacy", [False, True])
def test_rome_writes_the_same_edit_from_either_with_the_covariance_of_the_other(
    legacy: bool, pair: Pair
) -> None:
    moments = [
        covariance(model, TEXTS, layers=1, n_keys=900, prepend_bos=False)
        for model in (pair.hooked, pair.bridge)
    ]
    options = TargetOptions(steps=6)
    found, wanted = (
        rome(
            model, REQUEST, layer=1, covariance=moment, contexts=CONTEXTS, target_options=options,
            legacy=legacy, prepend_bos=False,
        )
        for model, moment in zip((pair.bridge, pair.hooked), moments, strict=True)
    )  # fmt: skip
    name = "blocks.1.mlp.W_out"
    scale = float(wanted.delta(name).abs().max())
    close(found.delta(name) / scale, wanted.delta(name) / scale, atol=1e-4)
    with wanted.applied(pair.bridge), wanted.applied(pair.hooked):
        assert torch.equal(parameter(pair.bridge, name), parameter(pair.hooked, name))


def test_scores_before_and_after_an_edit_agree(pair: Pair) -> None:
    moments = covariance(pair.hooked, TEXTS, layers=1, n_keys=900, prepend_bos=False)
    options = TargetOptions(steps=6)
    edit = rome(
        pair.hooked, REQUEST, layer=1, covariance=moments, contexts=CONTEXTS, target_options=options,
        prepend_bos=False,
    )  # fmt: skip
    found, wanted = (
        evaluate(
            model, [REQUEST], edits=edit, prepend_bos=False, perplexity_texts=list(CORPUS), generate=True
        )
        for model in (pair.bridge, pair.hooked)
    )
    numbers = wanted.rows.select_dtypes("number").columns
    close(torch.tensor(found.rows[numbers].to_numpy()), torch.tensor(wanted.rows[numbers].to_numpy()), 1e-4)
    others = [name for name in wanted.rows.columns if name not in numbers]
    assert found.rows[others].equals(wanted.rows[others])
    assert found.perplexity == pytest.approx(wanted.perplexity, rel=1e-5)
