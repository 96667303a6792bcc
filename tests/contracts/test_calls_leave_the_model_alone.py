"""Whatever is called, and however it ends: the model and the process are afterwards as they were before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerFast

from tests.checkpoints import random_hf
from tests.contracts.calls import CALLS, TRAINING, functions_that_take_a_model
from tests.contracts.collateral_calls import COLLATERAL_INSTANT
from tests.contracts.state import Wrapper, differences, everything, forward_replaced, made_peculiar
from tests.contracts.tracing_calls import TRACING_INSTANT

INSTANT = {
    "EditSet.apply_", "MemoryEdit.applied", "MemoryEdit.recall", "active_base", "active_edits",
    "active_ids", "apply_edits", "can_resume", "changed_by_hand", "default_memory", "default_prepend_bos",
    "edited_weights", "embedding_sigma", "export_hf", "fingerprint", "has_hooks", "in_context_edit",
    "may_resume", "named_weights", "parameter", "parameter_value", "provenance", "put_first",
    "reference_sigma", "require_editable", "require_own_model", "require_resumable", "resolve_bos",
    "rows_within", *COLLATERAL_INSTANT, *TRACING_INSTANT,
}  # fmt: skip
"""Calls that do not run the model, so that it cannot fail under them."""
LONG = sorted(set(CALLS) - INSTANT)
NOT_ON_BRIDGES = {
    "causal_trace by engine resume", "entering", "export_hf", "keys_values", "record", "record_again",
    "rerun_blocks",
    "resume", "require_resumable", "resume with gradients", "run_block", "run_last_block", "through",
}  # fmt: skip


class Stop(BaseException):
    """Like the Ctrl-C of a user: nobody catches it on the way."""


@pytest.fixture(autouse=True)
def seven_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it looks to a call, so that one which sets their number is noticed; no thread is started."""
    number = [7]
    monkeypatch.setattr(torch, "get_num_threads", lambda: number[-1])
    monkeypatch.setattr(torch, "set_num_threads", number.append)


@pytest.fixture
def model(tiny_model: HookedTransformer) -> HookedTransformer:
    made_peculiar(tiny_model)
    return tiny_model


@pytest.fixture(scope="module")
def bridge(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> TransformerBridge:
    """A bridge that has run before: on its first runs it puts hooks and attributes of its own on itself."""
    folder = tmp_path_factory.mktemp("bridge")
    random_hf("llama-gqa", len(tiny_tokenizer)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    found = TransformerBridge.boot_transformers(str(folder), device="cpu")
    found.cfg.default_prepend_bos = False
    made_peculiar(found)
    ids = torch.tensor([[5, 6, 7]])
    for depth in (None, 2):
        found.run_with_hooks(ids, attention_mask=torch.ones_like(ids), stop_at_layer=depth)
    return found


def put_hooks_on(model: HookedTransformer) -> None:
    """A user's hooks: one of TransformerLens and one of torch, which change nothing."""
    model.add_hook("blocks.0.hook_resid_post", lambda state, hook: state)
    model.blocks[1].register_forward_hook(lambda module, given, result: None)


def test_the_table_of_calls_has_every_public_function_that_takes_a_model() -> None:
    assert {name.split()[0] for name in CALLS} == set(functions_that_take_a_model())


@pytest.mark.parametrize("hooked", [False, True], ids=["bare", "with a user's hooks"])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_all_as_it_was(
    name: str, hooked: bool, model: HookedTransformer, tmp_path: Path
) -> None:
    if hooked:
        put_hooks_on(model)
    before = everything(model)
    CALLS[name](model, tmp_path)
    assert differences(before, everything(model)) == []


@pytest.mark.parametrize("when", ["at once", "half way"])
@pytest.mark.parametrize("name", LONG)
def test_a_call_that_is_broken_off_leaves_all_as_it_was(
    name: str, when: str, model: HookedTransformer, tmp_path: Path
) -> None:
    module = model.blocks[1].ln1  # every run passes here
    passed: list[int] = []
    with forward_replaced(module, counting(passed)):
        CALLS[name](model, tmp_path)
    stop_at = 1 if when == "at once" else len(passed) // 2 + 1

    passed.clear()
    with forward_replaced(module, counting(passed, stop_at)):
        before = everything(model)
        with pytest.raises(Stop):
            CALLS[name](model, tmp_path)
        assert differences(before, everything(model)) == []
    assert len(passed) == stop_at


@pytest.mark.parametrize("hooked", [False, True], ids=["resumed", "whole"])
@pytest.mark.parametrize("name", TRAINING)
def test_a_search_that_is_broken_off_on_its_way_back_leaves_all_as_it_was(
    name: str, hooked: bool, model: HookedTransformer, tmp_path: Path
) -> None:
    if hooked:
        put_hooks_on(model)

    def stop(gradient: torch.Tensor) -> None:
        raise Stop

    def breaking(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            found = forward(*args, **kwargs)
            if found.requires_grad and torch.is_grad_enabled():
                found.register_hook(stop)
            return found

        return run

    with forward_replaced(model.blocks[-1].ln1, breaking):
        before = everything(model)
        with pytest.raises(Stop):
            CALLS[name](model, tmp_path)
        assert differences(before, everything(model)) == []


@pytest.mark.parametrize("name", sorted(set(CALLS) - NOT_ON_BRIDGES))
def test_a_call_leaves_a_bridge_as_it_was(name: str, bridge: TransformerBridge, tmp_path: Path) -> None:
    before = everything(bridge)
    CALLS[name](bridge, tmp_path)
    assert differences(before, everything(bridge)) == []


@pytest.mark.parametrize("name", sorted(set(LONG) - NOT_ON_BRIDGES))
def test_a_call_that_is_broken_off_leaves_a_bridge_as_it_was(
    name: str, bridge: TransformerBridge, tmp_path: Path
) -> None:
    with forward_replaced(bridge.blocks[1].mlp, counting([], stop_at=1)):
        before = everything(bridge)
        with pytest.raises(Stop):
            CALLS[name](bridge, tmp_path)
        assert differences(before, everything(bridge)) == []


def test_the_comparison_sees_what_a_careless_call_would_leave(model: HookedTransformer) -> None:
    weight = model.blocks[0].mlp.W_out
    careless: dict[str, Callable[[], object]] = {
        "_forward_hooks of blocks.0": lambda: model.blocks[0].register_forward_hook(lambda *_: None),
        "fwd_hooks of hook_embed": lambda: model.add_hook("hook_embed", lambda state, hook: None),
        "requires_grad of blocks.0.mlp.W_out": lambda: weight.requires_grad_(not weight.requires_grad),
        "grad of blocks.0.mlp.W_out": lambda: setattr(weight, "grad", torch.zeros_like(weight)),
        "values of blocks.0.mlp.W_out": lambda: weight.data[0, 0].neg_(),
        "mode of blocks.1": lambda: model.blocks[1].train(),
        "cfg": lambda: setattr(model.cfg, "use_attn_in", True),
        "torch random numbers": lambda: torch.rand(1),
        "torch threads": lambda: torch.set_num_threads(1),
        "attributes of blocks.1": lambda: setattr(model.blocks[1], "forward", None),
    }
    for name, call in careless.items():
        before = everything(model)
        call()
        assert name in differences(before, everything(model))


def counting(passed: list[int], stop_at: int | None = None) -> Wrapper:
    """A wrapper that counts its calls and raises at one of them."""

    def wrapped(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            passed.append(1)
            if len(passed) == stop_at:
                raise Stop
            return forward(*args, **kwargs)

        return run

    return wrapped
