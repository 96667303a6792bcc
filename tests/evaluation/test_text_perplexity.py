"""Perplexity text by text: a plain loop, contexts in front, and a model that was destroyed."""

from __future__ import annotations

import json
import math

import pytest
from transformer_lens import HookedTransformer
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from mechstyle import organisms
from mechstyle.editing.memory_editors import edit_cache, in_context_edit
from mechstyle.errors import InputError, RangeError, TextError
from mechstyle.evaluation import HeldOutPerplexity, perplexity
from mechstyle.evaluation.measure import Conditions
from mechstyle.facts import EditRequest, Fact
from tests.evaluation.collateral import PLAIN, destroying_edit, stages, values
from tests.evaluation.test_scores import edited, random_edit
from tests.oracles import collateral_loop

TEXTS = ("Paris is the capital of France.", "The day was long.", "Rome is a city. Rome is a city. Rome")
MILES = EditRequest(Fact("{} plays the", "Miles Davis", " trumpet"), " guitar")


@pytest.mark.parametrize("bos", [False, True])
def test_each_text_has_the_sum_of_a_loop_over_its_tokens_before_and_after_an_edit(
    tiny_model: HookedTransformer,
    tiny_hf: GPT2LMHeadModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    bos: bool,
) -> None:
    edit, measure = random_edit(tiny_model, 1), HeldOutPerplexity(TEXTS)
    found = stages(tiny_model, measure, edit, Conditions(prepend_bos=bos))
    for rows, hf in zip(found, (tiny_hf, edited(tiny_hf, edit)), strict=True):
        assert [row["item"] for row in rows] == [0, 1, 2]
        for row, text in zip(rows, TEXTS, strict=True):
            surprises = collateral_loop.surprises(hf, tiny_tokenizer, text, bos=bos)
            assert row["nll"] == pytest.approx(math.fsum(surprises), rel=1e-5)
            assert row["n_tokens"] == len(surprises)


@pytest.mark.parametrize("bos", [False, True])
def test_the_metric_is_what_perplexity_gives(tiny_model: HookedTransformer, bos: bool) -> None:
    measure = HeldOutPerplexity(TEXTS, max_positions=8)
    rows = measure.prepare(tiny_model, [], Conditions(prepend_bos=bos))(None, [])
    assert values(measure, rows)["perplexity"] == pytest.approx(
        perplexity(tiny_model, TEXTS, prepend_bos=bos, max_positions=8), rel=1e-6
    )


def test_batches_change_nothing(tiny_model: HookedTransformer) -> None:
    together, alone = (
        HeldOutPerplexity(TEXTS).prepare(tiny_model, [], Conditions(False, batch_size=size))(None, [])
        for size in (3, 1)
    )
    assert [row["n_tokens"] for row in together] == [row["n_tokens"] for row in alone]
    assert [row["nll"] for row in together] == pytest.approx([row["nll"] for row in alone], rel=1e-6)


@pytest.mark.parametrize("bos", [False, True])
def test_texts_behind_a_context_are_scored_on_their_own_tokens_alone(
    tiny_model: HookedTransformer,
    tiny_hf: GPT2LMHeadModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    bos: bool,
) -> None:
    edit = in_context_edit(tiny_model, MILES, prepend_bos=bos)
    before, after = stages(tiny_model, HeldOutPerplexity(TEXTS), edit, Conditions(prepend_bos=bos))
    for first, second, text in zip(before, after, TEXTS, strict=True):
        expected = collateral_loop.surprises(tiny_hf, tiny_tokenizer, text, context=edit.context, bos=bos)
        assert second["nll"] == pytest.approx(math.fsum(expected), rel=1e-5)
        assert second["n_tokens"] == first["n_tokens"]
        assert second["nll"] != pytest.approx(first["nll"], rel=1e-3)


def test_a_cache_and_no_edit_leave_every_text_bit_for_bit(tiny_model: HookedTransformer) -> None:
    measure = HeldOutPerplexity(("Miles Davis plays the", *TEXTS))
    before, after = stages(tiny_model, measure, edit_cache(tiny_model, MILES))
    assert before == after == measure.prepare(tiny_model, [], PLAIN)(None, [])


def test_a_destroyed_model_is_caught(organism: HookedTransformer) -> None:
    measure = HeldOutPerplexity(tuple(organisms.heldout_prose("organism-m")[:8]), max_positions=48)
    before, after = (
        values(measure, rows)["perplexity"] for rows in stages(organism, measure, destroying_edit(organism))
    )
    assert after > 5 * before


def test_a_text_too_long_behind_a_context_is_named_with_what_fits(tiny_model: HookedTransformer) -> None:
    edit = in_context_edit(tiny_model, MILES)
    front = len(tiny_model.tokenizer(edit.context)["input_ids"])
    measure = HeldOutPerplexity((TEXTS[0], "The day was long. " * 20))
    read = measure.prepare(tiny_model, [], PLAIN)
    with pytest.raises(
        TextError, match=rf"HeldOutPerplexity.texts\[1\]: .* set max_positions to {64 - front} or less"
    ):
        read(edit, [])


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("a text", InputError, "HeldOutPerplexity.texts: expected a list of texts, got one str; pass"),
        ((), InputError, "HeldOutPerplexity.texts: expected at least one text, got none"),
        (("a", " "), TextError, r"HeldOutPerplexity.texts\[1\]: expected text that is not blank, got ' '"),
    ],
)
def test_what_are_no_texts_is_refused(texts: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        HeldOutPerplexity(texts)  # type: ignore[arg-type]


def test_a_cut_that_leaves_nothing_is_refused_before_anything_is_run(tiny_model: HookedTransformer) -> None:
    with pytest.raises(RangeError, match="max_positions: expected a whole number of 2 or more, got 1"):
        HeldOutPerplexity(TEXTS, max_positions=1).prepare(tiny_model, [], PLAIN)


def test_settings_tell_texts_and_cuts_apart_and_are_json() -> None:
    measures = [HeldOutPerplexity(TEXTS), HeldOutPerplexity(TEXTS[:2]), HeldOutPerplexity(TEXTS, 8)]
    written = {json.dumps(measure.settings()) for measure in measures}
    assert len(written) == 3
    assert HeldOutPerplexity(list(TEXTS)).settings() == measures[0].settings()  # type: ignore[arg-type]
