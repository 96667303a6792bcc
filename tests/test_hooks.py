"""Hooks that TransformerLens passes over in silence are noticed, on both backends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

from mechstyle.errors import InputError
from mechstyle.hooks import counted
from mechstyle.runs import Hook

IDS = torch.tensor([[5, 6, 7, 8]])
Backend = HookedTransformer | TransformerBridge


@pytest.fixture(params=["hooked", "bridge"])
def backend(request: pytest.FixtureRequest, tiny_model: HookedTransformer, tiny_folder: Path) -> Backend:
    """The same tiny model as each of the two backends."""
    if request.param == "hooked":
        return tiny_model
    return TransformerBridge.boot_transformers(str(tiny_folder), device="cpu")


def run(model: Backend, hooks: Sequence[Hook]) -> Tensor:
    """Without the library's own runs, which count their hooks already."""
    found = model.run_with_hooks(IDS, fwd_hooks=list(hooks), return_type="logits")
    assert isinstance(found, Tensor)
    return found


def double(state: Tensor, hook: Any) -> Tensor:
    return 2 * state


def look(state: Tensor, hook: Any) -> None:
    return None


def test_counted_hooks_do_what_they_did_and_the_check_is_content(backend: Backend) -> None:
    hooks = [("blocks.1.hook_mlp_out", double), ("blocks.1.hook_mlp_out", look), ("hook_embed", look)]
    wrapped, check = counted(hooks)
    found = run(backend, wrapped)
    check()
    assert torch.equal(found, run(backend, hooks))
    assert not torch.equal(found, run(backend, []))


def test_a_hook_that_was_never_run_is_named(backend: Backend) -> None:
    wrapped, check = counted([("blocks.0.hook_mlp_out", look), ("blocks.2.hook_resid_post", look)])
    backend.run_with_hooks(IDS, fwd_hooks=wrapped, return_type=None, stop_at_layer=1)
    with pytest.raises(InputError, match=r"did not: 'blocks.2.hook_resid_post' \(the model has no such hook"):
        check()
    run(backend, wrapped)
    check()


def test_one_silent_hook_among_others_of_its_name_is_noticed() -> None:
    wrapped, check = counted([("hook_embed", look), ("hook_embed", look)])
    wrapped[0][1](IDS, hook=None)
    with pytest.raises(InputError, match="did not: 'hook_embed'"):
        check()
    wrapped[1][1](IDS, hook=None)
    check()


def test_an_unknown_hook_is_not_silently_ignored_on_a_bridge(tiny_folder: Path) -> None:
    bridge = TransformerBridge.boot_transformers(str(tiny_folder), device="cpu")
    wrapped, check = counted([("blocks.1.hook_no_such", double)])
    assert torch.equal(run(bridge, wrapped), run(bridge, [])), "silently ignored, as measured"
    with pytest.raises(
        InputError, match="'blocks.1.hook_no_such' .the model has no such hook, or did not run"
    ):
        check()


@pytest.mark.parametrize(
    ("name", "switch"),
    [
        ("blocks.1.attn.hook_result", "set_use_attn_result"),
        ("blocks.1.hook_q_input", "set_use_split_qkv_input"),
        ("blocks.1.hook_attn_in", "set_use_attn_in"),
        ("blocks.1.hook_mlp_in", "set_use_hook_mlp_in"),
    ],
)
def test_a_hook_that_is_switched_off_is_named_with_its_switch(
    name: str, switch: str, tiny_model: HookedTransformer
) -> None:
    wrapped, check = counted([(name, look)])
    run(tiny_model, wrapped)
    with pytest.raises(InputError, match=rf"'{name}' \(switch it on: model.{switch}\(True\)\)"):
        check()
    getattr(tiny_model, switch)(True)
    run(tiny_model, wrapped)
    check()
