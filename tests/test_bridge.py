"""A ``TransformerBridge`` is the same model as the ``HookedTransformer`` that ``load_model`` makes.

The oracle is that ``HookedTransformer``, loaded from the same folder: every number that the library finds on
one is the number that it finds on the other.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPTNeoConfig, GPTNeoForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from mechstyle import Fact
from mechstyle.bridge import is_bridge
from mechstyle.editing.edit import EditSet, load_edit
from mechstyle.editing.weight_edit import WeightEdit
from mechstyle.errors import ModelError
from mechstyle.identity import named_weights
from mechstyle.models import (
    HookedModel,
    active_base,
    default_prepend_bos,
    export_hf,
    fingerprint,
    load_model,
    parameter,
    provenance,
    require_editable,
    resolve_bos,
)
from mechstyle.runs import logits
from mechstyle.sites import Site
from mechstyle.tokens import encode_fact
from mechstyle.tracing import causal_trace
from mechstyle.weights import parameter_value
from tests.checkpoints import KINDS, random_hf
from tests.oracles import trace_loop

FACT = Fact(template="The instrument of {} is the", subject="Miles Davis", target=" trumpet")


@dataclass(frozen=True)
class Pair:
    """One checkpoint on both backends. Tests that write put everything back."""

    kind: str
    folder: Path
    hooked: HookedTransformer
    bridge: TransformerBridge


def boot(folder: Path, **how: Any) -> TransformerBridge:
    return TransformerBridge.boot_transformers(str(folder), device="cpu", **how)


@pytest.fixture(scope="module", params=KINDS)
def pair(
    request: pytest.FixtureRequest,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path_factory: pytest.TempPathFactory,
) -> Pair:
    folder = tmp_path_factory.mktemp(request.param)
    random_hf(request.param, len(tiny_tokenizer)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return Pair(request.param, folder, load_model(folder), boot(folder))


@pytest.fixture
def tiny_bridge(tiny_folder: Path) -> TransformerBridge:
    """A GPT-2, fresh for each test."""
    return boot(tiny_folder)


def ids_for(rows: int = 3, length: int = 12) -> Tensor:
    return torch.randint(400, (rows, length), generator=torch.Generator().manual_seed(1))


def state_of(model: Any) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def an_edit(model: Any, *layers: int, seed: int = 0) -> EditSet:
    """Random changes of rank one, large enough to move the logits."""
    generator = torch.Generator().manual_seed(seed)
    edits = []
    for layer in layers:
        name = Site(layer, "mlp").parameter
        d_mlp, d_model = parameter(model, name).shape
        left, right = torch.randn(d_mlp, 1, generator=generator), torch.randn(1, d_model, generator=generator)
        edits.append(WeightEdit(name, left.double(), 0.3 * right.double()))
    return EditSet(tuple(edits), fingerprint(model))


# Weights


def test_names_shapes_and_values_of_all_weights_are_those_of_the_hooked_model(pair: Pair) -> None:
    assert isinstance(pair.bridge, HookedModel)
    wanted, found = named_weights(pair.hooked), named_weights(pair.bridge)
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        assert torch.equal(found[name], weight), name


def test_what_is_written_into_any_parameter_changes_the_runs_as_on_the_hooked_model_or_is_refused(
    pair: Pair,
) -> None:
    ids, before = ids_for(), state_of(pair.bridge)
    refused = []
    for name, weight in pair.hooked.named_parameters():
        change = 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
        try:
            live = parameter(pair.bridge, name)
        except ModelError:
            refused.append(name)
            continue
        old, hooked_old = live.clone(), weight.detach().clone()
        with torch.no_grad():
            weight.add_(change)
            live.add_(change)
        wanted = logits(pair.hooked, ids)
        torch.testing.assert_close(logits(pair.bridge, ids), wanted, atol=1e-4, rtol=0, msg=name)
        with torch.no_grad():
            weight.copy_(hooked_old)
            live.copy_(old)
    assert same(state_of(pair.bridge), before)
    shared = {name.rpartition(".")[2].lstrip("_") for name in refused}
    assert shared <= {"b_Q", "b_K", "b_V", "b_O", "b_in", "b_out", "b_U", "W_E", "W_U", "w", "b"}
    for name in refused:
        value = parameter_value(pair.bridge, name)
        others = [weight for other, weight in named_weights(pair.bridge).items() if other != name]
        assert not value.any() or any(value.data_ptr() == other.data_ptr() for other in others), name


def test_writes_that_would_be_lost_or_reach_further_are_refused_with_the_reason(pair: Pair) -> None:
    if pair.kind not in ("gptj", "phi"):  # these two have an unembedding bias
        with pytest.raises(ModelError, match=r"no weight behind 'unembed.b_U'.*would be silently lost"):
            parameter(pair.bridge, "unembed.b_U")
    for name, other in (("embed.W_E", "unembed.W_U"), ("unembed.W_U", "embed.W_E")):
        assert torch.equal(parameter_value(pair.bridge, name), parameter(pair.hooked, name))
        if pair.bridge.original_model.config.tie_word_embeddings:
            with pytest.raises(ModelError, match=rf"'{name}' and '{other}' in one tied weight.*load_model"):
                parameter(pair.bridge, name)
        else:
            assert torch.equal(parameter(pair.bridge, name), parameter(pair.hooked, name))
    with pytest.raises(
        ModelError, match=r"no parameter 'blocks.9.mlp.W_out'; it has .* 'blocks.0.mlp.W_out'"
    ):
        parameter(pair.bridge, "blocks.9.mlp.W_out")


OPTIONS = {
    "tied": ("gptj", {"tie_word_embeddings": True}),
    "untied": ("gpt2", {"tie_word_embeddings": False}),
    "biases": ("llama-gqa", {"attention_bias": True}),
    "wide heads": ("llama-gqa", {"head_dim": 16}),
    "window": ("mistral", {"sliding_window": 4}),
    "window on some layers": (
        "qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    ),
}  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
def test_options_of_an_architecture_change_neither_fingerprints_nor_edits(
    option: str, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    kind, config = OPTIONS[option]
    random_hf(kind, len(tiny_tokenizer), **config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    bridge, hooked = boot(tmp_path), load_model(tmp_path)
    assert fingerprint(bridge) == fingerprint(hooked)
    edit = an_edit(hooked, 0, 2)
    with edit.applied(bridge), edit.applied(hooked):
        torch.testing.assert_close(logits(bridge, ids_for()), logits(hooked, ids_for()), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["gpt2", "neox"])
def test_a_bridge_that_was_cast_is_still_found_where_its_runs_read(
    kind: str, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Their checkpoints fuse queries, keys and values; after a cast the fused weight is a stale copy."""
    random_hf(kind, len(tiny_tokenizer)).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    bridge, hooked = boot(tmp_path).to(torch.float64), load_model(tmp_path, dtype=torch.float64)
    before = fingerprint(hooked)
    for name in ("blocks.1.attn.W_V", "blocks.1.attn.b_V", "blocks.2.mlp.W_out"):
        with torch.no_grad():
            parameter(bridge, name).mul_(1.5)
            parameter(hooked, name).mul_(1.5)
    torch.testing.assert_close(logits(bridge, ids_for()), logits(hooked, ids_for()), atol=1e-5, rtol=0)
    assert fingerprint(bridge) == fingerprint(hooked) != before


