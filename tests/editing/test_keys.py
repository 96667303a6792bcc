"""Contexts that are safe to substitute into, and keys that do not depend on padding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformer_lens import HookedTransformer

from mechstyle.editing.keys import _clean, check_contexts, sample_contexts, subject_keys
from mechstyle.errors import ModelError, RangeError, TextError
from mechstyle.facts import Fact

FACT = Fact("{} plays the", "Miles Davis", " trumpet")
CONTEXTS = ("{}", "The day was long. {}", "Paris is the capital of France. {}")


def test_contexts_are_the_bare_prompt_and_sampled_prefixes_with_one_slot_each(
    tiny_model: HookedTransformer,
) -> None:
    contexts = sample_contexts(tiny_model, 0)
    assert contexts[0] == "{}"
    assert 1 < len(contexts) <= 21
    assert check_contexts(contexts) == contexts
    assert all(context.endswith(". {}") for context in contexts[1:])
    assert not any("<|endoftext|>" in context for context in contexts)


def test_contexts_depend_on_the_seed_alone_and_leave_the_global_generator_alone(
    tiny_model: HookedTransformer,
) -> None:
    state = torch.random.get_rng_state()
    first, again, other = (sample_contexts(tiny_model, seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert torch.equal(torch.random.get_rng_state(), state)


def test_top_one_sampling_is_greedy_so_all_prefixes_of_a_length_agree(tiny_model: HookedTransformer) -> None:
    contexts = sample_contexts(tiny_model, 0, lengths=[(4, 3)], top_k=1)
    assert len(set(contexts[1:])) <= 1


@given(st.text())
def test_no_sampled_text_can_break_the_substitution(text: str) -> None:
    assert f"{_clean(text)}. {{}}".replace("{}", "S", 1) == f"{_clean(text)}. S"
    assert "\n" not in _clean(text)


@pytest.mark.parametrize(
    ("contexts", "message"),
    [
        ("{}", "expected a sequence of templates, got one string"),
        (("{}", "no slot"), "exactly once, got 'no slot'"),
        (("{}", "{} {}"), "exactly once, got '{} {}'"),
        (("{}", 3), "exactly once, got 3"),
        (("A. {}",), "the bare '{}' exactly once, got 0 of them in 1 contexts"),
        (("{}", "{}"), "the bare '{}' exactly once, got 2 of them"),
        ((), "the bare '{}' exactly once, got 0"),
    ],
)
def test_bad_contexts_are_refused(contexts: tuple[str, ...], message: str) -> None:
    with pytest.raises(TextError, match=message):
        check_contexts(contexts)


@pytest.mark.parametrize("bos", [False, True])
def test_keys_in_a_padded_batch_are_those_of_single_runs_at_the_subjects_last_token(
    tiny_model: HookedTransformer, bos: bool
) -> None:
    keys = subject_keys(tiny_model, FACT, layer=1, contexts=CONTEXTS, prepend_bos=bos)
    for key, context in zip(keys, CONTEXTS, strict=True):
        # Causal: nothing after the subject matters, so its last token is the last of this text.
        text = context.replace("{}", "Miles Davis")
        ids = [0] * bos + tiny_model.tokenizer(text, add_special_tokens=False)["input_ids"]
        _, cache = tiny_model.run_with_cache(torch.tensor([ids]), prepend_bos=False)
        torch.testing.assert_close(key, cache["blocks.1.mlp.hook_post"][0, -1])


def test_bad_numbers_and_tokenizers_are_refused(tiny_model: HookedTransformer) -> None:
    with pytest.raises(RangeError, match="from 0 to 2"):
        subject_keys(tiny_model, FACT, layer=3)
    with pytest.raises(RangeError, match="expected numbers of 1 or more"):
        sample_contexts(tiny_model, top_k=0)
    tiny_model.tokenizer.bos_token = tiny_model.tokenizer.eos_token = None
    with pytest.raises(ModelError, match="neither BOS nor EOS"):
        sample_contexts(tiny_model)
