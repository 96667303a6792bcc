"""Sampling against a plain loop on the Hugging Face model, and against known probabilities."""

from __future__ import annotations

import math
import random
import re
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from transformer_lens import HookedTransformer
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from mechstyle.errors import InputError, NonFiniteError, RangeError, TextError
from mechstyle.evaluation.generation import complete
from mechstyle.evaluation.sampling import draw, sample, sample_encoded, uniforms
from mechstyle.tokens import encode
from tests.evaluation.test_scores import unigram
from tests.oracles import text_scores

PROMPTS = [
    "Miles Davis plays the",
    "Rome is",
    "The mother tongue of Danielle Darrieux is",
    "Zürich",
    "Rome is",
]


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize(("top_k", "temperature"), [(5, 1.0), (None, 1.0), (20, 0.5), (3, 4.0)])
def test_samples_equal_a_plain_loop_with_the_same_numbers(
    tiny_model: HookedTransformer,
    tiny_hf: GPT2LMHeadModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    top_k: int | None,
    temperature: float,
    bos: bool,
) -> None:
    found = sample(
        tiny_model, PROMPTS, 10, top_k=top_k, temperature=temperature, seed=3, prepend_bos=bos, batch_size=3
    )
    for place, (prompt, text) in enumerate(zip(PROMPTS, found, strict=True)):
        ids = [tiny_tokenizer.bos_token_id] * bos + tiny_tokenizer(prompt)["input_ids"]
        numbers = uniforms(3, (place,), 10)
        new = text_scores.sampled(tiny_hf, tiny_tokenizer, ids, numbers, top_k=top_k, temperature=temperature)
        assert prompt + text == tiny_tokenizer.decode([*ids[int(bos) :], *new])


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_samples_do_not_depend_on_the_batch(tiny_model: HookedTransformer, batch_size: int) -> None:
    together = sample(tiny_model, PROMPTS, 12, top_k=None, batch_size=batch_size)
    assert together == sample(tiny_model, PROMPTS, 12, top_k=None, batch_size=4)


def test_samples_depend_on_their_keys_and_not_on_the_order_or_the_others(
    tiny_model: HookedTransformer,
) -> None:
    keys = ["a", "b", "c", "d", "e"]
    found = dict(zip(keys, sample(tiny_model, PROMPTS, 12, keys=keys), strict=True))
    for chosen in (keys[::-1], keys[2:3], ["e", "b"]):
        prompts = [PROMPTS[keys.index(key)] for key in chosen]
        assert sample(tiny_model, prompts, 12, keys=chosen) == [found[key] for key in chosen]
    assert found["b"] != found["e"], "one prompt, two keys"


def test_a_models_hooks_make_whole_runs_and_the_same_samples(tiny_model: HookedTransformer) -> None:
    resumed = sample(tiny_model, PROMPTS, 8)
    tiny_model.add_hook("blocks.0.hook_resid_post", lambda state, hook: state)
    assert sample(tiny_model, PROMPTS, 8) == resumed


def test_rows_may_want_different_numbers_of_tokens_up_to_the_whole_context(
    tiny_model: HookedTransformer,
) -> None:
    encoded = [encode(tiny_model, prompt) for prompt in PROMPTS]
    n_ctx = tiny_model.cfg.n_ctx
    wanted = [n_ctx - len(encoded[0]), 3, 0, n_ctx - len(encoded[3]), 1]
    chances = [uniforms(0, (row,), count) for row, count in enumerate(wanted)]
    together = sample_encoded(tiny_model, encoded, chances, top_k=5, temperature=1.0)
    assert [len(ids) for ids in together] == wanted
    for row, ids in enumerate(together):
        alone = sample_encoded(tiny_model, [encoded[row]], [chances[row]], top_k=5, temperature=1.0)
        assert alone == [ids]


def test_one_candidate_is_the_greedy_continuation(tiny_model: HookedTransformer) -> None:
    assert sample(tiny_model, PROMPTS, 12, top_k=1, seed=8) == complete(tiny_model, PROMPTS, 12)
    assert sample(tiny_model, PROMPTS, 12, top_k=None, temperature=1e-6) == complete(tiny_model, PROMPTS, 12)


def test_known_probabilities_are_the_frequencies_of_samples(tiny_model: HookedTransformer) -> None:
    """Chi-square over 4,000 draws: with 3 degrees of freedom, 99.9 % of fair samplers stay below 16.3."""
    counts = {" trumpet": 200, " guitar": 100, " the": 50}
    model = unigram(tiny_model, counts)
    total = sum(counts.values()) + model.cfg.d_vocab - len(counts)
    texts = sample(model, ["Rome"] * 4000, 1, top_k=None, batch_size=1000, seed=1)
    found = Counter(text if text in counts else "else" for text in texts)
    wanted = {name: 4000 * count / total for name, count in counts.items()}
    wanted["else"] = 4000 - sum(wanted.values())
    distance = sum((found[name] - wanted[name]) ** 2 / wanted[name] for name in wanted)
    assert distance < chi2.ppf(0.999, df=3)


def test_only_the_most_probable_tokens_are_drawn_in_their_own_proportion(
    tiny_model: HookedTransformer,
) -> None:
    model = unigram(tiny_model, {" trumpet": 60, " guitar": 30, " the": 10})
    texts = sample(model, ["Rome"] * 1000, 1, top_k=3, batch_size=500)
    found = Counter(texts)
    assert set(found) == {" trumpet", " guitar", " the"}
    assert found[" trumpet"] == pytest.approx(600, abs=50)
    assert found[" the"] == pytest.approx(100, abs=30)
    assert set(sample(model, ["Rome"] * 200, 1, top_k=2)) == {" trumpet", " guitar"}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("top_k", [None, 1, 4, 6, 50])
