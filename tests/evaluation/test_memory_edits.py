"""Scores with edits beside the weights: caches with known answers, contexts against a plain loop."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformer_lens import HookedTransformer
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from mechstyle.editing.memory import EditCache, MemoryEdit
from mechstyle.editing.memory_editors import edit_cache, in_context_edit
from mechstyle.errors import InputError, ModelError, TextError
from mechstyle.evaluation import BosMismatchWarning, evaluate
from mechstyle.evaluation.probes import encode_probes
from mechstyle.evaluation.readings import Reading
from mechstyle.facts import EditRequest, Fact
from tests.evaluation.test_scores import random_edit
from tests.oracles import score_loop

MILES = EditRequest(
    Fact("{} plays the", "Miles Davis", " trumpet"),
    " guitar",
    ("The instrument of Miles Davis is the",),
    (("Chet Baker plays the", " trumpet"), ("Bill Evans plays the", " piano")),
)
PARIS = EditRequest(
    Fact("{} is the capital of", "Paris", " France"), " Italy", ("Paris, the capital of",), ()
)
ELSEWHERE = EditRequest(Fact("{} is a city in", "Zürich", " Switzerland"), " Italy")
TEXTS = ["Paris is the capital of France.", "The day was long. The mother tongue"]
NUMBERS = ["logp_new", "logp_true", "logp_new_sum", "logp_true_sum", "p_new", "p_true", "magnitude"]
EPSILON = 0.01


def stages(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    first, second = (
        rows[rows.stage == stage].drop(columns="stage").reset_index(drop=True)
        for stage in ("before", "after")
    )
    return first, second


def cached(model: HookedTransformer, **options: Any) -> EditCache:
    return edit_cache(model, [MILES, PARIS], epsilon=EPSILON, **options)


def test_an_exact_cache_gives_its_prompts_their_answers_and_leaves_all_others_bit_for_bit(
    tiny_model: HookedTransformer,
) -> None:
    scores = evaluate(tiny_model, [MILES, PARIS], edits=cached(tiny_model), perplexity_texts=TEXTS)
    before, after = stages(scores.rows)
    rewrite = before.kind == "rewrite"
    pd.testing.assert_frame_equal(before[~rewrite], after[~rewrite], check_exact=True)
    np.testing.assert_allclose(
        np.exp(after[rewrite].logp_new_sum), 1 - EPSILON + EPSILON * np.exp(before[rewrite].logp_new_sum)
    )
    np.testing.assert_allclose(
        np.exp(after[rewrite].logp_true_sum), EPSILON * np.exp(before[rewrite].logp_true_sum)
    )
    assert after[rewrite].exact_new.all()
    assert not after[rewrite].exact_true.any()
    assert scores.summary().loc["efficacy", "value"] == 1
    assert scores.perplexity is not None
    assert scores.perplexity["after"] == scores.perplexity["before"]


def test_a_cache_without_a_hit_is_the_unedited_model_bit_for_bit(tiny_model: HookedTransformer) -> None:
    for edit in (edit_cache(tiny_model, ELSEWHERE), edit_cache(tiny_model, ELSEWHERE, layer=1, threshold=1)):
        scores = evaluate(tiny_model, [MILES, PARIS], edits=edit, generate=True, perplexity_texts=TEXTS)
        before, after = stages(scores.rows)
        pd.testing.assert_frame_equal(before, after, check_exact=True)
        assert scores.perplexity is not None
        assert scores.perplexity["after"] == scores.perplexity["before"]


def test_a_threshold_of_minus_one_answers_everything_and_spares_no_neighbour(
    tiny_model: HookedTransformer,
) -> None:
    edit = edit_cache(tiny_model, MILES, layer=1, threshold=-1)
    values = evaluate(tiny_model, [MILES], edits=edit).summary()["value"]
    assert (values["efficacy"], values["paraphrase"], values["neighborhood"]) == (1, 1, 0)


def test_a_threshold_of_one_is_the_exact_cache(tiny_model: HookedTransformer) -> None:
    exact = evaluate(tiny_model, [MILES, PARIS], edits=cached(tiny_model)).rows
    strict = evaluate(tiny_model, [MILES, PARIS], edits=cached(tiny_model, layer=1, threshold=1)).rows
    pd.testing.assert_frame_equal(exact, strict, check_exact=True)


def test_what_is_found_is_generated_and_all_else_is_the_models_own(
    tiny_model: HookedTransformer, tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    scores = evaluate(tiny_model, [MILES], edits=cached(tiny_model), generate=True)
    n_tokens = scores.provenance["settings"]["generated_tokens"]
    for _, row in scores.frame.iterrows():
        own = score_loop.greedy(tiny_hf, tiny_tokenizer, row.prompt, n_tokens)
        assert row.completion == (" guitar" if row.kind == "rewrite" else own)
    assert scores.summary().loc["efficacy_generated", "value"] == 1


def chances(model: HookedTransformer, edit: MemoryEdit, *begin: int) -> torch.Tensor:
    """P of each token after the cached prompt and ``begin``, as whole continuations."""
    (probe, *_) = encode_probes(model, [MILES], prepend_bos=False)
    new = probe.encoded[0]
    prompt = new.ids[: new.n_prompt].tolist()
    n_tokens = len(model.tokenizer)
    each = [replace(new, ids=torch.tensor([*prompt, *begin, token])) for token in range(n_tokens)]
    probes = [replace(probe, encoded=(one, one)) for one in each]
    recalled = edit.recall(model, [one.prompt for one in probes])
    scored = Reading(model, probes, edit=edit).answers(recalled, batch_size=200)
    assert all(one.n_tokens == len(begin) + 1 for one, _ in scored)
    return torch.tensor([one.logp for one, _ in scored]).double().exp()


@pytest.mark.parametrize("target", [" guitar", " piano", " piano too"])
def test_continuations_of_a_cached_prompt_keep_proper_probabilities(
    tiny_model: HookedTransformer, target: str
) -> None:
    """The chances of all next tokens add up to the chance of what comes before them."""
    assert len(tiny_model.tokenizer) == tiny_model.cfg.d_vocab
    edit = edit_cache(tiny_model, replace(MILES, new_target=target), epsilon=EPSILON)
    begin: list[int] = []
    total = 1.0
    said = tiny_model.tokenizer(target)["input_ids"]
    for token in (*said, 7, 9):
        chance = chances(tiny_model, edit, *begin)
        assert float(chance.sum()) == pytest.approx(total, rel=1e-5)
        if len(begin) < len(said):
            assert int(chance.argmax()) == token
        begin.append(token)
        total = float(chance[token])


def test_a_target_that_goes_on_where_the_cached_answer_ends_is_the_models_from_there(
    tiny_model: HookedTransformer, tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    longer = replace(MILES, fact=MILES.fact.with_target(" guitar too"), neighborhood=())
    edit = edit_cache(tiny_model, longer, epsilon=EPSILON)
    row = evaluate(tiny_model, [longer], edits=edit).frame.iloc[0]
    own = score_loop.answer(tiny_hf, tiny_tokenizer, row.prompt, " guitar too")
    tail = score_loop.answer(tiny_hf, tiny_tokenizer, row.prompt + " guitar", " too")
    wanted = (1 - EPSILON) * math.exp(sum(tail.logps)) + EPSILON * math.exp(sum(own.logps))
    assert math.exp(row.logp_true_sum) == pytest.approx(wanted, rel=1e-4)
    assert row.exact_true == tail.exact


@pytest.mark.parametrize("bos", [False, True])
def test_a_context_stands_before_every_prompt_and_only_targets_are_scored(
    tiny_model: HookedTransformer,
    tiny_hf: GPT2LMHeadModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    bos: bool,
) -> None:
    edit = in_context_edit(tiny_model, [MILES, PARIS], prepend_bos=bos)
    scores = evaluate(tiny_model, [MILES, PARIS], edits=edit, prepend_bos=bos)
    for _, row in scores.rows.iterrows():
        prompt = row.prompt if row.stage == "before" else edit.context + row.prompt
        for name in ("new", "true"):
            own = score_loop.answer(tiny_hf, tiny_tokenizer, prompt, row[f"target_{name}"], bos=bos)
            assert row[f"logp_{name}_sum"] == pytest.approx(sum(own.logps), abs=2e-5)
            assert row[f"exact_{name}"] == own.exact


def test_free_generation_continues_the_prompt_behind_its_context(
    tiny_model: HookedTransformer, tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    edit = in_context_edit(tiny_model, MILES)
    scores = evaluate(tiny_model, [MILES], edits=edit, generate=True)
    n_tokens = scores.provenance["settings"]["generated_tokens"]
    for _, row in scores.frame.iterrows():
        prompt = edit.context + row.prompt
        assert row.completion == score_loop.greedy(tiny_hf, tiny_tokenizer, prompt, n_tokens)


@pytest.mark.parametrize("bos", [False, True])
def test_perplexity_behind_a_context_is_over_the_texts_own_tokens(
    tiny_model: HookedTransformer,
    tiny_hf: GPT2LMHeadModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    bos: bool,
) -> None:
    edit = in_context_edit(tiny_model, MILES, prepend_bos=bos)
    found = evaluate(tiny_model, [MILES], edits=edit, prepend_bos=bos, perplexity_texts=TEXTS).perplexity
    start = [tiny_tokenizer.bos_token_id] if bos else []
    context = tiny_tokenizer("Imagine that Miles Davis plays the guitar. ")["input_ids"]
    expected = {}
    for stage, front in (("before", start), ("after", [*start, *context])):
        surprises = []
        for text in TEXTS:
            ids = tiny_tokenizer(text)["input_ids"]
            for place in range(0 if bos else 1, len(ids)):
                chance = score_loop.next_distribution(tiny_hf, [*front, *ids[:place]])[ids[place]]
                surprises.append(-math.log(float(chance)))
        expected[stage] = math.exp(sum(surprises) / len(surprises))
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_list_holds_edits_of_any_kind_one_for_each_request(tiny_model: HookedTransformer) -> None:
    requests = [MILES, PARIS, ELSEWHERE]
    each = [
        random_edit(tiny_model, 1),
        edit_cache(tiny_model, PARIS, epsilon=EPSILON),
        in_context_edit(tiny_model, ELSEWHERE),
    ]
    together = evaluate(tiny_model, requests, edits=each, perplexity_texts=TEXTS)
    for index, (request, edit) in enumerate(zip(requests, each, strict=True)):
        alone = evaluate(tiny_model, [request], edits=edit, perplexity_texts=TEXTS)
        rows = together.frame[together.frame.request == index]
        np.testing.assert_allclose(rows[NUMBERS], alone.frame[NUMBERS], atol=1e-5)
        assert rows.success.tolist() == alone.frame.success.tolist()
    assert together.provenance["settings"]["edits"]["number"] == 3


def test_provenance_names_the_edit(tiny_model: HookedTransformer) -> None:
    for edit, method in (
        (cached(tiny_model), "edit_cache"),
        (in_context_edit(tiny_model, MILES), "in_context_edit"),
    ):
        record = evaluate(tiny_model, [MILES], edits=edit).provenance["settings"]["edits"]
        assert record["applied"] == "once for all requests"
        assert record["settings"]["method"] == method


def test_weights_stay_bit_for_bit(tiny_model: HookedTransformer) -> None:
    before = {name: weight.detach().clone() for name, weight in tiny_model.named_parameters()}
    for edit in (cached(tiny_model, layer=1, threshold=0), in_context_edit(tiny_model, MILES)):
        evaluate(tiny_model, [MILES], edits=edit, generate=True, perplexity_texts=TEXTS)
    assert all(torch.equal(weight, before[name]) for name, weight in tiny_model.named_parameters())


def no_runs(model: HookedTransformer) -> None:
    model.forward = None  # type: ignore[method-assign,assignment]


def test_prompts_too_long_behind_a_context_are_named_before_anything_is_run(
    tiny_model: HookedTransformer,
) -> None:
    edit = in_context_edit(tiny_model, [MILES, PARIS])
    long = replace(PARIS, paraphrases=("Paris, the city of long days in France, is the capital of " * 2,))
    no_runs(tiny_model)
    with pytest.raises(TextError, match=r"requests\[0\], paraphrase prompt 'Paris, the city") as caught:
        evaluate(tiny_model, [long], edits=edit)
    assert "behind 'Imagine that Miles Davis" in str(caught.value)


def test_texts_too_long_behind_a_context_say_how_many_positions_fit(tiny_model: HookedTransformer) -> None:
    edit = in_context_edit(tiny_model, MILES)
    text = "The day was long. " * 20
    front = len(tiny_model.tokenizer(edit.context)["input_ids"])
    with pytest.raises(
        TextError,
        match=rf"perplexity_texts\[1\]: .* set max_positions \(--max-positions\) to {64 - front} or less",
    ):
        evaluate(tiny_model, [MILES], edits=edit, perplexity_texts=[TEXTS[0], text])
    evaluate(tiny_model, [MILES], edits=edit, perplexity_texts=[text], max_positions=64 - front)
    with pytest.raises(TextError, match="perplexity_texts"):
        evaluate(tiny_model, [MILES], edits=edit, perplexity_texts=[text], max_positions=65 - front)


def test_edits_of_another_model_are_refused_before_anything_is_run(tiny_model: HookedTransformer) -> None:
    edits = [cached(tiny_model), in_context_edit(tiny_model, MILES)]
    with torch.no_grad():
        tiny_model.blocks[0].mlp.W_in += 0.5
    no_runs(tiny_model)
    for edit in edits:
        with pytest.raises(ModelError, match=r"edits\[0\]: computed for another model"):
            evaluate(tiny_model, [MILES], edits=edit)


def test_another_bos_than_the_edits_is_a_warning(tiny_model: HookedTransformer) -> None:
    with pytest.warns(BosMismatchWarning, match="made with prepend_bos=True"):
        evaluate(tiny_model, [MILES], edits=in_context_edit(tiny_model, MILES, prepend_bos=True))


def test_a_list_of_another_length_than_the_requests_is_refused(tiny_model: HookedTransformer) -> None:
    with pytest.raises(InputError, match="one for each of the 2 requests"):
        evaluate(tiny_model, [MILES, PARIS], edits=[cached(tiny_model)])
