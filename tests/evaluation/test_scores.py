"""Scores against a plain loop on the Hugging Face model, and against answers known by hand."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from mechstyle.editing.edit import EditSet
from mechstyle.evaluation import Scores, evaluate
from mechstyle.facts import EditRequest, Fact
from mechstyle.models import active_base, fingerprint, load_model
from tests.evaluation.measures import NAME, random_edit, unigram, unigram_edit
from tests.oracles import score_loop

FIRST = EditRequest(
    Fact("{} plays the", "Miles Davis", " trumpet"),
    " piano",
    ("The instrument of Miles Davis is the",),
    (("Chet Baker plays the", " trumpet"), ("Jimi Hendrix plays the", " guitar")),
)
SECOND = EditRequest(
    Fact("The mother tongue of {} is", "Danielle Darrieux", " French"),
    " Zürich",
    ("Danielle Darrieux was born in London. The mother tongue of Danielle Darrieux is", "Paris is"),
)
TEXTS = ["Paris is the capital of France.", "The day was long.", "Rome is a city. " * 8]


def edited(hf: GPT2LMHeadModel, edit: EditSet) -> GPT2LMHeadModel:
    changed = copy.deepcopy(hf)
    with torch.no_grad():
        changed.transformer.h[1].mlp.c_proj.weight += edit.delta(NAME).float()
    return changed


def weights(model: HookedTransformer) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def assert_row_matches(
    row: pd.Series, hf: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, *, bos: bool = False
) -> None:
    new = score_loop.answer(hf, tokenizer, row.prompt, row.target_new, bos=bos)
    true = score_loop.answer(hf, tokenizer, row.prompt, row.target_true, bos=bos)
    expected = [new.mean, true.mean, sum(new.logps), sum(true.logps), math.exp(new.mean), math.exp(true.mean)]
    found = row[["logp_new", "logp_true", "logp_new_sum", "logp_true_sum", "p_new", "p_true"]]
    np.testing.assert_allclose(found.astype(float), expected, atol=2e-5)
    gain = math.exp(new.mean) - math.exp(true.mean)
    gain = -gain if row.kind == "neighborhood" else gain
    assert row.magnitude == pytest.approx(gain, abs=2e-5)
    assert row.success == (gain > 0)
    assert (row.exact_new, row.exact_true) == (new.exact, true.exact)


@pytest.mark.parametrize("bos", [False, True])
def test_every_row_equals_a_loop_over_single_tokens_before_and_after_each_requests_own_edit(
    tiny_model: HookedTransformer,
    tiny_hf: GPT2LMHeadModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    bos: bool,
) -> None:
    edits = [random_edit(tiny_model, seed) for seed in (1, 2)]
    frame = evaluate(tiny_model, [FIRST, SECOND], edits=edits, prepend_bos=bos).rows
    changed = [edited(tiny_hf, edit) for edit in edits]
    assert len(frame) == 2 * (4 + 3)
    for _, row in frame.iterrows():
        hf = tiny_hf if row.stage == "before" else changed[row.request]
        assert_row_matches(row, hf, tiny_tokenizer, bos=bos)


def test_the_frame_is_the_last_stage_with_one_row_a_prompt(tiny_model: HookedTransformer) -> None:
    edit = random_edit(tiny_model, 1)
    scores = evaluate(tiny_model, [FIRST, SECOND], edits=edit)
    assert len(scores.frame) == len(scores.rows) / 2
    assert set(scores.frame.stage) == {"after"}
    assert not scores.frame.duplicated(["request", "kind", "prompt"]).any()


def test_one_edit_set_is_applied_for_all_requests(
    tiny_model: HookedTransformer, tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    edit = random_edit(tiny_model, 1)
    scores = evaluate(tiny_model, [FIRST, SECOND], edits=edit)
    changed = edited(tiny_hf, edit)
    for _, row in scores.rows[scores.rows.stage == "after"].iterrows():
        assert_row_matches(row, changed, tiny_tokenizer)
    assert scores.provenance["settings"]["edits"]["applied"] == "once for all requests"


def test_rows_hold_the_request_its_prompts_in_order_and_the_neighbours_own_target(
    tiny_model: HookedTransformer,
) -> None:
    frame = evaluate(tiny_model, [FIRST, SECOND]).frame
    assert frame.stage.unique().tolist() == ["before"]
    assert frame.request.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert frame.kind.tolist()[:4] == ["rewrite", "paraphrase", "neighborhood", "neighborhood"]
    assert frame.prompt.tolist()[:3] == [
        "Miles Davis plays the",
        "The instrument of Miles Davis is the",
        "Chet Baker plays the",
    ]
    assert frame.target_true.tolist()[:4] == [" trumpet", " trumpet", " trumpet", " guitar"]
    assert frame.target_new.tolist()[:4] == [" piano"] * 4
    assert frame.subject.tolist()[4] == "Danielle Darrieux"


def test_a_model_with_known_probabilities_has_the_known_scores(tiny_model: HookedTransformer) -> None:
    model = unigram(tiny_model, {" trumpet": 4, " guitar": 2})
    total = model.cfg.d_vocab - 2 + 4 + 2
    request = EditRequest(
        Fact("{} plays the", "Miles Davis", " trumpet"),
        " guitar",
        ("The instrument of Miles Davis is the",),
        (("Chet Baker plays the", " trumpet"),),
    )
    scores = evaluate(model, [request], edits=unigram_edit(model, {" guitar": 8}))
    before, after = (scores.summary(stage=stage)["value"] for stage in scores.stages)
    assert scores.stages == ("before", "after")
    assert (before["efficacy"], before["paraphrase"], before["neighborhood"], before["score"]) == (0, 0, 1, 0)
    assert before["efficacy_magnitude"] == pytest.approx(-2 / total, rel=1e-5)
    assert before["neighborhood_magnitude"] == pytest.approx(2 / total, rel=1e-5)
    assert (before["efficacy_exact"], before["neighborhood_exact"]) == (0, 1)
    assert (after["efficacy"], after["paraphrase"], after["neighborhood"], after["score"]) == (1, 1, 0, 0)
    assert after["paraphrase_magnitude"] == pytest.approx(12 / (total + 14), rel=1e-5)
    assert (after["efficacy_exact"], after["neighborhood_exact"]) == (1, 0)
    assert scores.summary().loc["efficacy", "value"] == 1


def test_the_score_is_the_harmonic_mean_of_three_known_rates(tiny_model: HookedTransformer) -> None:
    model = unigram(tiny_model, {" trumpet": 4, " guitar": 2})
    up = Fact("{} plays the", "Miles Davis", " guitar")
    down = Fact("{} plays the", "Chet Baker", " trumpet")
    neighbours = ((("Rome", " trumpet"), ("Paris", " the")), (("Rome", " trumpet"),))
    requests = [
        EditRequest(up, " trumpet", ("Miles",), (("Rome", " guitar"),)),
        EditRequest(down, " guitar", ("Chet",), neighbours[0]),
        EditRequest(up, " trumpet", ("Miles",), ()),
        EditRequest(up, " trumpet", ("Miles", "Davis"), ()),
    ]
    # efficacy 1, 0, 1, 1; paraphrase the same; neighborhood 0, 1/2
    values = evaluate(model, requests).summary()
    assert values.loc["efficacy", "value"] == 0.75
    assert values.loc["neighborhood", "value"] == 0.25
    assert values.loc["neighborhood", "n_requests"] == 2
    assert values.loc["score", "value"] == pytest.approx(3 / (1 / 0.75 + 1 / 0.75 + 1 / 0.25))


def test_mean_compares_tokens_and_sum_compares_whole_targets(tiny_model: HookedTransformer) -> None:
    model = unigram(tiny_model, {" pian": 8, "o": 8, " guitar": 4})
    request = EditRequest(Fact("{} plays the", "Bill Evans", " guitar"), " piano")
    total = model.cfg.d_vocab - 3 + 20
    by_mean, by_sum = (evaluate(model, [request], reduce=how).frame.iloc[0] for how in ("mean", "sum"))
    assert by_mean.p_new == pytest.approx(8 / total, rel=1e-5)
    assert by_sum.p_new == pytest.approx((8 / total) ** 2, rel=1e-5)
    assert (by_mean.success, by_sum.success) == (True, False)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_scores_do_not_depend_on_the_batch_size(tiny_model: HookedTransformer, batch_size: int) -> None:
    edits = [random_edit(tiny_model, seed) for seed in (1, 2)]
    found = [
        evaluate(tiny_model, [FIRST, SECOND], edits=edits, perplexity_texts=TEXTS, batch_size=size)
        for size in (7, batch_size)
    ]
    numbers = ["p_new", "p_true", "magnitude"]
    first, second = (scores.rows for scores in found)
    np.testing.assert_allclose(first[numbers], second[numbers], rtol=0, atol=1e-6)
    assert first.drop(columns=[*numbers, *(c for c in first if "logp" in c)]).equals(
        second.drop(columns=[*numbers, *(c for c in second if "logp" in c)])
    )
    assert found[0].perplexity == pytest.approx(found[1].perplexity, rel=1e-5)


def test_scores_of_a_bfloat16_model_are_finite_and_near_those_of_float32(tiny_folder: Path) -> None:
    scores = [
        evaluate(load_model(tiny_folder, dtype=dtype), [FIRST, SECOND], perplexity_texts=TEXTS)
        for dtype in (torch.float32, torch.bfloat16)
    ]
    exact, rounded = (one.rows[["logp_new", "logp_true"]].to_numpy() for one in scores)
    np.testing.assert_allclose(rounded, exact, atol=0.15)
    assert scores[1].provenance["dtype"] == "bfloat16"


def test_the_model_is_bit_for_bit_as_before(tiny_model: HookedTransformer) -> None:
    before = weights(tiny_model)
    edits = [random_edit(tiny_model, seed) for seed in (1, 2)]
    evaluate(tiny_model, [FIRST, SECOND], edits=edits, perplexity_texts=TEXTS, generate=True)
    assert same(weights(tiny_model), before)
    assert active_base(tiny_model) == {}


@pytest.mark.parametrize("failing_run", [1, 2, 3, 4, 5])
def test_an_exception_at_any_run_leaves_the_model_as_before(
    tiny_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch, failing_run: int
) -> None:
    before, edits = weights(tiny_model), [random_edit(tiny_model, seed) for seed in (1, 2)]
    run, calls = tiny_model.forward, []

    def failing(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == failing_run:
            raise KeyboardInterrupt
        return run(*args, **kwargs)

    monkeypatch.setattr(tiny_model, "forward", failing)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny_model, [FIRST, SECOND], edits=edits, perplexity_texts=TEXTS)
    assert same(weights(tiny_model), before)
    assert active_base(tiny_model) == {}


def test_an_edit_that_is_active_already_stays_and_belongs_to_before(tiny_model: HookedTransformer) -> None:
    first, second = random_edit(tiny_model, 1), random_edit(tiny_model, 2)
    with first.applied(tiny_model):
        inside = weights(tiny_model)
        scores = evaluate(tiny_model, [FIRST], edits=second)
        assert same(weights(tiny_model), inside)
    alone = evaluate(tiny_model, [FIRST], edits=first)
    numbers = ["logp_new", "logp_true"]
    expected = alone.rows[alone.rows.stage == "after"][numbers].to_numpy()
    np.testing.assert_array_equal(scores.rows[scores.rows.stage == "before"][numbers], expected)
    assert scores.provenance["settings"]["active_edits"] == [NAME]


def test_free_generation_is_labelled_and_agrees_with_the_greedy_loop(
    tiny_model: HookedTransformer, tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    scores = evaluate(tiny_model, [FIRST], generate=True)
    n_tokens = scores.provenance["settings"]["generated_tokens"]
    assert n_tokens == 2 + 2
    for _, row in scores.rows.iterrows():
        assert row.completion == score_loop.greedy(tiny_hf, tiny_tokenizer, row.prompt, n_tokens)
    assert scores.summary().loc["efficacy_generated", "measure"] == "free generation"
    assert "efficacy_generated" not in evaluate(tiny_model, [FIRST]).summary().index


def test_perplexity_before_is_the_models_and_after_is_over_all_tokens_under_all_edits(
    tiny_model: HookedTransformer, tiny_hf: GPT2LMHeadModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    edits = [random_edit(tiny_model, seed) for seed in (1, 2)]
    found = evaluate(tiny_model, [FIRST, SECOND], edits=edits, perplexity_texts=TEXTS).perplexity
    cut = tiny_model.cfg.n_ctx
    before = score_loop.perplexity(tiny_hf, tiny_tokenizer, TEXTS, cut)
    after = [score_loop.perplexity(edited(tiny_hf, edit), tiny_tokenizer, TEXTS, cut) for edit in edits]
    assert found == pytest.approx({"before": before, "after": math.sqrt(after[0] * after[1])}, rel=1e-4)


def test_scores_become_strict_json_with_null_for_what_is_undefined(tiny_model: HookedTransformer) -> None:
    scores = evaluate(tiny_model, [SECOND], edits=[random_edit(tiny_model, 1)], generate=True)
    data = json.loads(scores.to_json())
    assert data == scores.to_dict()
    assert (data["ci"], data["bootstrap_seed"]) == (0.95, 0)
    assert json.loads(scores.to_json(0.5, seed=3))["bootstrap_seed"] == 3
    assert data["summary"]["after"]["neighborhood"]["value"] is None
    assert data["summary"]["after"]["score"]["note"] == "undefined: no neighborhood prompts"
    assert data["perplexity"] is None
    assert len(data["rows"]) == 6
    assert data["provenance"]["fingerprint"] == fingerprint(tiny_model)
    assert isinstance(scores, Scores)
