"""Whole runs against plain calls of the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from mechstyle.blocks import has_hooks
from mechstyle.errors import InputError, RangeError
from mechstyle.models import load_model
from mechstyle.runs import capture, logits
from mechstyle.sites import Site
from mechstyle.tokens import encode, pad
from tests.checkpoints import KINDS, random_hf

PROMPTS = ("Miles Davis plays the trumpet", "Paris", "The capital of France is Paris. The day was long")


def test_logits_are_those_of_hugging_face(tiny_model: HookedTransformer, tiny_hf: GPT2LMHeadModel) -> None:
    ids = encode(tiny_model, PROMPTS[0]).ids[None]
    with torch.no_grad():
        torch.testing.assert_close(logits(tiny_model, ids), tiny_hf(ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("bos", [True, False])
def test_padding_on_either_side_changes_no_logit(tiny_model: HookedTransformer, side: str, bos: bool) -> None:
    encoded = [encode(tiny_model, prompt, prepend_bos=bos) for prompt in PROMPTS]
    batch = pad(encoded, pad_id=tiny_model.tokenizer.pad_token_id, side=side)
    together = logits(tiny_model, batch.ids, attention_mask=batch.attention_mask)
    for row, one in enumerate(encoded):
        at = int(batch.shift[row])
        alone = logits(tiny_model, one.ids[None])[0]
        torch.testing.assert_close(together[row, at : at + len(one)], alone, atol=1e-5, rtol=0)


def test_a_leading_bos_is_attended_to_even_when_the_tokenizer_pads_left(
    tiny_model: HookedTransformer,
) -> None:
    ids = encode(tiny_model, PROMPTS[0], prepend_bos=True).ids[None]
    expected = logits(tiny_model, ids)
    tiny_model.tokenizer.padding_side = "left"
    assert torch.equal(logits(tiny_model, ids), expected)


def test_capture_reads_copies_of_the_states(tiny_model: HookedTransformer) -> None:
    ids = encode(tiny_model, PROMPTS[0]).ids[None]
    sites = [Site(0, "embed"), Site(1, "mlp"), Site(1, "key"), Site(2, "resid"), Site(0, "attn")]
    found = capture(tiny_model, ids, sites)
    _, cache = tiny_model.run_with_cache(ids)
    assert set(found) == set(sites)
    for site, state in found.items():
        assert torch.equal(state, cache[site.hook])
    block = tiny_model.blocks[1].mlp
    torch.testing.assert_close(found[Site(1, "key")] @ block.W_out + block.b_out, found[Site(1, "mlp")])


def test_capture_stops_above_the_deepest_site(tiny_model: HookedTransformer) -> None:
    ids = encode(tiny_model, PROMPTS[0]).ids[None]
    reached: list[str] = []
    watch = [
        (f"blocks.{layer}.hook_resid_post", lambda state, hook: reached.append(hook.name))
        for layer in range(3)
    ]
    capture(tiny_model, ids, [Site(1, "mlp")], hooks=watch)
    assert reached == ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    with pytest.raises(InputError, match="stop_at_layer: expected at least 2"):
        capture(tiny_model, ids, [Site(1, "mlp")], stop_at_layer=1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_logits_are_the_last_of_all_logits(
    kind: str, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = load_model(random_hf(kind, len(tiny_tokenizer)), tokenizer=tiny_tokenizer, dtype=torch.float64)
    batch = pad([encode(model, prompt) for prompt in PROMPTS], pad_id=0, side="left")
    whole = logits(model, batch.ids, attention_mask=batch.attention_mask)
    for n_last in (1, 2, whole.shape[1]):
        last = logits(model, batch.ids, attention_mask=batch.attention_mask, n_last=n_last)
        torch.testing.assert_close(last, whole[:, -n_last:], atol=1e-10, rtol=0)


def test_only_the_last_positions_are_unembedded(tiny_model: HookedTransformer) -> None:
    ids = encode(tiny_model, PROMPTS[0]).ids[None]
    widths: list[int] = []
    tiny_model.add_hook("unembed.hook_out", lambda state, hook: widths.append(state.shape[1]))
    logits(tiny_model, ids, n_last=2)
    logits(tiny_model, ids)
    assert widths == [2, ids.shape[1]]


@pytest.mark.parametrize("name", ["hook_embed", "blocks.2.hook_resid_post", "ln_final.hook_normalized"])
def test_hooks_count_wherever_they_are_when_only_the_last_logits_are_asked_for(
    tiny_model: HookedTransformer, name: str
) -> None:
    ids = encode(tiny_model, PROMPTS[0]).ids[None]
    hooks = [(name, lambda state, hook: state.flip(-1))]
    whole = logits(tiny_model, ids, hooks=hooks)
    assert not torch.allclose(whole, logits(tiny_model, ids), atol=0.1)
    last = logits(tiny_model, ids, hooks=hooks, n_last=1)
    torch.testing.assert_close(last, whole[:, -1:], atol=1e-5, rtol=0)
    assert not has_hooks(tiny_model)


def test_a_bridge_gives_the_last_logits_too(tiny_model: HookedTransformer, tiny_folder: Path) -> None:
    bridge = TransformerBridge.boot_transformers(str(tiny_folder), device="cpu")
    ids = encode(tiny_model, PROMPTS[0]).ids[None]
    torch.testing.assert_close(
        logits(bridge, ids, n_last=2), logits(tiny_model, ids, n_last=2), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("n_last", [0, -1, 3])
def test_last_positions_that_are_not_there_are_refused(tiny_model: HookedTransformer, n_last: int) -> None:
    with pytest.raises(RangeError, match=f"n_last: expected 1 to 2 positions, got {n_last}"):
        logits(tiny_model, torch.tensor([[1, 2]]), n_last=n_last)


def test_gradients_are_kept_only_when_asked_for(tiny_model: HookedTransformer) -> None:
    ids = encode(tiny_model, PROMPTS[0]).ids[None]
    assert not logits(tiny_model, ids).requires_grad
    assert logits(tiny_model, ids, grad=True).requires_grad


def test_hooks_are_gone_after_a_run_and_after_an_exception(tiny_model: HookedTransformer) -> None:
    ids = encode(tiny_model, PROMPTS[0]).ids[None]
    expected = logits(tiny_model, ids)

    def fail(state: torch.Tensor, hook: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        logits(
            tiny_model,
            ids,
            hooks=[("hook_embed", lambda state, hook: state * 0), ("blocks.1.hook_mlp_out", fail)],
        )
    assert not any(point.fwd_hooks for point in tiny_model.hook_dict.values())
    assert torch.equal(logits(tiny_model, ids), expected)


def test_wrong_shapes_and_no_sites_are_refused(tiny_model: HookedTransformer) -> None:
    with pytest.raises(InputError, match=r"ids: expected token ids of shape \[batch, pos\], got shape \[2\]"):
        logits(tiny_model, torch.tensor([1, 2]))
    with pytest.raises(InputError, match=r"attention_mask: expected the shape of ids, \[1, 2\]"):
        logits(tiny_model, torch.tensor([[1, 2]]), attention_mask=torch.ones(1, 3, dtype=torch.long))
    with pytest.raises(InputError, match="sites: expected at least one site"):
        capture(tiny_model, torch.tensor([[1, 2]]), [])


def test_a_site_in_no_layer_is_refused(tiny_model: HookedTransformer) -> None:
    with pytest.raises(RangeError, match="sites must be an integer from 0 to 2"):
        capture(tiny_model, torch.tensor([[1, 2]]), [Site(3, "mlp")])


def test_a_silent_hook_of_a_reading_run_is_an_error_and_one_above_it_is_left_out(
    tiny_model: HookedTransformer,
) -> None:
    ids, sites = torch.tensor([[1, 2]]), [Site(1, "mlp")]
    nothing = lambda state, hook: None  # noqa: E731
    with pytest.raises(InputError, match=r"'blocks.0.attn.hook_result' \(switch it on"):
        capture(tiny_model, ids, sites, hooks=[("blocks.0.attn.hook_result", nothing)])
    with pytest.raises(InputError, match=r"the model has no hook 'blocks.0.nowhere'"):
        capture(tiny_model, ids, sites, hooks=[("blocks.0.nowhere", nothing)])
    above = [("blocks.2.hook_mlp_out", nothing), ("ln_final.hook_scale", nothing)]
    assert set(capture(tiny_model, ids, sites, hooks=above)) == set(sites)
