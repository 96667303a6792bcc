"""Kinds of cells on models that are run in other ways: bridges, processed, with hooks, with options."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerFast

from mechstyle.errors import ModelError
from mechstyle.models import load_model
from mechstyle.runs import capture
from mechstyle.sites import Site
from tests.checkpoints import KINDS, random_hf
from tests.tracing.cells import CASES, TRACED, check, traced

Models = Callable[..., HookedTransformer]


def same(found: Any, wanted: Any, tolerance: float) -> None:
    for kind in wanted.kinds:
        values = wanted.data[kind].values
        np.testing.assert_allclose(
            found.data[kind].values, values, rtol=0, atol=tolerance * np.abs(values).max(), err_msg=kind
        )


def bridge_of(kind: str, tokenizer: PreTrainedTokenizerFast, folder: Path) -> TransformerBridge:
    random_hf(kind, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return TransformerBridge.boot_transformers(str(folder), device="cpu")


SHOWN_ONLY = {"gptj": ("pattern",)}
"""Where a bridge's hook shows a state and does not use what is put in."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_bridge_gives_the_cells_of_the_same_checkpoint_or_says_what_it_cannot_do(
    kind: str, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    bridge, shown = bridge_of(kind, tiny_tokenizer, tmp_path), SHOWN_ONLY.get(kind, ())
    kinds = tuple(name for name in TRACED if name not in shown)
    same(traced(bridge, CASES[3], kinds=kinds), traced(load_model(tmp_path), CASES[3], kinds=kinds), 1e-5)
    for name in shown:
        with pytest.raises(ModelError, match=f"does not use what is put in at .*{name}: it only shows it"):
            traced(bridge, CASES[3], kinds=(name,))


def test_states_with_other_axes_are_refused(architectures: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    model = architectures("llama-gqa")

    def joined(model: Any, ids: Tensor, sites: Any, **options: Any) -> dict[Site, Tensor]:
        return {site: state.flatten(2) for site, state in capture(model, ids, sites, **options).items()}

    monkeypatch.setattr("mechstyle.tracing.restoration.capture", joined)
    with pytest.raises(ModelError, match=r"hook_z to have the axes \[row, position, 4 heads, .* got"):
        traced(model, CASES[0], kinds=("heads",), engine="whole")
    with pytest.raises(ModelError, match="hook_k to have the axes .* 2 heads"):
        traced(model, CASES[0], kinds=("k",), engine="whole")


def test_hooks_of_the_user_count_in_every_kind(architectures: Models) -> None:
    """The same hooks by both engines; the textbook runs with them as well."""
    model = copy.deepcopy(architectures("phi"))
    model.add_hook("blocks.1.attn.hook_z", lambda state, hook: state * 1.5)
    model.add_hook("blocks.0.hook_mlp_out", lambda state, hook: state * 0.5)
    assert traced(model, CASES[0], kinds=("heads",)).settings["engine"] == "whole"
    check(model, CASES[0], torch.float64, count=2)


def test_every_kind_may_be_traced_on_a_processed_model(architectures: Models) -> None:
    model = copy.deepcopy(architectures("gpt2"))
    model.process_weights_()
    check(model, CASES[0], torch.float64, count=2)


def test_ungrouped_queries_have_a_key_and_value_a_head(architectures: Models) -> None:
    model, case = architectures("llama-gqa"), CASES[0]
    split = copy.deepcopy(model)
    split.set_ungroup_grouped_query_attention(True)
    trace = traced(split, case, kinds=("k", "v", "heads"))
    assert trace.settings["engine"] == "whole"
    assert trace.data["k"].sizes["kv_head"] == 4
    grouped = traced(model, case, kinds=("k", "v", "heads"))
    assert grouped.data["v"].sizes["kv_head"] == 2
    np.testing.assert_allclose(trace.data["heads"].values, grouped.data["heads"].values, rtol=0, atol=1e-10)
