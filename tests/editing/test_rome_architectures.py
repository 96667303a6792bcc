"""ROME on every architecture against the textbook loop, and what its edit does once it is written."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformers import PreTrainedTokenizerFast

from mechstyle.editing.edit import EditSet
from mechstyle.editing.keys import subject_keys
from mechstyle.editing.methods import rome
from mechstyle.editing.targets import TargetOptions, optimise_target
from mechstyle.facts import EditRequest, Fact
from mechstyle.models import load_model
from mechstyle.runs import capture
from mechstyle.sites import Site
from mechstyle.tokens import encode_fact
from tests.checkpoints import KINDS, random_hf
from tests.oracles.rome_loop import rome_loop

FACT = Fact("The instrument of {} is the", "Miles Davis", " trumpet")
REQUEST = EditRequest(FACT, " guitar of Paris")
CONTEXTS = ("{}", "The day was long. {}", "Rome is the capital of Italy. {}")
OPTIONS = TargetOptions(steps=5, clamp_norm=3.0, early_stop=0.0)
MODES = pytest.mark.parametrize("legacy", [False, True], ids=["consistent", "as published"])


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def loaded(kind: str, tokenizer: PreTrainedTokenizerFast, dtype: torch.dtype) -> HookedTransformer:
    hf = random_hf(kind, len(tokenizer))
    return load_model(hf, tokenizer=tokenizer, dtype=dtype, check_parity=False)


@pytest.fixture(scope="module")
def model(kind: str, tiny_tokenizer: PreTrainedTokenizerFast) -> HookedTransformer:
    """A random model of each architecture, in fp64."""
    return loaded(kind, tiny_tokenizer, torch.float64)


@pytest.fixture(scope="module")
def moments(model: HookedTransformer) -> dict[int, Tensor]:
    """Any positive definite matrices will do."""
    generator, d_mlp = torch.Generator().manual_seed(0), int(model.cfg.d_mlp)
    keys = torch.randn(3, 2 * d_mlp, d_mlp, generator=generator, dtype=torch.float64)
    return {layer: own.T @ own / len(own) for layer, own in enumerate(keys)}


def edited(
    model: HookedTransformer, moments: dict[int, Tensor], layer: int, legacy: bool, bos: bool
) -> EditSet:
    return rome(
        model, REQUEST, layer=layer, covariance=moments, contexts=CONTEXTS, target_options=OPTIONS,
        legacy=legacy, prepend_bos=bos,
    )  # fmt: skip


def by_the_loop(
    model: HookedTransformer, moments: dict[int, Tensor], layer: int, legacy: bool, bos: bool
) -> tuple[Tensor, list[float]]:
    change, _, losses = rome_loop(
        model, template=FACT.template, subject=FACT.subject, target=REQUEST.new_target,
        contexts=list(CONTEXTS), covariance=moments[layer], layer=layer, legacy=legacy, bos=bos,
        steps=OPTIONS.steps, clamp_norm=OPTIONS.clamp_norm,
    )  # fmt: skip
    return change, losses


def relative(found: Tensor, expected: Tensor) -> float:
    return float(torch.linalg.matrix_norm(found - expected) / torch.linalg.matrix_norm(expected))


@MODES
@pytest.mark.parametrize(("layer", "bos"), [(0, True), (1, False)])
def test_rome_is_the_textbook_loop(
    model: HookedTransformer, moments: dict[int, Tensor], layer: int, bos: bool, legacy: bool
) -> None:
    edit = edited(model, moments, layer, legacy, bos)
    change, losses = by_the_loop(model, moments, layer, legacy, bos)
    assert edit.provenance["settings"]["losses"] == pytest.approx(losses, rel=1e-10)
    assert relative(edit.delta(Site(layer, "mlp").parameter), change) < 1e-8


@MODES
def test_rome_in_fp32_is_the_textbook_loop_in_fp64_up_to_rounding(
    kind: str,
    model: HookedTransformer,
    moments: dict[int, Tensor],
    tiny_tokenizer: PreTrainedTokenizerFast,
    legacy: bool,
) -> None:
    edit = edited(loaded(kind, tiny_tokenizer, torch.float32), moments, 1, legacy, bos=False)
    change, losses = by_the_loop(model, moments, 1, legacy, bos=False)
    difference = relative(edit.delta("blocks.1.mlp.W_out"), change)
    assert edit.provenance["settings"]["losses"] == pytest.approx(losses, rel=1e-4)
    assert difference < 1e-3  # measured: 6e-6 at most


def test_the_key_is_what_multiplies_w_out(model: HookedTransformer) -> None:
    """Of a gated MLP that is the product of both branches."""
    ids = encode_fact(model, FACT).ids[None]
    for layer in range(3):
        key, out = Site(layer, "key"), Site(layer, "mlp")
        found, mlp = capture(model, ids, [key, out]), model.blocks[layer].mlp
        torch.testing.assert_close(found[key] @ mlp.W_out + mlp.b_out, found[out], rtol=0, atol=1e-12)
        if model.cfg.gated_mlp:
            _, cache = model.run_with_cache(ids)
            normed = cache[f"blocks.{layer}.ln2.hook_normalized"] * model.blocks[layer].ln2.w
            product = torch.nn.functional.silu(normed @ mlp.W_gate) * (normed @ mlp.W_in) + mlp.b_in
            torch.testing.assert_close(found[key], product, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layer", [0, 1])
def test_written_the_averaged_key_gives_its_old_value_and_delta(
    model: HookedTransformer, moments: dict[int, Tensor], layer: int
) -> None:
    edit = edited(model, moments, layer, legacy=False, bos=False)
    delta = optimise_target(
        model, REQUEST, layer=layer, contexts=CONTEXTS, options=OPTIONS, prepend_bos=False
    ).delta
    key = subject_keys(model, FACT, layer=layer, contexts=CONTEXTS, prepend_bos=False).mean(0)
    before = value(model, layer, key)
    with edit.applied(model):
        torch.testing.assert_close(value(model, layer, key), before + delta, rtol=0, atol=1e-9)
    assert torch.equal(value(model, layer, key), before)


@pytest.mark.parametrize("layer", [0, 1])
def test_written_as_published_the_bare_prompt_gives_the_wanted_value(
    model: HookedTransformer, moments: dict[int, Tensor], layer: int
) -> None:
    """Keys at the subject are made below the written weight, so a run of the prompt itself shows it."""
    edit = edited(model, moments, layer, legacy=True, bos=False)
    target = optimise_target(
        model, REQUEST, layer=layer, contexts=CONTEXTS, options=OPTIONS, prepend_bos=False
    )
    one, site = encode_fact(model, FACT, prepend_bos=False), Site(layer, "mlp")
    assert one.subject is not None
    with edit.applied(model):
        found = capture(model, one.ids[None], [site])[site][0, one.subject[-1]]
    torch.testing.assert_close(found, target.output + target.delta, rtol=0, atol=1e-9)


def value(model: HookedTransformer, layer: int, key: Tensor) -> Tensor:
    """What the layer's MLP makes of a key."""
    mlp = model.blocks[layer].mlp
    with torch.no_grad():
        found: Tensor = key @ mlp.W_out + mlp.b_out
    return found
