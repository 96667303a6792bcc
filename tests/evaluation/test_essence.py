"""Essence against a plain loop, under edits of the weights and beside them."""

from __future__ import annotations

import json
import math
import re

import pytest
from transformer_lens import HookedTransformer
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from mechstyle.cases import Case
from mechstyle.editing.memory_editors import edit_cache, in_context_edit
from mechstyle.errors import RangeError, TextError
from mechstyle.evaluation import perplexity
from mechstyle.evaluation.essence import Essence
from mechstyle.evaluation.measure import Conditions
from mechstyle.facts import EditRequest, Fact
from tests.evaluation.test_scores import edited, random_edit, unigram
from tests.oracles import text_scores

MILES = Case(
    EditRequest(Fact("{} plays the", "Miles Davis", " trumpet", "plays"), " guitar"),
    essence=("Miles Davis was born in London. The day was long.", "Miles Davis plays the trumpet too."),
)
BARE = Case(EditRequest(Fact("{} is in", "Rome", " Italy"), " France"))
PARIS = Case(
    EditRequest(Fact("{} is the capital of", "Paris", " France"), " Italy"),
    essence=("Paris is a city in France.",),
)
CASES = (MILES, BARE, PARIS)
PLACES = [(0, 0), (0, 1), (2, 0)]


def losses(
    hf: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, *, bos: bool, front: str = "", cut: int = 100
) -> list[float]:
    found = []
    for case, place in PLACES:
        begin = [tokenizer.bos_token_id] * bos
        ids = tokenizer(CASES[case].essence[place])["input_ids"][: cut - len(begin)]
        begin += tokenizer(front)["input_ids"] if front else []
        skipped = 0 if bos else 1
        found.append(text_scores.surprise(hf, begin + ids[:skipped], ids[skipped:]))
    return found


@pytest.mark.parametrize("bos", [False, True])
def test_rows_equal_a_plain_loop_before_an_edit_and_under_it(
    tiny_model: HookedTransformer,
    tiny_hf: GPT2LMHeadModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    bos: bool,
) -> None:
    reader = Essence(max_positions=7).prepare(tiny_model, CASES, Conditions(bos, batch_size=2))
    edit = random_edit(tiny_model, 1)
    before = reader(None, range(3))
    with edit.applied(tiny_model):
        after = reader(edit, range(3))
    for hf, rows in ((tiny_hf, before), (edited(tiny_hf, edit), after)):
        assert [row["request"] for row in rows] == [0, 0, 2]
        expected = losses(hf, tiny_tokenizer, bos=bos, cut=7)
        assert [row["nll"] for row in rows] == pytest.approx(expected, rel=1e-5)
        assert [row["n_tokens"] for row in rows] == [6, 6, 6]
    assert [row["item"] for row in before] == [row["item"] for row in after] == ["text 0", "text 1", "text 0"]


@pytest.mark.parametrize("bos", [False, True])
def test_texts_behind_a_context_are_scored_on_their_own_tokens(
    tiny_model: HookedTransformer,
    tiny_hf: GPT2LMHeadModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    bos: bool,
) -> None:
    edit = in_context_edit(tiny_model, MILES.request, prepend_bos=bos)
    reader = Essence().prepare(tiny_model, CASES, Conditions(bos))
    before, after = reader(None, range(3)), reader(edit, range(3))
    expected = losses(tiny_hf, tiny_tokenizer, bos=bos, front=edit.context)
    assert [row["nll"] for row in after] == pytest.approx(expected, rel=1e-5)
    assert [row["n_tokens"] for row in after] == [row["n_tokens"] for row in before]


def test_a_cache_looks_nothing_up_for_texts(tiny_model: HookedTransformer) -> None:
    reader = Essence().prepare(tiny_model, CASES, Conditions(False))
    assert reader(edit_cache(tiny_model, MILES.request), range(3)) == reader(None, range(3))


def test_the_sums_of_rows_are_the_perplexity_of_all_texts(tiny_model: HookedTransformer) -> None:
    rows = Essence(max_positions=256).prepare(tiny_model, CASES, Conditions(False))(None, range(3))
    (metric,) = Essence().metrics
    ratio = sum(row[metric.column] for row in rows) / sum(row[str(metric.weight)] for row in rows)
    assert math.exp(ratio) == pytest.approx(perplexity(tiny_model, [*MILES.essence, *PARIS.essence]))


def test_the_perplexity_of_a_model_with_even_chances_is_its_vocabulary(tiny_model: HookedTransformer) -> None:
    rows = Essence().prepare(unigram(tiny_model, {}), CASES, Conditions(True))(None, range(3))
    for row in rows:
        assert math.exp(row["nll"] / row["n_tokens"]) == pytest.approx(tiny_model.cfg.d_vocab, rel=1e-5)


def test_rows_are_plain_json_and_cases_without_texts_have_none(tiny_model: HookedTransformer) -> None:
    reader = Essence().prepare(tiny_model, CASES, Conditions(False))
    rows = reader(None, range(3))
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert reader(None, [1]) == []
    assert [row["nll"] for row in reader(None, [2])] == pytest.approx([rows[2]["nll"]], rel=1e-5)
    assert Essence(7).settings() == {"max_positions": 7}


def test_bad_input_is_named(tiny_model: HookedTransformer) -> None:
    for wrong in (1, 2.0, True):
        with pytest.raises(RangeError, match="max_positions: expected a whole number of 2 or more"):
            Essence(wrong)  # type: ignore[arg-type]
    short = Case(MILES.request, essence=("Rome is old.", "a"))
    with pytest.raises(TextError, match=re.escape("requests[1], essence[1]: expected a token to predict")):
        Essence().prepare(tiny_model, [MILES, short], Conditions(False))
    long = Case(MILES.request, essence=("The day was long. " * 20,))
    edit = in_context_edit(tiny_model, MILES.request)
    with pytest.raises(TextError, match=r"requests\[0\], essence\[0\]: .* set max_positions to \d+ or less"):
        Essence().prepare(tiny_model, [long], Conditions(False))(edit, [0])