# Which model it is


def test_the_fingerprint_is_that_of_the_hooked_model_with_edits_and_without(pair: Pair) -> None:
    wanted = fingerprint(pair.hooked)
    assert fingerprint(pair.bridge) == wanted
    with an_edit(pair.bridge, 0, 1).applied(pair.bridge):
        assert fingerprint(pair.bridge) == wanted
    live = parameter(pair.bridge, "blocks.1.mlp.W_out")
    old = live.clone()
    with torch.no_grad():
        live[3, 3] += 1
        assert fingerprint(pair.bridge) != wanted
        live.copy_(old)
    assert fingerprint(pair.bridge) == wanted


def test_the_fingerprint_does_not_depend_on_the_number_format(pair: Pair) -> None:
    assert fingerprint(boot(pair.folder, dtype=torch.bfloat16)) == fingerprint(pair.hooked)


def test_provenance_tells_what_it_tells_of_the_hooked_model(pair: Pair) -> None:
    assert provenance(pair.bridge, seed=1) == provenance(pair.hooked, seed=1)


def test_prompts_get_the_same_tokens_and_the_bridge_keeps_its_own_default_of_bos(pair: Pair) -> None:
    for bos in (False, True):
        hooked, bridge = (encode_fact(model, FACT, prepend_bos=bos) for model in (pair.hooked, pair.bridge))
        assert torch.equal(hooked.ids, bridge.ids)
        assert (hooked.strings, hooked.roles, hooked.offsets) == (
            bridge.strings,
            bridge.roles,
            bridge.offsets,
        )
    expected = pair.kind not in ("neox", "phi", "qwen2")
    assert default_prepend_bos(pair.bridge) is resolve_bos(pair.bridge, None) is expected
    assert default_prepend_bos(pair.hooked) is False


