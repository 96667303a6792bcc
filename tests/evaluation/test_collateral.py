"""Perplexity: a plain loop, a uniform model, weighting by tokens, truncation and padding."""

from __future__ import annotations

import math

import pytest
import torch
from transformer_lens import HookedTransformer
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from mechstyle.errors import ModelError
from mechstyle.evaluation import perplexity
from mechstyle.texts import encode_texts, exp_mean, negative_log_likelihood
from tests.oracles import score_loop

TEXTS = ["Paris is the capital of France.", "The day was long.", "He was born in London."]


def test_perplexity_equals_a_plain_loop(
    tiny_model: HookedTransformer, tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    assert perplexity(tiny_model, TEXTS) == pytest.approx(
        score_loop.perplexity(tiny_hf, tiny_tokenizer, TEXTS, 64), rel=1e-4
    )


@pytest.mark.parametrize("bos", [False, True])
def test_a_uniform_model_has_the_vocabulary_as_its_perplexity(
    tiny_model: HookedTransformer, bos: bool
) -> None:
    with torch.no_grad():
        tiny_model.unembed.W_U.zero_()
        tiny_model.unembed.b_U.zero_()
    assert perplexity(tiny_model, TEXTS, prepend_bos=bos) == pytest.approx(tiny_model.cfg.d_vocab, rel=1e-5)


def test_every_token_counts_once_and_padding_never(tiny_model: HookedTransformer) -> None:
    encoded = encode_texts(tiny_model, [*TEXTS, "Rome is a city. " * 5], prepend_bos=None, max_positions=256)
    single = [negative_log_likelihood(tiny_model, [ids], batch_size=1) for ids in encoded]
    total, count = negative_log_likelihood(tiny_model, encoded, batch_size=4)
    assert count == sum(number for _, number in single) == sum(len(ids) - 1 for ids in encoded)
    assert total == pytest.approx(sum(part for part, _ in single), rel=1e-6)


def test_bos_adds_the_first_token_to_those_predicted(tiny_model: HookedTransformer) -> None:
    plain, with_bos = (
        encode_texts(tiny_model, TEXTS, prepend_bos=bos, max_positions=256) for bos in (False, True)
    )
    counts = [negative_log_likelihood(tiny_model, ids, batch_size=2)[1] for ids in (plain, with_bos)]
    assert counts[1] == counts[0] + len(TEXTS)


@pytest.mark.parametrize(("max_positions", "kept"), [(5, 5), (10_000, 64)])
def test_texts_are_cut_to_max_positions_and_to_the_context(
    tiny_model: HookedTransformer, max_positions: int, kept: int
) -> None:
    long = "Paris is the capital of France. " * 30
    for bos in (False, True):
        (ids,) = encode_texts(tiny_model, [long], prepend_bos=bos, max_positions=max_positions)
        assert len(ids) == kept
    cut = tiny_model.tokenizer.decode(ids[1:])
    found = perplexity(tiny_model, [long], prepend_bos=True, max_positions=max_positions)
    assert found == pytest.approx(perplexity(tiny_model, [cut], prepend_bos=True), rel=1e-6)


def test_a_mean_too_large_for_a_float_is_infinite() -> None:
    assert exp_mean(2000.0, 2) == math.inf
    assert exp_mean(2.0, 2) == pytest.approx(math.e)


def test_a_model_with_nan_weights_is_refused(tiny_model: HookedTransformer) -> None:
    with torch.no_grad():
        tiny_model.blocks[1].mlp.W_out[0, 0] = float("nan")
    with pytest.raises(
        ModelError, match="the negative log-likelihood of the texts is nan, not a finite number"
    ):
        perplexity(tiny_model, TEXTS)
