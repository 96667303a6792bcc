"""Health checks: figures against their definitions, and edits that fail are taken back bit for bit."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from transformer_lens import HookedTransformer

import mechstyle as ms
from mechstyle.editing.health import Health, HealthCheck, measure_health, read_canaries
from mechstyle.editing.ledger import Ledger
from mechstyle.errors import InputError, ModelError, RangeError, TextError, WorkError
from mechstyle.models import parameter
from tests.editing.test_ledger import edit_of
from tests.editing.test_ledger_files import files
from tests.editing.test_running_sums import BIAS, MATRIX, same, weights

TEXTS = ("Miles Davis plays the trumpet.", "Rome is the capital of Italy. The day was long.")
PROMPTS = ("The instrument of {} is the", "{} was born in", "The day of {} was", "{} of", "{} is the capital")
SUBJECTS = ("Miles Davis", "Paris", "Rome", "Bill Evans", "London", "Danielle Darrieux", "trumpet")
NO_LIMITS = {"max_delta_ratio": math.inf, "max_perplexity_ratio": math.inf, "min_known": 0.0}


def said(model: HookedTransformer, prompt: str) -> str:
    """The model's own next token."""
    ids = model.tokenizer(prompt, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        best: str = model.tokenizer.decode(model(ids)[0, -1].argmax())
    return best


@pytest.fixture
def facts(tiny_model: HookedTransformer) -> tuple[ms.Fact, ...]:
    """What a random model "knows": its own next tokens, where they are text that is tokenised so."""
    found = []
    for template in PROMPTS:
        for subject in SUBJECTS:
            prompt = template.replace("{}", subject)
            ids = tiny_model.tokenizer(prompt)["input_ids"]
            target = said(tiny_model, prompt)
            both = tiny_model.tokenizer(prompt + target)["input_ids"]
            if target.strip() and both[:-1] == ids:
                found.append(ms.Fact(template, subject, target))
    assert len(found) >= 4
    return tuple(found)


def test_figures_are_those_of_the_model_with_all_its_edits(
    tiny_model: HookedTransformer, facts: tuple[ms.Fact, ...]
) -> None:
    check = HealthCheck(texts=TEXTS, facts=facts, **NO_LIMITS)
    plain = ms.perplexity(tiny_model, TEXTS)
    before = weights(tiny_model)
    with Ledger(tiny_model, health=check) as ledger:
        ledger.add(edit_of(tiny_model, 0))
        health = ledger.add(edit_of(tiny_model, 1, names=(MATRIX, BIAS))).health
        for name in (MATRIX, BIAS):
            change = parameter(tiny_model, name).detach().double() - before[name].double()
            ratio = float(change.norm() / before[name].double().norm())
            assert health.delta_ratios[name] == pytest.approx(ratio, rel=1e-12)
        assert health.delta_ratio == max(health.delta_ratios.values())
        assert health.perplexity == ms.perplexity(tiny_model, TEXTS)
        assert health.perplexity_ratio == health.perplexity / plain
        still = [said(tiny_model, fact.prompt) == fact.target for fact in facts]
        assert health.known == pytest.approx(sum(still) / len(still))
        assert health.problems == ()
        row = ledger.frame().iloc[1]
        assert (row["known"], row["perplexity"]) == (health.known, health.perplexity)


def test_the_unedited_model_is_the_measure_also_where_edits_are_active(
    tiny_model: HookedTransformer, facts: tuple[ms.Fact, ...]
) -> None:
    check = HealthCheck(texts=TEXTS, facts=facts)
    plain = read_canaries(tiny_model, check)
    with edit_of(tiny_model, 0).applied(tiny_model):
        inside = weights(tiny_model)
        under = read_canaries(tiny_model, check)
        assert same(weights(tiny_model), inside)
        assert measure_health(tiny_model, HealthCheck(texts=TEXTS, **NO_LIMITS)).perplexity_ratio != 1.0
    assert under.perplexity == plain.perplexity
    assert [one.text for one in under.known] == [one.text for one in plain.known]
    assert measure_health(tiny_model, check) == Health({}, plain.perplexity, 1.0, 1.0)


@pytest.mark.parametrize(
    ("limit", "scale", "problem"),
    [
        ({"max_delta_ratio": 0.5}, 5.0, r"the change of blocks.1.mlp.W_out has .* \(max_delta_ratio=0.5\)"),
        (
            {"max_perplexity_ratio": 1.1},
            50.0,
            r"the perplexity .* \(max_perplexity_ratio=1.1\)",
        ),
        ({"min_known": 0.9}, 50.0, r".*% of the known facts are still known \(min_known=0.9\)"),
    ],
)
def test_an_edit_beyond_a_limit_is_taken_back_bit_for_bit_and_kept_as_refused(
    tiny_model: HookedTransformer,
    facts: tuple[ms.Fact, ...],
    tmp_path: Path,
    limit: dict[str, float],
    scale: float,
    problem: str,
) -> None:
    before = weights(tiny_model)
    check = HealthCheck(texts=TEXTS, facts=facts, **{**NO_LIMITS, **limit})
    with Ledger.open(tiny_model, tmp_path / "edits", health=check) as ledger:
        assert ledger.add(edit_of(tiny_model, 0).scaled(0.01)).active
        inside = weights(tiny_model)
        with pytest.raises(WorkError, match=f"refused as entry 2, because {problem}"):
            ledger.add(edit_of(tiny_model, 1).scaled(scale), name="too much")
        assert same(weights(tiny_model), inside)
        refused = ledger.entries[1]
        assert (refused.active, refused.refused, refused.name) == (False, True, "too much")
        assert refused.health.delta_ratio > ledger.entries[0].health.delta_ratio
        assert ledger.frame()["refused"].tolist() == [False, True]
        found = files(tmp_path)
        with pytest.raises(WorkError, match="refused as entry 2"):
            ledger.toggle(2)
        assert same(weights(tiny_model), inside)
        assert files(tmp_path) == found
        assert ledger.add(edit_of(tiny_model, 2).scaled(0.01)).number == 3
    assert same(weights(tiny_model), before)
    with Ledger.open(tiny_model, tmp_path / "edits") as ledger:
        assert [entry.refused for entry in ledger.entries] == [False, True, False]
        assert ledger.entries[1].health.problems == refused.health.problems
        assert ledger.toggle(2, force=True).active  # nothing looks at it now


def test_a_model_that_says_nothing_finite_any_more_has_failed(
    tiny_model: HookedTransformer, facts: tuple[ms.Fact, ...]
) -> None:
    model, before = tiny_model, weights(tiny_model)
    huge = edit_of(model, 0).scaled(5e37)
    with Ledger(model, health=HealthCheck(texts=TEXTS, **NO_LIMITS)) as ledger:
        with pytest.raises(WorkError, match="perplexity of the texts is not a finite number"):
            ledger.add(huge)
        assert same(weights(model), before)
        assert ledger.entries[0].health.perplexity == math.inf
    with (
        Ledger(model, health=HealthCheck(facts=facts, max_delta_ratio=math.inf)) as ledger,
        pytest.raises(WorkError, match=r"0.0% of the known facts"),
    ):
        ledger.add(huge)


def test_a_weight_of_zeros_grows_without_measure(tiny_model: HookedTransformer) -> None:
    with torch.no_grad():
        parameter(tiny_model, BIAS).zero_()
    with Ledger(tiny_model) as ledger:
        assert ledger.add(edit_of(tiny_model, 0, names=(BIAS,))).health.delta_ratio == math.inf
    with (
        Ledger(tiny_model, health=HealthCheck()) as ledger,
        pytest.raises(WorkError, match="mlp.b_out has inf times"),
    ):
        ledger.add(edit_of(tiny_model, 0, names=(BIAS,)))


@pytest.mark.parametrize(
    "health",
    [
        Health({}),
        Health({"a": 0.25, "b": math.inf}, math.inf, math.inf, 0.5, ("too much", "too little")),
    ],
)
def test_figures_come_back_from_json(health: Health) -> None:
    assert Health.from_dict(health.to_dict()) == health


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"texts": "one text"}, InputError, r"HealthCheck.texts: expected a list, got str"),
        ({"texts": [3]}, InputError, r"HealthCheck.texts\[0\]: expected a str, got int"),
        ({"facts": ["a"]}, InputError, r"HealthCheck.facts\[0\]: expected a Fact, got str"),
        ({"max_delta_ratio": 0.0}, RangeError, "max_delta_ratio: expected a number above 0, got 0.0"),
        ({"max_perplexity_ratio": math.nan}, RangeError, "max_perplexity_ratio: expected a number above 0"),
        ({"min_known": 1.5}, RangeError, "min_known: expected a share from 0 to 1, got 1.5"),
        ({"min_known": "half"}, RangeError, "min_known: expected a number"),
        ({"batch_size": 0}, RangeError, "batch_size: expected a whole number of 1 or more"),
    ],
)
def test_a_check_of_the_wrong_kind_is_refused(
    wrong: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        HealthCheck(**wrong)  # type: ignore[arg-type]


def test_a_check_that_cannot_be_made_is_refused_when_the_ledger_is_opened(
    tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    unknown = ms.Fact("{} plays the", "Miles Davis", " zzz")
    with pytest.raises(InputError, match="the unedited model knows none of the 1 facts"):
        Ledger.open(tiny_model, tmp_path / "edits", health=HealthCheck(facts=[unknown]))
    with pytest.raises(TextError, match=r"texts\[1\]: expected a token to predict"):
        Ledger.open(tiny_model, tmp_path / "edits", health=HealthCheck(texts=["Miles Davis", ""]))
    assert files(tmp_path) == {}
    assert dataclasses.replace(HealthCheck(), texts=["a"]).texts == ("a",)


def test_only_figures_that_are_not_finite_count_as_failed(
    tiny_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = HealthCheck(texts=("The day was long.",))
    canaries = read_canaries(tiny_model, check)

    def broken(*_: object, **__: object) -> None:
        raise ModelError("model: it is in training mode and has dropout")

    monkeypatch.setattr("mechstyle.editing.health.negative_log_likelihood", broken)
    with pytest.raises(ModelError, match="has dropout"):
        measure_health(tiny_model, check, canaries)
