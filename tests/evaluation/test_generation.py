"""Greedy completions against a plain loop and against Hugging Face's own generation."""

from __future__ import annotations

import re

import pytest
import torch
from transformer_lens import HookedTransformer
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from mechstyle.errors import InputError, RangeError, TextError
from mechstyle.evaluation import complete
from mechstyle.evaluation.generation import begins_with, said
from tests.oracles import score_loop

PROMPTS = ["Miles Davis plays the", "Rome is", "The mother tongue of Danielle Darrieux is", "Zürich"]


def test_completions_equal_a_plain_loop(
    tiny_model: HookedTransformer, tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    expected = [score_loop.greedy(tiny_hf, tiny_tokenizer, prompt, 12) for prompt in PROMPTS]
    assert complete(tiny_model, PROMPTS, 12) == expected


def test_completions_equal_hugging_faces_generation(
    tiny_model: HookedTransformer, tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    for prompt in PROMPTS:
        ids = torch.tensor([tiny_tokenizer(prompt)["input_ids"]])
        whole = tiny_hf.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=9, pad_token_id=0
        )
        text = tiny_tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)
        assert complete(tiny_model, [prompt], 9) == [text]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4])
def test_completions_do_not_depend_on_the_batch(tiny_model: HookedTransformer, batch_size: int) -> None:
    assert complete(tiny_model, PROMPTS, 8, batch_size=batch_size) == complete(tiny_model, PROMPTS, 8)


def test_a_completion_ends_before_the_end_of_text_token(tiny_model: HookedTransformer) -> None:
    with torch.no_grad():
        tiny_model.unembed.b_U[tiny_model.tokenizer.eos_token_id] = 1e4
    assert complete(tiny_model, PROMPTS[:2], 5) == ["", ""]


def test_bos_changes_the_completion_and_is_not_part_of_it(
    tiny_model: HookedTransformer, tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    found = complete(tiny_model, PROMPTS, 6, prepend_bos=True)
    end = tiny_tokenizer.bos_token
    assert found == [score_loop.greedy(tiny_hf, tiny_tokenizer, end + prompt, 6) for prompt in PROMPTS]
    assert found != complete(tiny_model, PROMPTS, 6)


@pytest.mark.parametrize(
    ("completion", "target", "given"),
    [
        (" New York, then", " New York", True),
        (" New York", " New York", True),
        (" Newark", " New", False),
        (" the New York", " New York", False),
        ("", " New", False),
    ],
)
def test_a_completion_gives_a_target_when_it_begins_with_its_whole_words(
    completion: str, target: str, given: bool
) -> None:
    assert begins_with(completion, target) is given


def test_bad_input_is_named(tiny_model: HookedTransformer) -> None:
    with pytest.raises(
        InputError, match=re.escape("prompts: expected a list of texts, got one str; pass [prompt].")
    ):
        complete(tiny_model, "Rome is", 3)
    with pytest.raises(InputError, match="prompts: expected at least one text, got none"):
        complete(tiny_model, [], 3)
    with pytest.raises(RangeError, match="n_tokens: expected a whole number of 1 or more, got 0"):
        complete(tiny_model, ["Rome is"], 0)
    with pytest.raises(
        TextError, match=re.escape("prompts[1]: its 4 tokens and n_tokens=61 new ones do not fit into")
    ):
        complete(tiny_model, ["The", "Miles Davis plays the"], 61)
    with pytest.raises(TextError, match="prompt: expected text, got ''"):
        complete(tiny_model, ["Rome", ""], 3)


def test_the_longest_target_that_a_completion_begins_with_is_said() -> None:
    targets = (" New", " New York", " Rome")
    assert said(" New York City", targets) == " New York"
    assert said(" New Delhi", targets) == " New"
    assert said(" Newark", targets) is None