# Edits


def test_an_edit_does_on_the_bridge_what_it_does_on_the_hooked_model_and_is_undone_bit_for_bit(
    pair: Pair, tmp_path: Path
) -> None:
    ids, before = ids_for(), state_of(pair.bridge)
    plain = logits(pair.bridge, ids)
    made_here = load_edit(an_edit(pair.hooked, 0, 2, seed=1).save(tmp_path / "a.safetensors"))
    made_there = load_edit(an_edit(pair.bridge, 1, 2, seed=2).save(tmp_path / "b.safetensors"))
    first, second = (made_here.apply_(model) for model in (pair.hooked, pair.bridge))
    third, fourth = (made_there.apply_(model) for model in (pair.hooked, pair.bridge))
    edited = logits(pair.hooked, ids)
    assert (edited - plain).abs().max() > 0.1
    torch.testing.assert_close(logits(pair.bridge, ids), edited, atol=1e-4, rtol=0)
    for handle in (first, second):
        handle.undo()
    torch.testing.assert_close(logits(pair.bridge, ids), logits(pair.hooked, ids), atol=1e-4, rtol=0)
    for handle in (third, fourth):
        handle.undo()
    assert same(state_of(pair.bridge), before)
    assert torch.equal(logits(pair.bridge, ids), plain)
    assert active_base(pair.bridge) == {}


def test_a_failure_within_an_edit_leaves_the_bridge_as_it_was(pair: Pair) -> None:
    before = state_of(pair.bridge)
    edit = an_edit(pair.bridge, 1)
    with pytest.raises(KeyError), edit.applied(pair.bridge):
        assert not same(state_of(pair.bridge), before)
        raise KeyError("stop")
    assert same(state_of(pair.bridge), before)


def test_a_half_precision_bridge_takes_the_edit_of_the_exact_model_and_gives_it_back(pair: Pair) -> None:
    bridge, hooked = boot(pair.folder, dtype=torch.bfloat16), load_model(pair.folder, dtype=torch.bfloat16)
    before, edit = state_of(bridge), an_edit(pair.hooked, 0, 1)
    with edit.applied(bridge), edit.applied(hooked):
        for layer in (0, 1):
            name = Site(layer, "mlp").parameter
            assert torch.equal(parameter(bridge, name), parameter(hooked, name))
    assert same(state_of(bridge), before)


def test_an_edit_of_another_model_is_refused(pair: Pair, tiny_bridge: TransformerBridge) -> None:
    edit = an_edit(pair.bridge, 1)
    if fingerprint(tiny_bridge) != fingerprint(pair.bridge):
        with pytest.raises(ModelError, match="expected the one it was computed for"):
            edit.apply_(tiny_bridge)


# What is refused


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"center_writing_weights": False, "center_unembed": False, "fold_value_biases": False},
        {"fold_ln": False, "center_unembed": False, "fold_value_biases": False},
    ],
    ids=["all", "fold_ln", "center_writing_weights"],
)
def test_a_bridge_with_processed_weights_is_not_edited(
    how: dict[str, bool], tiny_bridge: TransformerBridge
) -> None:
    edit, before = an_edit(tiny_bridge, 1), fingerprint(tiny_bridge)
    tiny_bridge.enable_compatibility_mode(**how)
    for attempt in (lambda: require_editable(tiny_bridge), lambda: edit.apply_(tiny_bridge)):
        with pytest.raises(ModelError, match=r"processed weights: .*compatibility_mode\(\) has folded"):
            attempt()
    assert fingerprint(tiny_bridge) != before


