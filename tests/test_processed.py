"""Folded and centred models: tracing and reading work and mean what theory says; editing and export refuse.

With C the projection that subtracts a vector's mean, LayerNorm gives the same for x and Cx. Centring replaces
every summand of the residual stream by C of it, so every resid, mlp and attn state x becomes Cx, exactly as
much as LayerNorm loses anyway. A restored state is Cx as well, and noise e counts as Ce in both models.
Therefore all cells of a trace have the same probabilities under the same draws, of every kind; the states
themselves differ, and sigma, measured on the embeddings, shrinks by the variance of their rows' means.
Folding changes no state of these kinds at all; centring the unembedding shifts a position's logits alike.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from mechstyle import EditRequest, Fact
from mechstyle.editing.edit import EditSet
from mechstyle.editing.keys import subject_keys
from mechstyle.editing.methods import rome
from mechstyle.editing.targets import TargetOptions
from mechstyle.editing.weight_edit import WeightEdit
from mechstyle.errors import ModelError
from mechstyle.hf_convert import quiet_deprecation
from mechstyle.models import export_hf, fingerprint, load_model, parameter, require_editable
from mechstyle.runs import capture, logits
from mechstyle.sites import Kind, Site
from mechstyle.tokens import encode_fact
from mechstyle.tracing import causal_trace
from mechstyle.tracing.reference import Reference, reference_sigma
from tests.checkpoints import KINDS, random_hf
from tests.oracles import trace_loop

STEPS = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
HOW = {step: {step} for step in STEPS} | {"all": set(STEPS)}
TRACED: tuple[Kind, ...] = ("resid", "mlp", "attn")
FACT = Fact(template="The instrument of {} is the", subject="Miles Davis", target=" trumpet")
REQUEST = EditRequest(fact=FACT, new_target=" guitar")
ROUNDING = {torch.float32: 2e-5, torch.bfloat16: 0.06}
"""Nats."""

Loaded = Callable[..., HookedTransformer]


@pytest.fixture(scope="module")
def plain(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """A function (kind, dtype) -> the random model of this kind as ``load_model`` gives it."""
    known: dict[tuple[str, torch.dtype], HookedTransformer] = {}

    def of(kind: str, dtype: torch.dtype = torch.float32) -> HookedTransformer:
        if (kind, dtype) not in known:
            hf = random_hf(kind, len(tiny_tokenizer))
            known[kind, dtype] = load_model(hf, tokenizer=tiny_tokenizer, dtype=dtype)
        return known[kind, dtype]

    return of


def processed(model: HookedTransformer, steps: set[str]) -> HookedTransformer:
    """A copy that TransformerLens has processed as its own loader would."""
    with quiet_deprecation():
        other = HookedTransformer(copy.deepcopy(model.cfg))
    state = {name: weight.clone() for name, weight in model.state_dict().items()}
    other.load_and_process_state_dict(state, **{step: step in steps for step in STEPS})
    other.tokenizer = model.tokenizer
    return other.eval()


def prompt_of(model: HookedTransformer) -> tuple[list[int], int, range]:
    encoded = encode_fact(model, FACT)
    assert encoded.subject is not None
    return encoded.ids.tolist(), encoded.n_prompt, encoded.subject


def draws_for(model: HookedTransformer, n: int = 3) -> Tensor:
    subject = prompt_of(model)[2]
    return torch.randn(n, len(subject), 32, generator=torch.Generator().manual_seed(1))


def centred(state: Tensor) -> Tensor:
    return state - state.mean(-1, keepdim=True)


# Reading and tracing


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", KINDS)
def test_a_trace_of_a_processed_model_is_that_of_the_plain_one_under_the_same_draws(
    kind: str, how: str, dtype: torch.dtype, plain: Loaded
) -> None:
    model = plain(kind, dtype)
    wanted, found = (
        causal_trace(one, FACT, noise=draws_for(model), window=2, metric="logprob")
        for one in (model, processed(model, HOW[how]))
    )
    for part in TRACED:
        cells = wanted.data[part].values
        assert np.ptp(cells) > 3 * ROUNDING[dtype]
        np.testing.assert_allclose(found.data[part].values, cells, atol=ROUNDING[dtype], rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("part", TRACED)
@pytest.mark.parametrize("kind", ["gpt2", "neox", "llama-gqa"])
def test_a_trace_of_a_processed_model_is_that_of_the_oracle(
    kind: str, part: Kind, dtype: torch.dtype, plain: Loaded
) -> None:
    model = processed(plain(kind, dtype), HOW["all"])
    ids, n_prompt, subject = prompt_of(model)
    draws = draws_for(model, 2)
    trace = causal_trace(model, FACT, kinds=(part,), noise=draws, window=2, metric="logprob")
    clean, corrupted, cells = trace_loop.trace(
        model, ids, n_prompt=n_prompt, subject=subject, draws=draws, kind=part, width=2, metric="logprob"
    )
    near = {"atol": ROUNDING[dtype], "rtol": 0}
    np.testing.assert_allclose(trace.data["clean"].values, clean, **near)
    np.testing.assert_allclose(trace.data["corrupted"].values, corrupted, **near)
    np.testing.assert_allclose(trace.data[part].values, cells, **near)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_differ_by_a_constant_and_states_by_their_means_at_most(
    kind: str, how: str, plain: Loaded
) -> None:
    model = plain(kind)
    other, ids = processed(model, HOW[how]), torch.tensor([prompt_of(model)[0]])
    shift = logits(other, ids) - logits(model, ids)
    torch.testing.assert_close(shift, shift[..., :1].expand_as(shift), atol=2e-5, rtol=0)
    if "center_unembed" in HOW[how]:
        torch.testing.assert_close(
            logits(other, ids).mean(-1), torch.zeros(1, ids.shape[1]), atol=1e-5, rtol=0
        )
    sites = [Site(layer, part) for part in (*TRACED, "key") for layer in range(3)] + [Site(0, "embed")]
    wanted, found = (capture(one, ids, sites) for one in (model, other))
    centres = "center_writing_weights" in HOW[how] and model.cfg.normalization_type == "LN"
    for site in sites:
        state = centred(wanted[site]) if centres and site.kind != "key" else wanted[site]
        torch.testing.assert_close(found[site], state, atol=2e-5, rtol=1e-5, msg=f"{site}")


def test_sigma_shrinks_by_the_variance_of_the_means_of_the_embeddings(plain: Loaded) -> None:
    model = plain("gpt2")
    before, _ = reference_sigma(model)
    after, _ = reference_sigma(processed(model, {"center_writing_weights"}))
    means = parameter(model, "embed.W_E").detach()[Reference.of(model).ids].double().mean(-1)
    assert after**2 == pytest.approx(before**2 - float(means.var(correction=0)), rel=1e-6)
    assert after < before


def test_processed_models_are_other_models_by_fingerprint(plain: Loaded) -> None:
    model = plain("gpt2")
    assert len({fingerprint(model), *(fingerprint(processed(model, steps)) for steps in HOW.values())}) == 6


# Editing and export


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("how", ["fold_ln", "center_writing_weights", "center_unembed", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_processing_that_changes_what_weights_mean_is_refused_with_the_reason(
    kind: str, how: str, dtype: torch.dtype, plain: Loaded, tmp_path: Path
) -> None:
    model = processed(plain(kind, dtype), HOW[how])
    rms = plain(kind).cfg.normalization_type == "RMS"
    if how == "center_writing_weights" and rms:  # RMSNorm sees means, so TransformerLens leaves the weights
        require_editable(model)
        return
    reason = {
        "center_writing_weights": "the rows of blocks.0.mlp.W_out are centred",
        "center_unembed": "the rows of unembed.W_U are centred",
    }.get(how, f"LayerNorm is folded into them .normalization_type '{'RMS' if rms else 'LN'}Pre'")
    name = "blocks.1.mlp.W_out"
    d_mlp, d_model = parameter(model, name).shape
    change = WeightEdit(name, torch.ones(d_mlp, 1).double(), torch.ones(1, d_model).double())
    edit, before = EditSet((change,), fingerprint(model)), parameter(model, name).detach().clone()
    for attempt in (
        lambda: rome(model, REQUEST, layer=1, covariance={1: torch.eye(d_mlp).double()}, contexts=("{}",)),
        lambda: edit.apply_(model),
        lambda: export_hf(model, tmp_path / "out"),
    ):
        with pytest.raises(ModelError, match=f"model has processed weights: {reason}"):
            attempt()
    assert torch.equal(parameter(model, name), before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["gpt2", "neox", "qwen2"])
def test_folded_value_biases_change_neither_keys_nor_edits(kind: str, plain: Loaded) -> None:
    """They move from ``b_V`` to ``b_O``: ``W_out`` and all that the MLP reads and writes stays as it was."""
    model = plain(kind)
    other = processed(model, {"fold_value_biases"})
    assert not torch.equal(parameter(other, "blocks.1.attn.b_O"), parameter(model, "blocks.1.attn.b_O"))
    torch.testing.assert_close(
        subject_keys(other, FACT, layer=1), subject_keys(model, FACT, layer=1), atol=1e-5, rtol=1e-5
    )
    moment = {1: torch.eye(parameter(model, "blocks.1.mlp.W_out").shape[0]).double()}
    found, wanted = (
        rome(
            one, REQUEST, layer=1, covariance=moment, contexts=("{}",), target_options=TargetOptions(steps=5)
        ).delta("blocks.1.mlp.W_out")
        for one in (other, model)
    )
    torch.testing.assert_close(found, wanted, atol=1e-4 * float(wanted.abs().max()), rtol=0)


def test_folded_value_biases_are_exported_where_the_checkpoint_has_a_place_for_them(
    plain: Loaded, tmp_path: Path
) -> None:
    model = plain("gpt2")
    ids = torch.tensor([prompt_of(model)[0]])
    out = export_hf(processed(model, {"fold_value_biases"}), tmp_path / "gpt2")
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(out)(ids).logits
    torch.testing.assert_close(found, logits(model, ids), atol=1e-4, rtol=0)
    with pytest.raises(ModelError, match=r"blocks.0.attn.b_O is not zero, and Qwen2ForCausalLM has no place"):
        export_hf(processed(plain("qwen2"), {"fold_value_biases"}), tmp_path / "qwen2")
    assert [path.name for path in tmp_path.iterdir()] == ["gpt2"]
