"""Weights lie in memory as they are multiplied: turning them into matrices copies nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from einops import rearrange
from transformers import PreTrainedTokenizerFast

from mechstyle.models import load_model
from tests.checkpoints import KINDS, random_hf


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_and_unembedding_are_matrices_without_a_copy(
    kind: str, dtype: torch.dtype, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    hf = random_hf(kind, len(tiny_tokenizer))
    model = load_model(hf, tokenizer=tiny_tokenizer, dtype=dtype)
    for again in (model, copy.deepcopy(model)):
        weights = dict(again.named_parameters())
        for name, weight in weights.items():
            last = name.rpartition(".")[2]
            if last in ("W_Q", "W_K", "W_V", "_W_K", "_W_V"):
                matrix = rearrange(weight, "head d_model d_head -> (head d_head) d_model")
            elif last == "W_O":
                matrix = rearrange(weight, "head d_head d_model -> d_model (head d_head)")
            elif last == "W_U":
                matrix = weight.T
            else:
                continue
            assert matrix.is_contiguous()
            assert matrix.data_ptr() == weight.data_ptr()