def test_compatibility_mode_without_processing_is_as_good_as_none(
    tiny_bridge: TransformerBridge, tiny_model: HookedTransformer
) -> None:
    tiny_bridge.enable_compatibility_mode(no_processing=True)
    require_editable(tiny_bridge)
    edit = an_edit(tiny_model, 1)
    with edit.applied(tiny_bridge), edit.applied(tiny_model):
        torch.testing.assert_close(
            logits(tiny_bridge, ids_for()), logits(tiny_model, ids_for()), atol=1e-4, rtol=0
        )


def test_a_bridge_that_does_not_tell_whether_it_was_processed_is_not_edited(
    tiny_bridge: TransformerBridge,
) -> None:
    del tiny_bridge._weights_processed
    with pytest.raises(ModelError, match="this version of TransformerLens does not tell"):
        require_editable(tiny_bridge)


def test_nan_weights_are_named_as_in_the_hooked_model(tiny_bridge: TransformerBridge) -> None:
    with torch.no_grad():
        parameter(tiny_bridge, "blocks.1.attn.b_K")[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"NaN or infinite numbers in 1 weights, first 'blocks.1.attn.b_K'"):
        require_editable(tiny_bridge)


def test_a_bridge_is_not_exported_and_the_way_out_is_told(
    tiny_bridge: TransformerBridge, tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    assert is_bridge(tiny_bridge)
    assert not is_bridge(tiny_model)
    with pytest.raises(ModelError, match="export_hf expected a HookedTransformer.*Load the same checkpoint"):
        export_hf(tiny_bridge, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# A model that load_model does not read


def gpt_neo(vocab_size: int) -> PreTrainedModel:
    config = GPTNeoConfig(
        vocab_size=vocab_size, hidden_size=32, num_layers=3, num_heads=4, max_position_embeddings=64,
        attention_types=[[["global", "local", "global"], 1]], window_size=64, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GPTNeoForCausalLM(config).eval()


FOREIGN = {
    "'gpt_neo' are not supported": gpt_neo,
    "mlp_bias=true is not supported": lambda vocab_size: random_hf("llama", vocab_size, mlp_bias=True),
}
"""Why ``load_model`` refuses -> model."""


@pytest.fixture(params=FOREIGN)
def reason(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def foreign(reason: str, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> TransformerBridge:
    """A model that the bridge runs and ``load_model`` refuses."""
    FOREIGN[reason](len(tiny_tokenizer)).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    return boot(tmp_path)


def test_a_foreign_bridge_has_a_fingerprint_of_its_own_parameters(foreign: TransformerBridge) -> None:
    wanted = fingerprint(foreign)
    assert fingerprint(foreign) == fingerprint(copy.deepcopy(foreign)) == wanted
    assert fingerprint(boot(Path(foreign.cfg.model_name))) == wanted
    with torch.no_grad():
        foreign.blocks[1].mlp.W_out[0, 0] += 1
    assert fingerprint(foreign) != wanted


def test_a_foreign_bridge_is_traced_with_sigma_as_the_oracle_traces_it(foreign: TransformerBridge) -> None:
    encoded = encode_fact(foreign, FACT, prepend_bos=False)
    assert encoded.subject is not None
    draws = torch.randn(1, len(encoded.subject), 32, generator=torch.Generator().manual_seed(3))
    for kind in ("resid", "mlp", "attn"):
        trace = causal_trace(foreign, FACT, kinds=(kind,), noise=draws, metric="logprob", prepend_bos=False)
        wanted = trace_loop.trace(
            foreign, encoded.ids.tolist(), n_prompt=encoded.n_prompt, subject=encoded.subject, draws=draws,
            kind=kind, metric="logprob",
        )  # fmt: skip
        for name, values in zip(("clean", "corrupted", kind), wanted, strict=True):
            found = torch.tensor(trace.data[name].values)
            torch.testing.assert_close(found, torch.tensor(values).double(), atol=1e-5, rtol=0)


def test_a_foreign_bridge_is_neither_edited_nor_guessed_at(foreign: TransformerBridge, reason: str) -> None:
    for attempt in (
        lambda: require_editable(foreign),
        lambda: parameter(foreign, "blocks.1.mlp.W_out"),
        lambda: causal_trace(foreign, FACT, kinds=("resid",), samples=2),
    ):
        with pytest.raises(ModelError, match=rf"this TransformerBridge.*{reason}.*when sigma=... is given"):
            attempt()