def test_evenly_spaced_numbers_give_every_token_its_share(top_k: int | None, temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(6, generator=generator)
    n = 5000
    numbers = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    drawn = draw(scores.expand(n, 6), numbers, top_k=top_k, temperature=temperature)
    wanted = text_scores.chances(scores.double().tolist(), top_k, temperature)
    assert drawn.tolist() == sorted(drawn.tolist()), "by inversion: a larger number, a later token"
    for token in range(6):
        assert int((drawn == token).sum()) == pytest.approx(n * wanted.get(token, 0), abs=1.001)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_of_equally_probable_tokens_those_with_lower_ids_are_kept(dtype: torch.dtype) -> None:
    scores = torch.tensor([[1, 3, 1, 3, 1, 1]], dtype=dtype).expand(100, 6)
    numbers = torch.arange(100, dtype=torch.float64) / 100
    assert set(draw(scores, numbers, top_k=4).tolist()) == {0, 1, 2, 3}


def test_tokens_without_probability_are_never_drawn() -> None:
    scores = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]]).expand(5, 5)
    numbers = torch.tensor([0.0, 0.25, 0.5, 0.75, 1 - 2**-53], dtype=torch.float64)
    for top_k in (None, 2, 4):
        assert draw(scores, numbers, top_k=top_k).tolist() == [1, 1, 3, 3, 3]


def test_numbers_follow_from_the_seed_and_the_key_alone() -> None:
    assert uniforms(0, (1, "a"), 3) == uniforms(0, (1, "a"), 9)[:3]
    others = [(1, (1, "a")), (0, (1, "b")), (0, (2, "a")), (0, (1,)), (0, ("1", "a"))]
    assert len({uniforms(seed, key, 1)[0] for seed, key in [*others, (0, (1, "a"))]}) == 6
    many = np.array([uniforms(0, (place,), 20) for place in range(500)])
    assert many.min() >= 0
    assert many.max() < 1
    assert abs(np.corrcoef(many[:, 0], many[:, 1])[0, 1]) < 0.15
    assert many.mean() == pytest.approx(0.5, abs=0.015)


def test_numbers_are_the_same_on_every_machine() -> None:
    """Pinned, so that published samples can be drawn again."""
    assert uniforms(0, (0,), 2) == [0.4501701394886253, 0.790430998687531]


def test_a_seed_gives_the_same_samples_and_another_one_others(tiny_model: HookedTransformer) -> None:
    first, again, other = (sample(tiny_model, PROMPTS, 8, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert all(one != two for one, two in zip(first, other, strict=True))


def test_the_random_state_of_the_process_is_left_alone(tiny_model: HookedTransformer) -> None:
    before = random.getstate(), torch.random.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    sample(tiny_model, PROMPTS, 3)
    after = random.getstate(), torch.random.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert before[0] == after[0]
    assert torch.equal(before[1], after[1])
    assert before[2] == after[2]


def test_a_sample_ends_before_the_end_of_text_token(tiny_model: HookedTransformer) -> None:
    with torch.no_grad():
        tiny_model.unembed.b_U[tiny_model.tokenizer.eos_token_id] = 1e4
    assert sample(tiny_model, PROMPTS[:2], 5) == ["", ""]


def test_logits_that_are_no_numbers_are_refused(tiny_model: HookedTransformer) -> None:
    for bad in (math.nan, math.inf):
        with torch.no_grad():
            tiny_model.unembed.b_U[7] = bad
        with pytest.raises(NonFiniteError, match="model: the logits of the next token are not finite"):
            sample(tiny_model, PROMPTS, 2)


def test_bad_input_is_named_before_anything_is_run(tiny_model: HookedTransformer) -> None:
    tiny_model.forward = None  # type: ignore[method-assign,assignment]
    with pytest.raises(InputError, match=re.escape("prompts: expected a list of texts, got one str")):
        sample(tiny_model, "Rome is", 3)
    with pytest.raises(InputError, match="prompts: expected at least one text, got none"):
        sample(tiny_model, [], 3)
    with pytest.raises(InputError, match="keys: expected one for each of the 5 prompts, got 2"):
        sample(tiny_model, PROMPTS, 3, keys=[1, 2])
    with pytest.raises(RangeError, match="n_tokens: expected a whole number of 1 or more, got 0"):
        sample(tiny_model, PROMPTS, 0)
    with pytest.raises(RangeError, match="batch_size: expected a whole number of 1 or more, got 0"):
        sample(tiny_model, PROMPTS, 2, batch_size=0)
    with pytest.raises(TextError, match=re.escape("prompts[0]: its 4 tokens and n_tokens=61 new ones")):
        sample(tiny_model, PROMPTS, 61)
    for top_k in (0, -1, 2.0, True):
        with pytest.raises(RangeError, match="top_k: expected a whole number of 1 or more, or None"):
            sample(tiny_model, PROMPTS, 3, top_k=top_k)  # type: ignore[arg-type]
    for temperature in (0, -1.0, math.nan, math.inf, "1"):
        with pytest.raises(RangeError, match="temperature: expected a number above 0, got .* take complete"):
            sample(tiny_model, PROMPTS, 3, temperature=temperature)  # type: ignore[arg-type]
