"""Setups: two sides of equal width, the questions, and what a record says of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from mechstyle.errors import InputError, ModelError, RangeError, TextError
from mechstyle.facts import Fact
from mechstyle.metrics import interval
from mechstyle.runs import logits
from mechstyle.tokens import encode, encode_fact
from mechstyle.tracing.corruption import GaussianNoise, UniformNoise
from mechstyle.tracing.replacement import MeanAblation, TokenReplacement
from mechstyle.tracing.setup import Setup, prepare_fact, prepare_prompts
from mechstyle.tracing.targets import Contrast
from tests.tracing.setups import clean_value, corrupted_values

FACT = Fact("The instrument of {} is the", "Miles Davis", " trumpet")
OTHER = "The instrument of Bill Evans is the"
STYLED = Contrast(" trumpet. Rome", " piano")


@pytest.fixture(scope="module")
def model(_loaded_tiny: HookedTransformer) -> HookedTransformer:
    return _loaded_tiny


def summed(model: HookedTransformer, fact: Fact, answer: str, *, subject: str | None = None) -> list[float]:
    """Log-probability of each answer token, summed by hand later."""
    encoded = encode_fact(model, Fact(fact.template, subject or fact.subject, answer))
    run = logits(model, encoded.ids[None])[0].double().log_softmax(-1)
    return [float(run[at - 1, encoded.ids[at]]) for at in range(encoded.n_prompt, len(encoded))]


def test_a_whole_styled_continuation_against_its_twin_is_the_difference_of_their_summed_log_probabilities(
    model: HookedTransformer,
) -> None:
    how: dict[str, Any] = {"metric": "logprob", "corruption": TokenReplacement("Bill Evans")}
    setup = prepare_fact(model, FACT, answer=STYLED, **how)
    each = prepare_fact(model, FACT, answer=Contrast(STYLED.wanted, STYLED.other, per_token=True), **how)
    assert [asked.weight for asked in setup.questions] == [1.0, -1.0]
    for subject, found, per_token in (
        (None, clean_value(model, setup), clean_value(model, each)),
        ("Bill Evans", corrupted_values(model, setup)[0], corrupted_values(model, each)[0]),
    ):
        wanted, other = (summed(model, FACT, text, subject=subject) for text in (STYLED.wanted, STYLED.other))
        assert len(wanted) > len(other) > 1
        assert found == pytest.approx(sum(wanted) - sum(other), abs=1e-4)
        assert per_token == pytest.approx(np.mean(wanted) - np.mean(other), abs=1e-4)


def test_single_tokens_compared_by_log_probability_are_the_logit_difference_of_one_run(
    model: HookedTransformer,
) -> None:
    setup = prepare_fact(model, FACT, answer=Contrast(" trumpet", " the"), metric="logprob", samples=2)
    (asked,) = setup.questions
    wanted, other = asked.question.encoded.target_ids, asked.question.other
    assert other is not None
    assert [model.tokenizer.decode(one) for one in (wanted, other)] == [" trumpet", " the"]
    run = logits(model, encode(model, FACT.prompt).ids[None])[0, -1]
    assert clean_value(model, setup) == pytest.approx(float(run[wanted] - run[other]), abs=1e-5)


def test_a_contrast_is_the_weighted_sum_of_the_two_answers_alone(model: HookedTransformer) -> None:
    for metric in ("prob", "logprob"):
        how: dict[str, Any] = {"metric": metric, "samples": 3, "seed": 2}
        both = prepare_fact(model, FACT, answer=STYLED, **how)
        one, other = (prepare_fact(model, FACT, answer=text, **how) for text in (STYLED.wanted, STYLED.other))
        np.testing.assert_allclose(
            corrupted_values(model, both),
            corrupted_values(model, one) - corrupted_values(model, other),
            atol=1e-5,
        )


def test_the_first_token_option_is_the_one_token_answer(model: HookedTransformer) -> None:
    short = prepare_fact(model, FACT, samples=2, answer=" trumpet")
    cut = prepare_fact(model, FACT, samples=2, answer=" trumpet. Rome", answer_tokens=1)
    np.testing.assert_array_equal(corrupted_values(model, cut), corrupted_values(model, short))
    assert cut.record["answer_tokens"] == short.record["answer_tokens"]
    assert cut.record["answer"] == " trumpet"
    assert len(cut.encoded) == len(short.encoded)


def test_minus_kl_to_the_clean_run_is_zero_only_there(model: HookedTransformer) -> None:
    for setup in (
        prepare_fact(model, FACT, metric="neg_kl", samples=3),
        prepare_prompts(model, FACT.prompt, OTHER, metric="neg_kl"),
    ):
        assert clean_value(model, setup) == 0.0
        assert (corrupted_values(model, setup) < 0).all()
        assert setup.questions[0].question.n_answer == 1


def test_the_predicted_answer_is_the_models_own_top_token(model: HookedTransformer) -> None:
    top = logits(model, encode(model, FACT.prompt).ids[None])[0, -1].softmax(-1).max(-1)
    for setup in (
        prepare_fact(model, FACT, answer="predicted"),
        prepare_prompts(model, FACT.prompt, OTHER, answer="predicted", metric="prob"),
    ):
        assert setup.record["answer_tokens"] == [int(top.indices)]
        assert setup.record["answer_source"] == "predicted"
        assert clean_value(model, setup) == pytest.approx(float(top.values), abs=1e-6)


def test_a_pair_of_prompts_is_scored_as_each_prompt_alone(model: HookedTransformer) -> None:
    for clean in (FACT, FACT.prompt):
        setup = prepare_prompts(model, clean, OTHER, answer=" trumpet too", metric="logprob")
        assert clean_value(model, setup) == pytest.approx(sum(summed(model, FACT, " trumpet too")), abs=1e-5)
        wanted = sum(summed(model, FACT, " trumpet too", subject="Bill Evans"))
        assert corrupted_values(model, setup) == pytest.approx([wanted], abs=1e-5)
        strings = setup.encoded.strings
        assert (strings[setup.first], setup.samples) == (" Miles", 1)
    facts = prepare_prompts(model, FACT, Fact(FACT.template, "Bill Evans", " piano"))
    assert facts.record["answer"] == " trumpet"
    assert facts.encoded.roles == encode_fact(model, FACT).roles


@pytest.mark.parametrize("bos", [False, True])
def test_both_sides_are_of_one_width_and_what_comes_before_the_first_difference_is_equal(
    model: HookedTransformer, bos: bool
) -> None:
    for setup in (
        prepare_fact(model, FACT, samples=3, answer=STYLED, metric="logprob", prepend_bos=bos),
        prepare_prompts(model, FACT, OTHER, answer=STYLED, prepend_bos=bos),
    ):
        assert setup.record["prepend_bos"] == setup.encoded.prepend_bos == bos
        for asked in setup.questions:
            clean, corrupted = setup.clean(asked.question), setup.corrupted(asked.question)
            assert (clean.n_rows, corrupted.n_rows) == (1, setup.samples)
            assert corrupted.ids.shape == (setup.samples, clean.ids.shape[1])
            assert (corrupted.ids[:, : setup.first] == clean.ids[:, : setup.first]).all()
            runs = [
                logits(model, side.ids, hooks=list(side.hooks))[:, : setup.first + 1]
                for side in (clean, corrupted)
            ]
            wanted = runs[0][:, :-1].expand(setup.samples, -1, -1)
            torch.testing.assert_close(runs[1][:, :-1], wanted, atol=1e-6, rtol=1e-5)
            assert not torch.allclose(runs[1][:, -1:], runs[0][:, -1:], atol=1e-3)


@pytest.mark.parametrize("noise", [GaussianNoise(sigma=0.1), UniformNoise(sigma=0.1)])
def test_one_seed_gives_one_result_and_another_seed_one_within_the_interval(
    model: HookedTransformer, noise: GaussianNoise | UniformNoise
) -> None:
    def values(seed: int, samples: int) -> Any:
        setup = prepare_fact(model, FACT, corruption=noise, metric="logprob", samples=samples, seed=seed)
        return corrupted_values(model, setup)

    first = values(1, 200)
    np.testing.assert_array_equal(first, values(1, 200))
    np.testing.assert_allclose(values(1, 20), first[:20], atol=1e-5)
    low, high = interval(first, level=0.999)
    assert low < values(2, 2000).mean() < high


def test_every_question_sees_the_same_draws(model: HookedTransformer) -> None:
    setup = prepare_fact(model, FACT, answer=STYLED, metric="logprob", samples=2)
    one, other = (setup.corrupted(asked.question) for asked in setup.questions)
    n_prompt = setup.encoded.n_prompt
    found, again = (logits(model, side.ids, hooks=list(side.hooks))[:, :n_prompt] for side in (one, other))
    torch.testing.assert_close(found, again, atol=1e-6, rtol=1e-5)


def test_samples_may_be_run_in_parts(model: HookedTransformer) -> None:
    for how in (GaussianNoise(), TokenReplacement(["Bill Evans", "Bo"])):
        setup = prepare_fact(model, FACT, corruption=how, samples=5)
        whole = corrupted_values(model, setup)
        parts = [corrupted_values(model, setup, slice(at, at + 2)) for at in range(0, setup.samples, 2)]
        np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_number_formats_give_nearly_the_same_values(
    tiny_model: HookedTransformer, dtype: torch.dtype
) -> None:
    how: dict[str, Any] = {"corruption": GaussianNoise(sigma=0.05), "metric": "logprob", "samples": 3}
    exact = corrupted_values(tiny_model, prepare_fact(tiny_model, FACT, **how))
    other = tiny_model.to(dtype)
    atol = 1e-4 if dtype == torch.float64 else 0.3
    np.testing.assert_allclose(corrupted_values(other, prepare_fact(other, FACT, **how)), exact, atol=atol)


@pytest.mark.parametrize(
    ("how", "rule"),
    [
        (None, "gaussian, added"),
        (GaussianNoise(replace=True), "gaussian, in place of the embedding"),
        (GaussianNoise(draws=torch.zeros(1, 2, 32)), "explicit draws, added"),
        (UniformNoise(width=1.0), "uniform, added"),
        (TokenReplacement("Bill Evans"), "token replacement"),
        (MeanAblation(), "mean ablation"),
    ],
)
def test_the_record_says_everything_in_json(model: HookedTransformer, how: Any, rule: str) -> None:
    setup = prepare_fact(model, FACT, corruption=how, answer=STYLED, metric="logprob", samples=1, seed=7)
    record = json.loads(json.dumps(setup.record))
    assert record["noise"]["rule"] == rule
    assert Fact.from_dict(record["fact"]) == FACT
    assert (record["metric"], record["answer_source"]) == ("logprob difference", "contrast")
    assert (record["seed"], record["samples"], record["active_edits"]) == (7, 1, [])
    assert (record["edited_weights"], record["answer_limit"]) == ({}, None)
    assert (
        record["contrast"]["other_tokens"]
        == encode_fact(model, FACT.with_target(STYLED.other)).target_ids.tolist()
    )
    pair = json.loads(json.dumps(prepare_prompts(model, FACT, OTHER).record))
    assert pair["prompts"] == {"clean": FACT.prompt, "corrupted": OTHER}


def nothing(logits: Tensor) -> Tensor:
    return logits[:, 0, 0]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"samples": 0}, RangeError, "samples: expected a whole number of at least 1, got 0"),
        ({"samples": True}, RangeError, "samples: .* got True"),
        ({"seed": 0.5}, InputError, r"seed: expected a whole number, got 0\.5"),
        ({"metric": "kl"}, InputError, "metric: expected one of prob, logprob, neg_kl, or a function"),
        ({"metric": 3}, InputError, "metric: .* got 3"),
        ({"metric": "neg_kl", "answer": " piano"}, InputError, "'neg_kl' compares .* got ' piano'"),
        ({"metric": "neg_kl", "answer": "predicted"}, InputError, "scores no answer, got 'predicted'"),
        ({"metric": "neg_kl", "answer": STYLED}, InputError, "scores no answer, got Contrast"),
        ({"metric": nothing, "answer": STYLED}, InputError, "cannot tell the continuations of a Contrast"),
        ({"answer": ""}, TextError, "answer: expected the continuation to score"),
        ({"answer": 3}, TextError, "answer: .* got 3"),
        ({"answer_tokens": 0}, RangeError, "answer_tokens: expected a whole number of at least 1, got 0"),
        ({"corruption": 3.0}, InputError, r"corruption: expected a corruption such as GaussianNoise\(\)"),
        ({"corruption": MeanAblation}, InputError, "corruption: expected a corruption"),
        (
            {"answer": Contrast(" trumpet too", " trumpet. Rome"), "answer_tokens": 1},
            TextError,
            r"the first 1 tokens of both continuations of the Contrast are the same, \[' trumpet'\]",
        ),
    ],
)
def test_bad_options_are_named(
    model: HookedTransformer, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        prepare_fact(model, FACT, **options)


def test_answers_that_straddle_the_border_of_the_prompt_are_refused(model: HookedTransformer) -> None:
    fact = Fact("{} plays the tru", "Miles Davis", "mpet")
    for prepare in (
        lambda: prepare_fact(model, fact),
        lambda: prepare_fact(model, fact, answer=Contrast(" the", "mpet")),
        lambda: prepare_prompts(model, fact.prompt, "Bill Evans plays the tru", answer="mpet"),
    ):
        with pytest.raises(TextError, match="the token ' trumpet' straddles the border"):
            prepare()


def test_a_space_that_goes_into_one_continuation_only_is_refused(model: HookedTransformer) -> None:
    """The tokenizer has a token " lon", but none of a space and "P"."""
    with pytest.raises(TextError, match="both continuations of a Contrast must leave the prompt's tokens"):
        prepare_fact(model, Fact("{} is ", "Rome", "long"), answer=Contrast("long", "Paris"))
    with pytest.raises(TextError, match=r"its tokens differ after the two prompts, \[' lon', 'g'\] and"):
        prepare_prompts(model, "Rome is ", "Rome;", answer="long")


def test_prompts_that_are_no_pair_are_refused(model: HookedTransformer) -> None:
    with pytest.raises(TextError) as caught:
        prepare_prompts(model, FACT, "The instrument of Danielle Darrieux is the")
    message = str(caught.value)
    lines = [line.strip() for line in message.splitlines()]
    assert any(line.startswith("clean:") and "' Miles' ' Davis' ' is' ' the'" in line for line in lines)
    assert any(line.startswith("corrupted:") and line.endswith("' is' ' the'") for line in lines)
    with pytest.raises(TextError, match="corrupted: expected another prompt than the clean one"):
        prepare_prompts(model, FACT, FACT.prompt)
    with pytest.raises(TextError, match="answer: expected the continuation to score, .* got None"):
        prepare_prompts(model, FACT.prompt, OTHER)
    with pytest.raises(InputError, match="clean: expected a prompt or a Fact, got int"):
        prepare_prompts(model, 3, OTHER)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="corrupted: expected a prompt or a Fact, got NoneType"):
        prepare_prompts(model, FACT, None)  # type: ignore[arg-type]
    with pytest.raises(TextError, match="too long"):
        prepare_prompts(model, FACT, "the" + " the" * 70)


@pytest.mark.parametrize(
    ("wanted", "other", "message"),
    [
        (" horn", " horn", "expected two different continuations, got ' horn' twice"),
        ("", " horn", r"Contrast\.wanted: expected a continuation of the prompt, got ''"),
        (" horn", "  ", r"Contrast\.other: expected a continuation of the prompt, got '  '"),
        (" horn", None, r"Contrast\.other: .* got None"),
    ],
)
def test_contrasts_of_equal_or_empty_continuations_are_refused(wanted: Any, other: Any, message: str) -> None:
    with pytest.raises(TextError, match=message):
        Contrast(wanted, other)


def test_only_a_model_and_a_fact_are_prepared(model: HookedTransformer) -> None:
    with pytest.raises(InputError, match="fact: expected a Fact, got str"):
        prepare_fact(model, "Miles Davis plays the")  # type: ignore[arg-type]
    for prepare in (lambda: prepare_fact(None, FACT), lambda: prepare_prompts(None, FACT, OTHER)):
        with pytest.raises(ModelError, match="model: expected a HookedTransformer"):
            prepare()


def test_a_prompt_without_room_for_a_predicted_answer_is_refused(model: HookedTransformer) -> None:
    full = Fact("{}" + " the" * (model.cfg.n_ctx - len(encode(model, "Rome"))), "Rome", " x")
    assert len(encode(model, full.prompt)) == model.cfg.n_ctx
    with pytest.raises(TextError, match="leave no room for the answer"):
        prepare_fact(model, full, answer="predicted")


def test_preparing_leaves_no_hook_and_no_random_state_behind(model: HookedTransformer) -> None:
    before = torch.get_rng_state()
    setup: Setup = prepare_fact(model, FACT, answer="predicted", samples=2)
    corrupted_values(model, setup)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
