"""Swapped words and corrupted tokens: what they are in terms of tokens, draws and traces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from mechstyle import Fact
from mechstyle.errors import InputError, RangeError, TextError
from mechstyle.runs import logits
from mechstyle.tokens import EncodedPrompt, encode_fact
from mechstyle.tracing import GaussianNoise, causal_trace
from mechstyle.tracing.corruption import UniformNoise
from mechstyle.tracing.embedding_changes import CorruptTokens, Embedded, SwapWords, applied, tokens_of
from mechstyle.tracing.embeddings import changed_embeddings, embedding_effects
from mechstyle.tracing.saliency import saliency
from tests.checkpoints import KINDS

FACT = Fact("The instrument of {} is the", "Miles Davis", " trumpet")
Architectures = Callable[..., HookedTransformer]


def embedded(model: Any, fact: Fact = FACT, seed: int = 0) -> tuple[Embedded, Tensor]:
    encoded = encode_fact(model, fact)
    own = model.W_E.detach()[encoded.ids[: encoded.n_prompt]]
    return Embedded(model, fact, encoded, seed), own.expand(2, -1, -1)


def words(encoded: EncodedPrompt, tokens: range) -> str:
    return "".join(encoded.strings[token] for token in tokens)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("second", ["The", "The instrument of"])
def test_a_run_with_swapped_words_is_the_run_of_the_tokens_in_that_order(
    second: str, kind: str, architectures: Architectures
) -> None:
    """For the model nothing but the order of tokens is different, also where words have other lengths."""
    model = architectures(kind)
    encoded = encode_fact(model, FACT, prepend_bos=True)
    places = sorted((tokens_of(encoded, word) for word in ("Miles Davis", second)), key=lambda one: one.start)
    ids = encoded.ids[: encoded.n_prompt].tolist()
    (a, b), (c, d) = ((one.start, one.stop) for one in places)
    assert b - a != d - c
    swapped = torch.tensor([ids[:a] + ids[c:d] + ids[b:c] + ids[a:b] + ids[d:]])
    frame = embedding_effects(
        model, [FACT], {"swap": SwapWords("Miles Davis", second)}, samples=1, prepend_bos=True
    )
    for column, run in (("clean", encoded.ids[None, : encoded.n_prompt]), ("changed", swapped)):
        wanted = logits(model, run)[0, -1].double().softmax(-1)[encoded.target_ids[0]]
        assert frame[column].item() == pytest.approx(float(wanted), abs=1e-10)


def test_a_swap_undoes_itself_and_does_not_care_which_word_is_first(tiny_model: HookedTransformer) -> None:
    prompt, own = embedded(tiny_model)
    once = applied(SwapWords("first subject token", "last subject token"), prompt, own)
    other = applied(SwapWords("last subject token", "first subject token"), prompt, own)
    assert torch.equal(once, other)
    assert not torch.equal(once, own)
    assert torch.equal(applied([SwapWords(0, 3), SwapWords(3, 0)], prompt, own), own)


def test_noise_on_the_whole_subject_is_the_corruption_of_a_trace(tiny_model: HookedTransformer) -> None:
    subject = encode_fact(tiny_model, FACT).subject
    assert subject is not None
    draws = torch.randn(4, len(subject), tiny_model.cfg.d_model, generator=torch.Generator().manual_seed(5))
    noise = GaussianNoise(draws=0.6 * draws)
    trace = causal_trace(tiny_model, FACT, kinds=("resid",), corruption=noise)
    frame = embedding_effects(tiny_model, [FACT], {"noise": CorruptTokens("subject", noise)}, samples=4)
    np.testing.assert_allclose(frame["changed"], trace.corrupted.values, atol=1e-6)
    np.testing.assert_allclose(frame["clean"], trace.clean, atol=1e-6)


def test_facts_and_seeds_share_no_draws(tiny_model: HookedTransformer) -> None:
    noise = {"noise": CorruptTokens("subject", GaussianNoise(sigma=0.3))}
    runs = [
        embedding_effects(tiny_model, [FACT] * 3, noise, samples=2, seed=seed)["changed"]
        for seed in (0, 1, 2)
    ]
    assert np.unique(np.concatenate(runs)).size == 3 * 3 * 2


def test_single_tokens_get_the_same_draws_and_no_other_token_moves(tiny_model: HookedTransformer) -> None:
    prompt, own = embedded(tiny_model, seed=3)
    moved = {
        token: applied(CorruptTokens(token, GaussianNoise(sigma=0.1)), prompt, own) - own for token in (1, 4)
    }
    torch.testing.assert_close(moved[1][:, 1], moved[4][:, 4], atol=1e-6, rtol=0)
    for token, change in moved.items():
        elsewhere = [one for one in range(own.shape[1]) if one != token]
        assert (change[:, elsewhere] == 0).all()
        assert not torch.equal(change[0, token], change[1, token])
    uniform = applied(CorruptTokens(1, UniformNoise(width=0.2)), prompt, own) - own
    assert 0.1 < float(uniform[:, 1].abs().max()) <= 0.2 + 1e-6


def test_changes_are_made_one_after_the_other(tiny_model: HookedTransformer) -> None:
    prompt, own = embedded(tiny_model)
    swap, noise = SwapWords(0, 3), CorruptTokens(3, GaussianNoise(sigma=1.0))
    both = applied([swap, noise], prompt, own)
    torch.testing.assert_close(both, applied(noise, prompt, applied(swap, prompt, own)))
    turned = applied([noise, swap], prompt, own)
    torch.testing.assert_close(turned[:, 0], both[:, 3] - own[:, 0] + own[:, 3], atol=1e-5, rtol=0)


def test_the_saliency_of_swapped_words_is_that_of_the_words_in_that_order(
    tiny_model: HookedTransformer,
) -> None:
    change = SwapWords("first subject token", "last subject token")
    swapped = changed_embeddings(tiny_model, FACT, change)
    found = saliency(tiny_model, FACT, embeddings=swapped, baseline="zero", steps=5).data
    prompt, own = embedded(tiny_model)
    torch.testing.assert_close(swapped, applied(change, prompt, own)[0])
    frame = embedding_effects(tiny_model, [FACT], {"swap": change}, metric="logprob", samples=1)
    assert float(found["value"]) == pytest.approx(frame["changed"].item(), abs=1e-5)


@pytest.mark.parametrize(
    ("where", "text"),
    [(0, "The"), ("subject", " Miles Davis"), ("last prompt token", " the"), ("instrument", " instrument")],
)
def test_tokens_are_named_by_index_role_or_words(
    where: str | int, text: str, tiny_model: HookedTransformer
) -> None:
    encoded = encode_fact(tiny_model, FACT)
    assert words(encoded, tokens_of(encoded, where)) == text
    behind_bos = encode_fact(tiny_model, FACT, prepend_bos=True)
    if isinstance(where, str):
        assert words(behind_bos, tokens_of(behind_bos, where)) == text


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        (99, TextError, "tokens: the prompt has . tokens, so none is number 99"),
        (-1, RangeError, "tokens: expected an index of 0 or more, got -1"),
        (True, InputError, "tokens: expected an index, a role or words of the prompt, got True"),
        ("bos", TextError, "tokens: the prompt has no 'bos'; its tokens are 'The'"),
        ("guitar", TextError, "'guitar' does not occur in the prompt"),
        ("trumpet", TextError, "'trumpet' does not occur in the prompt"),
    ],
)
def test_tokens_that_are_not_there_are_refused(
    where: Any, error: type[Exception], message: str, tiny_model: HookedTransformer
) -> None:
    with pytest.raises(error, match=message):
        tokens_of(encode_fact(tiny_model, FACT), where)


def test_a_swap_of_words_that_overlap_is_refused(tiny_model: HookedTransformer) -> None:
    prompt, own = embedded(tiny_model)
    with pytest.raises(TextError, match="expected two places in the prompt, but 'Miles Davis' and 'Davis'"):
        applied(SwapWords("Miles Davis", "Davis"), prompt, own)


def test_explicit_draws_of_another_number_than_the_samples_are_refused(tiny_model: HookedTransformer) -> None:
    prompt, own = embedded(tiny_model)
    draws = torch.zeros(3, 1, 32)
    with pytest.raises(InputError, match="the corruption has 3 of its own, got samples=2"):
        applied(CorruptTokens(1, GaussianNoise(draws=draws)), prompt, own)
