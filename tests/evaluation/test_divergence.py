"""Divergence from the original: a plain loop, known distributions, edits of every kind, a destroyed model."""

from __future__ import annotations

import json
import math

import pytest
import torch
from transformer_lens import HookedTransformer
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from mechstyle import organisms
from mechstyle.editing.memory_editors import edit_cache, in_context_edit
from mechstyle.errors import InputError, ModelError, TextError
from mechstyle.evaluation import Divergence
from mechstyle.evaluation.measure import Conditions
from mechstyle.facts import EditRequest, Fact
from mechstyle.models import load_model
from tests.evaluation.collateral import PLAIN, destroying_edit, stages, values
from tests.evaluation.test_scores import edited, random_edit, unigram, unigram_edit
from tests.oracles import collateral_loop

PROMPTS = ("Paris is the capital of", "The day was", "Chet Baker plays the trumpet too, and Jimi", "Rome is")
MILES = EditRequest(Fact("{} plays the", "Miles Davis", " trumpet"), " guitar")
EPSILON = 0.01


def distributions(
    hf: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, bos: bool = False, context: str = ""
) -> list[list[float]]:
    start = [tokenizer.bos_token_id] if bos else []
    return [
        collateral_loop.next_probabilities(hf, start + tokenizer(context + prompt)["input_ids"])
        for prompt in PROMPTS
    ]


@pytest.mark.parametrize("bos", [False, True])
def test_both_divergences_and_the_top_token_equal_a_loop_over_prompts(
    tiny_model: HookedTransformer,
    tiny_hf: GPT2LMHeadModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    bos: bool,
) -> None:
    edit = random_edit(tiny_model, 1)
    _, rows = stages(tiny_model, Divergence(PROMPTS), edit, Conditions(prepend_bos=bos))
    first = distributions(tiny_hf, tiny_tokenizer, bos)
    second = distributions(edited(tiny_hf, edit), tiny_tokenizer, bos)
    for index, (row, p, q) in enumerate(zip(rows, first, second, strict=True)):
        assert row["item"] == index
        assert row["kl"] == pytest.approx(collateral_loop.divergence(p, q), rel=1e-3)
        assert row["kl_reverse"] == pytest.approx(collateral_loop.divergence(q, p), rel=1e-3)
        assert row["top_same"] == (p.index(max(p)) == q.index(max(q)))


@pytest.mark.parametrize("bos", [False, True])
def test_without_an_edit_the_divergence_is_0_and_after_an_undone_one_again(
    tiny_model: HookedTransformer, bos: bool
) -> None:
    read = Divergence(PROMPTS).prepare(tiny_model, [], Conditions(prepend_bos=bos, batch_size=2))
    nothing = [{"item": index, "kl": 0.0, "kl_reverse": 0.0, "top_same": True} for index in range(4)]
    assert read(None, []) == nothing
    edit = random_edit(tiny_model, 1)
    with edit.applied(tiny_model):
        assert all(row["kl"] > 0 for row in read(edit, []))
    assert read(None, []) == nothing


def test_the_divergence_of_known_distributions_is_known_in_both_directions(
    tiny_model: HookedTransformer,
) -> None:
    model = unigram(tiny_model, {" trumpet": 4})
    rest = model.cfg.d_vocab - 1
    p, q = 4 / (rest + 4), 400 / (rest + 400)
    each = 1 / (rest + 4), 1 / (rest + 400)
    _, rows = stages(model, Divergence(PROMPTS), unigram_edit(model, {" trumpet": 100}))
    forward = p * math.log(p / q) + rest * each[0] * math.log(each[0] / each[1])
    backward = q * math.log(q / p) + rest * each[1] * math.log(each[1] / each[0])
    for row in rows:
        assert row["kl"] == pytest.approx(forward, rel=1e-5)
        assert row["kl_reverse"] == pytest.approx(backward, rel=1e-5)
    assert forward != pytest.approx(backward, rel=0.1)


def test_batches_change_nothing(tiny_model: HookedTransformer) -> None:
    edit = random_edit(tiny_model, 1)
    (_, together), (_, alone) = (
        stages(tiny_model, Divergence(PROMPTS), edit, Conditions(False, batch_size=size)) for size in (4, 1)
    )
    for name in ("kl", "kl_reverse"):
        assert [row[name] for row in together] == pytest.approx([row[name] for row in alone], rel=1e-4)


