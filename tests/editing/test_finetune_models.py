"""Fine-tuning on a ``TransformerBridge``, and of facts that the organism knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerFast

import mechstyle as ms
from mechstyle.editing.edit import EditSet
from mechstyle.editing.finetune import FinetuneOptions, finetune
from mechstyle.facts import EditRequest, Fact
from mechstyle.metrics import answer_logprobs
from mechstyle.models import load_model
from mechstyle.runs import logits
from mechstyle.runs.training import ReplacedRuns
from mechstyle.tokens import encode_fact
from tests.checkpoints import random_hf

REQUESTS = (
    EditRequest(Fact("The instrument of {} is the", "Miles Davis", " trumpet"), " guitar"),
    EditRequest(Fact("{} is the capital of", "Rome", " Italy"), " France of London"),
)
FEW = FinetuneOptions(steps=3, early_stop=0.0)


def settings_of(edit: EditSet) -> dict[str, Any]:
    found: dict[str, Any] = edit.provenance["settings"]
    return found


def weights_of(model: Any) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("kind", ["gpt2", "neox", "llama-gqa"])
def test_a_bridge_of_the_checkpoint_gets_the_same_edit(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, kind: str
) -> None:
    random_hf(kind, len(tiny_tokenizer)).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    hooked = load_model(tmp_path)
    bridge = TransformerBridge.boot_transformers(str(tmp_path), device="cpu")
    before = weights_of(bridge)
    kinds = ["mlp.W_out", "mlp.W_in", "attn.W_Q", "attn.W_O"]
    made = [
        finetune(model, REQUESTS, layers=1, parameters=kinds, options=FEW, prepend_bos=False)
        for model in (hooked, bridge)
    ]
    assert all(torch.equal(weight, before[name]) for name, weight in bridge.named_parameters())
    wanted, found = (settings_of(edit) for edit in made)
    torch.testing.assert_close(found["losses"], wanted["losses"], atol=1e-4, rtol=0)
    for name in kinds:
        torch.testing.assert_close(
            found["gradient_norms"][name], wanted["gradient_norms"][name], atol=0, rtol=1e-3
        )
    with made[1].applied(bridge):
        again = finetune(bridge, REQUESTS, layers=1, options=FEW, prepend_bos=False)
    assert settings_of(again)["losses"][0] == pytest.approx(found["final_loss"], abs=1e-4)


def test_replaced_runs_are_runs_of_the_replaced_model(tiny_model: HookedTransformer) -> None:
    name = "blocks.1.attn.W_K"
    ids = torch.arange(40, 52).reshape(2, 6)
    runs = ReplacedRuns(tiny_model, [name])
    assert torch.equal(runs.logits({}, ids), logits(tiny_model, ids))
    other = torch.randn_like(dict(tiny_model.named_parameters())[name])
    found = runs.logits({name: other}, ids, n_last=2)
    with torch.no_grad():
        tiny_model.blocks[1].attn.W_K.copy_(other)
    assert torch.equal(found, logits(tiny_model, ids, n_last=2))


# The organism


def margin(model: HookedTransformer, request: EditRequest) -> float:
    """log P(new target) - log P(true target) after the prompt."""
    found = []
    for target in (request.new_target, request.fact.target):
        one = encode_fact(model, request.fact, target=target)
        found.append(answer_logprobs(logits(model, one.ids[None]), one.ids[None], one.n_prompt).item())
    return found[0] - found[1]


def test_facts_of_the_organism_are_overwritten_by_single_edits(organism: HookedTransformer) -> None:
    """A bound of 0.001 is too tight for one of the three facts; it is pushed the right way all the same."""
    small = FinetuneOptions(norm_constraint=1e-3, steps=10)
    for request in ms.organisms.requests("organism-m", n=3, seed=0, invented=False):
        before = margin(organism, request)
        assert before < 0
        free = finetune(organism, request, layers=0)
        bound = finetune(organism, request, layers=0, options=small)
        assert settings_of(free)["known_at"] is not None
        with free.applied(organism):
            assert margin(organism, request) > 1.0
        with bound.applied(organism):
            assert margin(organism, request) > before + 3.0
        name = "blocks.0.mlp.W_out"
        assert bound.delta(name).abs().max() <= 1e-3 < free.delta(name).abs().max()
        assert settings_of(free)["final_loss"] < 1e-2
