"""One block on the last positions of sequences, and which models allow it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerFast

from mechstyle.blocks import can_resume, has_hooks, keys_values, run_block, run_last_block
from mechstyle.errors import ModelError
from mechstyle.models import load_model
from mechstyle.runs import record, record_again, resume
from tests.checkpoints import KINDS, random_hf

ROWS, POSITIONS = 3, 6


@pytest.fixture(scope="module")
def models(tiny_tokenizer: PreTrainedTokenizerFast) -> Mapping[str, HookedTransformer]:
    """Every architecture in fp64. Leave them as they are."""
    size = len(tiny_tokenizer)
    found = {
        kind: load_model(random_hf(kind, size), tokenizer=tiny_tokenizer, dtype=torch.float64)
        for kind in KINDS
    }
    return MappingProxyType(found)


@pytest.fixture
def residual() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(ROWS, POSITIONS, 32, generator=generator, dtype=torch.float64)


def plain_model(**fields: Any) -> HookedTransformer:
    """A model of no named architecture."""
    settings = {
        "n_layers": 2, "d_model": 16, "n_heads": 2, "d_head": 8, "d_mlp": 32, "d_vocab": 11, "n_ctx": 16,
        "act_fn": "gelu", "dtype": torch.float64, "seed": 0, "default_prepend_bos": False,
    }  # fmt: skip
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.no_grad():
        warnings.filterwarnings("ignore", "HookedTransformer is deprecated", DeprecationWarning)
        model = HookedTransformer(HookedTransformerConfig(**{**settings, **fields})).eval()
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return model


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [0, 2])
def test_a_block_without_a_past_is_the_models_own_block(
    models: Mapping[str, HookedTransformer], kind: str, layer: int, residual: Tensor
) -> None:
    model = models[kind]
    after, _ = run_block(model, layer, residual)
    assert torch.equal(after, model.blocks[layer](residual))


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_positions_of_a_block_need_only_keys_and_values_of_earlier_ones(
    models: Mapping[str, HookedTransformer], kind: str, residual: Tensor
) -> None:
    whole, (keys, values) = run_block(models[kind], 1, residual)
    for start in range(POSITIONS):
        past = keys[:, :start], values[:, :start]
        last, joined = run_block(models[kind], 1, residual[:, start:], past)
        close(last, whole[:, start:])
        close(joined[0], keys)
        close(joined[1], values)


@pytest.mark.parametrize("kind", KINDS)
def test_keys_and_values_alone_are_those_of_the_whole_block(
    models: Mapping[str, HookedTransformer], kind: str, residual: Tensor
) -> None:
    _, (keys, values) = run_block(models[kind], 1, residual)
    alone = keys_values(models[kind], 1, residual)
    close(alone[0], keys)
    close(alone[1], values)
    heads = models[kind].cfg.n_key_value_heads or models[kind].cfg.n_heads
    assert keys.shape == (ROWS, POSITIONS, heads, models[kind].cfg.d_head)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_last", [1, 2, 4, 9])
def test_the_last_block_gives_the_last_positions_of_the_block(
    models: Mapping[str, HookedTransformer], kind: str, n_last: int, residual: Tensor
) -> None:
    whole, (keys, values) = run_block(models[kind], 2, residual)
    past = keys[:, :2], values[:, :2]
    last = run_last_block(models[kind], 2, residual[:, 2:], past, n_last=n_last)
    close(last, whole[:, 2:][:, -n_last:])
    close(run_last_block(models[kind], 2, residual, n_last=n_last), whole[:, -n_last:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masked", [None, "left", "right"])
def test_a_past_of_fewer_rows_is_used_again_and_again(
    models: Mapping[str, HookedTransformer], kind: str, masked: str | None, residual: Tensor
) -> None:
    mask = None
    if masked is not None:
        mask = torch.ones(ROWS, POSITIONS, dtype=torch.long)
        mask[0, :1] = mask[2, :2] = 0
        mask = mask if masked == "left" else mask.flip(1)
    _, (keys, values) = run_block(models[kind], 1, residual, attention_mask=mask)
    other = residual.roll(1, dims=0)
    suffixes = torch.cat([residual, other])[:, 3:]
    past = keys[:, :3], values[:, :3]
    once, joined = run_block(models[kind], 1, suffixes, past, attention_mask=mask)
    last = run_last_block(models[kind], 1, suffixes, past, n_last=2, attention_mask=mask)
    assert len(once) == len(joined[0]) == 2 * ROWS
    for row in range(2 * ROWS):
        own = row % ROWS
        one = keys[own : own + 1, :3], values[own : own + 1, :3]
        own_mask = None if mask is None else mask[own : own + 1]
        alone, _ = run_block(models[kind], 1, suffixes[row : row + 1], one, attention_mask=own_mask)
        close(once[row], alone[0])
        close(last[row], alone[0, -2:])
    assert not torch.allclose(once[:ROWS], once[ROWS:])


def test_running_a_block_leaves_its_past_as_it_was(
    models: Mapping[str, HookedTransformer], residual: Tensor
) -> None:
    _, (keys, values) = run_block(models["gpt2"], 0, residual)
    kept = keys.clone(), values.clone()
    run_block(models["gpt2"], 0, residual[:, 4:], (keys[:, :4], values[:, :4]))
    run_last_block(models["gpt2"], 0, residual[:, 4:], (keys[:, :4], values[:, :4]), n_last=1)
    assert torch.equal(keys, kept[0])
    assert torch.equal(values, kept[1])


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_that_loads_can_resume(models: Mapping[str, HookedTransformer], kind: str) -> None:
    assert can_resume(models[kind])


ROTARY: Mapping[str, Any] = {"positional_embedding_type": "rotary", "rotary_dim": 4}
PLAIN: Mapping[str, dict[str, Any]] = {
    "as it comes": {},
    "no norm": {"normalization_type": None},
    "rotary": ROTARY,
    "local attention": {"use_local_attn": True, "window_size": 2, "attn_types": ["local", "global"]},
    "local attention above": {"use_local_attn": True, "window_size": 2, "attn_types": ["global", "local"]},
    "scores with a soft cap": {"attn_scores_soft_cap": 0.5, "output_logits_soft_cap": 2.0},
    "query and key norms": {"use_qk_norm": True},
    "scaled by the logarithm of the position": {"use_logn_attn": True},
    "normed on both sides": {"normalization_type": "RMS", "use_normalization_before_and_after": True},
    "grouped queries with norms": {"n_key_value_heads": 1, "use_qk_norm": True, **ROTARY},
    "parallel": {"parallel_attn_mlp": True},
}


@pytest.mark.parametrize("fields", PLAIN.values(), ids=PLAIN.keys())
def test_a_model_of_a_plain_config_resumes_exactly(fields: dict[str, Any]) -> None:
    model = plain_model(**fields)
    assert can_resume(model)
    ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2]])
    with torch.no_grad():
        _, cache = model.run_with_cache(ids)
        for layer in range(2):
            residual = cache[f"blocks.{layer}.hook_resid_pre"]
            _, (keys, values) = run_block(model, layer, residual)
            past = keys[:, :3], values[:, :3]
            after = cache[f"blocks.{layer}.hook_resid_post"]
            close(run_block(model, layer, residual[:, 3:], past)[0], after[:, 3:])
            close(run_last_block(model, layer, residual[:, 3:], past, n_last=2), after[:, -2:])


REFUSED: Mapping[str, dict[str, Any]] = {
    "another architecture": {"original_architecture": "BloomForCausalLM"},
    "alibi": {"positional_embedding_type": "alibi"},
    "shortformer": {"positional_embedding_type": "shortformer"},
    "attention in both directions": {"attention_dir": "bidirectional"},
    "no MLPs": {"attn_only": True, "d_mlp": None, "act_fn": None},
    "an attention input for each head": {"use_attn_in": True},
    "an input for each of query, key and value": {"use_split_qkv_input": True},
    "ungrouped queries": {
        "n_key_value_heads": 1, "ungroup_grouped_query_attention": True, **ROTARY,
    },
    "clipped keys": {"clip_qkv": 0.1},
}  # fmt: skip


@pytest.mark.parametrize("fields", REFUSED.values(), ids=REFUSED.keys())
def test_other_models_cannot_resume(fields: dict[str, Any]) -> None:
    assert can_resume(plain_model())
    assert not can_resume(plain_model(**fields))


def test_a_flag_that_is_set_later_counts(tiny_model: HookedTransformer) -> None:
    assert can_resume(tiny_model)
    tiny_model.set_use_attn_in(True)
    assert not can_resume(tiny_model)
    tiny_model.set_use_attn_in(False)
    tiny_model.set_use_split_qkv_input(True)
    assert not can_resume(tiny_model)
    tiny_model.set_use_split_qkv_input(False)
    assert can_resume(tiny_model)


def test_a_bridge_cannot_resume(tiny_folder: Path) -> None:
    assert not can_resume(TransformerBridge.boot_transformers(str(tiny_folder), device="cpu"))


def test_hooks_are_seen_wherever_they_were_put_and_not_after_they_are_gone(
    tiny_model: HookedTransformer,
) -> None:
    def watch(*anything: Any) -> None:
        return None

    assert not has_hooks(tiny_model)
    for direction in ("fwd", "bwd"):
        tiny_model.add_hook("blocks.1.hook_mlp_out", lambda state, hook: None, dir=direction)
        assert has_hooks(tiny_model)
        tiny_model.reset_hooks()
        assert not has_hooks(tiny_model)
    tiny_model.add_perma_hook("hook_embed", lambda state, hook: None)
    assert has_hooks(tiny_model)
    tiny_model.reset_hooks(including_permanent=True)
    with tiny_model.hooks(fwd_hooks=[("ln_final.hook_normalized", lambda state, hook: None)]):
        assert has_hooks(tiny_model)
    assert not has_hooks(tiny_model)
    block = tiny_model.blocks[2]
    for part, register in (
        (tiny_model, "register_forward_hook"),
        (block, "register_forward_pre_hook"),
        (block.attn, "register_full_backward_hook"),
        (block.mlp, "register_full_backward_pre_hook"),
    ):
        handle = getattr(part, register)(watch)
        assert has_hooks(tiny_model)
        handle.remove()
        assert not has_hooks(tiny_model)


def test_a_copy_of_a_model_without_hooks_has_none(tiny_model: HookedTransformer) -> None:
    tiny_model.add_hook("hook_embed", lambda state, hook: None)
    plain = copy.deepcopy(tiny_model)
    plain.reset_hooks()
    assert has_hooks(tiny_model)
    assert not has_hooks(plain)


def test_what_cannot_be_resumed_is_refused_before_any_run(tiny_folder: Path) -> None:
    bridge = TransformerBridge.boot_transformers(str(tiny_folder), device="cpu")
    base = record(load_model(tiny_folder), torch.tensor([[1, 2, 3]]))
    refused = r"model: runs of this TransformerBridge cannot be recorded or resumed, only run whole"
    with pytest.raises(ModelError, match=refused):
        record(bridge, torch.tensor([[1, 2, 3]]))
    with pytest.raises(ModelError, match=refused):
        record_again(bridge, base, torch.tensor([[1, 2, 3]]), start=1)
    with pytest.raises(ModelError, match=refused):
        resume(bridge, {1: lambda: base.entering(1, 1)}, base=base, start=1, n_last=1)