def test_under_an_edit_in_context_prompts_stand_behind_it(
    tiny_model: HookedTransformer, tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    edit = in_context_edit(tiny_model, MILES)
    _, rows = stages(tiny_model, Divergence(PROMPTS), edit)
    first = distributions(tiny_hf, tiny_tokenizer)
    second = distributions(tiny_hf, tiny_tokenizer, context=edit.context)
    for row, p, q in zip(rows, first, second, strict=True):
        assert row["kl"] == pytest.approx(collateral_loop.divergence(p, q), rel=1e-3)


def test_what_a_cache_has_for_a_prompt_is_said_and_all_other_prompts_stay_at_0(
    tiny_model: HookedTransformer, tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    edit = edit_cache(tiny_model, MILES, epsilon=EPSILON)
    prompt = MILES.fact.prompt
    _, rows = stages(tiny_model, Divergence((prompt, *PROMPTS)), edit)
    ids = tiny_tokenizer(prompt)["input_ids"]
    (guitar, *_) = tiny_tokenizer(prompt + " guitar")["input_ids"][len(ids) :]
    p = collateral_loop.next_probabilities(tiny_hf, ids)
    q = [EPSILON * one + (1 - EPSILON) * (token == guitar) for token, one in enumerate(p)]
    assert rows[0]["kl"] == pytest.approx(collateral_loop.divergence(p, q), rel=1e-5)
    assert rows[0]["kl_reverse"] == pytest.approx(collateral_loop.divergence(q, p), rel=1e-5)
    assert all(row["kl"] == row["kl_reverse"] == 0 for row in rows[1:])


def test_a_destroyed_model_is_caught(organism: HookedTransformer) -> None:
    requests = organisms.requests("organism-m", n=20, seed=3)
    measure = Divergence(tuple(request.fact.prompt for request in requests))
    before, after = (values(measure, rows) for rows in stages(organism, measure, destroying_edit(organism)))
    assert before == {"kl": 0.0, "kl_reverse": 0.0, "top_same": 1.0}
    assert after["kl"] > 2
    assert after["kl_reverse"] > 2
    assert after["top_same"] < 0.5


def test_half_precision_is_compared_in_full(
    tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = load_model(tiny_hf, tokenizer=tiny_tokenizer, dtype=torch.bfloat16)
    before, after = stages(model, Divergence(PROMPTS), random_edit(model, 1))
    assert all(row["kl"] == 0 for row in before)
    assert all(row["kl"] > 0 for row in after)


def test_a_prompt_that_does_not_fit_is_named(tiny_model: HookedTransformer) -> None:
    long = "Paris, the city, is the capital of " * 8 + "the"
    with pytest.raises(TextError, match=r"Divergence.prompts\[1\], 'Paris, the city.*: prompt: too long"):
        Divergence(("The day was", long)).prepare(tiny_model, [], PLAIN)
    edit = in_context_edit(tiny_model, MILES)
    read = Divergence(("The day was long " * 11 + "and",)).prepare(tiny_model, [], PLAIN)
    with pytest.raises(TextError, match=r"Divergence.prompts\[0\], .* behind 'Imagine that"):
        read(edit, [])


def test_a_model_with_nan_weights_is_refused(tiny_model: HookedTransformer) -> None:
    with torch.no_grad():
        tiny_model.blocks[1].mlp.W_out[0, 0] = float("nan")
    with pytest.raises(ModelError, match="a log-probability after 'Paris is the capital of' is not a finite"):
        Divergence(PROMPTS).prepare(tiny_model, [], PLAIN)


def test_what_are_no_prompts_is_refused() -> None:
    with pytest.raises(InputError, match=r"Divergence.prompts: expected a list of texts, got one str; pass"):
        Divergence("The day was")  # type: ignore[arg-type]
    with pytest.raises(TextError, match=r"Divergence.prompts\[0\]: expected text that is not blank, got 7"):
        Divergence((7,))  # type: ignore[arg-type]


def test_settings_tell_prompts_apart_and_are_json() -> None:
    written = {
        json.dumps(Divergence(prompts).settings()) for prompts in (PROMPTS, PROMPTS[:3], PROMPTS[::-1])
    }
    assert len(written) == 3
