"""Whatever corrupts the subject and whatever is measured: the planted place is found."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mechstyle.errors import TextError
from mechstyle.facts import Fact
from mechstyle.tracing import GaussianNoise, Trace, causal_trace
from mechstyle.tracing.corruption import UniformNoise
from mechstyle.tracing.replacement import MeanAblation, TokenReplacement
from mechstyle.tracing.targets import Contrast
from tests.planted import FACTS, SUBJECTS, Planted, both_tokens, cancelling, mlp_fact

LAST, END = 1, 3
NAMES = tuple(SUBJECTS)
CORRUPTIONS: dict[str, Any] = {
    "noise": GaussianNoise(sigma=0.3),
    "noise in place": GaussianNoise(sigma=0.1, replace=True),
    "uniform": UniformNoise(width=1.5),
    "uniform in place": UniformNoise(width=0.4, replace=True),
    "a stranger": TokenReplacement("Miles Einstein"),
    "somebody else": TokenReplacement("Chet Baker"),
    "several others": TokenReplacement(["Chet Baker", "Bill Evans", "Max Roach"]),
    "whoever is found": TokenReplacement(reference=NAMES),
    "the mean": MeanAblation(reference=NAMES),
}


@pytest.fixture(scope="module")
def planted() -> Planted:
    return mlp_fact()


def found_only(trace: Trace, kind: str, cells: Iterable[tuple[int, int]], tolerance: float) -> None:
    share = trace.indirect_effect(kind).values / float(trace.total_effect())
    expected = np.zeros_like(share)
    for cell in cells:
        expected[cell] = 1
    np.testing.assert_allclose(share, expected, atol=tolerance)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_finds_the_planted_mlp_and_head(planted: Planted, name: str) -> None:
    trace = causal_trace(
        planted.model, planted.fact, corruption=CORRUPTIONS[name], kinds=("mlp", "attn"), window=1, samples=8
    )
    assert float(trace.total_effect()) > 0.1
    # Noise that is added lies on the answer's direction too, which a restored MLP does not take away.
    tolerance = 0.35 if "noise" in name or "uniform" in name else 1e-4
    found_only(trace, "mlp", [(LAST, planted.write)], tolerance)
    found_only(trace, "attn", [(END, planted.read)], 1e-3)


def test_the_baseline_of_a_replacement_is_the_other_prompt(planted: Planted) -> None:
    other = Fact(planted.fact.template, "Chet Baker", planted.fact.target)
    corruption = TokenReplacement("Chet Baker")
    trace = causal_trace(planted.model, planted.fact, corruption=corruption, metric="logprob")
    alone = causal_trace(planted.model, other, sigma=1.0, samples=1, metric="logprob")
    assert trace.corrupted.values == pytest.approx([alone.clean], abs=1e-5)
    horn = causal_trace(planted.model, planted.fact, corruption=corruption, answer=FACTS[1].target)
    assert float(horn.corrupted[0]) > 0.95
    assert float(horn.total_effect()) < -0.95


def test_a_found_replacement_has_as_many_tokens_and_follows_the_seed(planted: Planted) -> None:
    subjects = []
    for seed in range(6):
        trace = causal_trace(
            planted.model, planted.fact, corruption=TokenReplacement(reference=NAMES), samples=2, seed=seed
        )
        subjects.append(tuple(trace.settings["noise"]["subjects"]))
        assert trace.data.sizes["sample"] == 2
    assert {len(name.split()) for pair in subjects for name in pair} == {2}
    assert "Miles Davis" not in {name for pair in subjects for name in pair}
    assert len(set(subjects)) > 1


@pytest.mark.parametrize("given", ["Sting", ["Chet Baker", "Jean Luc Ponty"], "Miles Davis"])
def test_a_replacement_that_does_not_fit_is_told_with_both_tokenisations(
    planted: Planted, given: Any
) -> None:
    with pytest.raises(TextError, match="corruption: expected (another|a) subject"):
        causal_trace(planted.model, planted.fact, corruption=TokenReplacement(given))


def test_where_no_reference_subject_fits_one_is_asked_for(planted: Planted) -> None:
    with pytest.raises(TextError, match=r"corruption: none of 2 reference subjects has 2 tokens.*Give one"):
        causal_trace(
            planted.model, planted.fact, corruption=TokenReplacement(reference=["Sting", "Jean Luc Ponty"])
        )


def first_logit(logits: Tensor) -> Tensor:
    """A metric of one's own: the planted answer's logit over the mean of all."""
    return logits[:, 0].max(-1).values - logits[:, 0].mean(-1)


@pytest.mark.parametrize(
    "metric", ["prob", "logprob", "neg_kl", first_logit], ids=["prob", "logprob", "neg_kl", "function"]
)
def test_every_metric_finds_the_planted_place(planted: Planted, metric: Any) -> None:
    trace = causal_trace(
        planted.model, planted.fact, noise=cancelling(planted, planted.fact), metric=metric, window=1
    )
    assert float(trace.total_effect()) > 0.9
    found_only(trace, "mlp", [(LAST, planted.write)], 1e-4)
    found_only(trace, "attn", [(END, planted.read)], 1e-4)


def test_a_contrast_of_single_tokens_is_the_logit_difference(planted: Planted) -> None:
    corruption = TokenReplacement("Chet Baker")
    contrast = Contrast(" trumpet", " horn")
    trace = causal_trace(
        planted.model, planted.fact, corruption=corruption, answer=contrast, metric="logprob", window=1
    )
    assert trace.clean == pytest.approx(12, abs=1e-3)
    assert trace.corrupted.values == pytest.approx([-12], abs=1e-3)
    found_only(trace, "mlp", [(LAST, planted.write)], 1e-5)


def test_a_contrast_of_continuations_of_different_lengths_finds_the_planted_place(planted: Planted) -> None:
    contrast = Contrast(" trumpet and the organ", " horn")
    trace = causal_trace(
        planted.model, planted.fact, corruption=TokenReplacement("Chet Baker"), answer=contrast,
        metric="logprob", window=1,
    )  # fmt: skip
    found_only(trace, "mlp", [(LAST, planted.write)], 1e-4)
    found_only(trace, "attn", [(END, planted.read)], 1e-4)
    parts = [
        causal_trace(
            planted.model,
            planted.fact,
            corruption=TokenReplacement("Chet Baker"),
            answer=text,
            metric="logprob",
            window=1,
        )
        for text in (contrast.wanted, contrast.other)
    ]
    difference = parts[0].data["mlp"].values - parts[1].data["mlp"].values
    np.testing.assert_allclose(trace.data["mlp"].values, difference, atol=1e-4)


def test_one_answer_token_is_scored_when_one_is_asked_for(planted: Planted) -> None:
    noise = cancelling(planted, planted.fact)
    whole, first, short = (
        causal_trace(planted.model, planted.fact, noise=noise, answer=answer, answer_tokens=tokens)
        for answer, tokens in ((" trumpet the organ", None), (" trumpet the organ", 1), (" trumpet", None))
    )
    assert whole.clean < 0.01 < first.clean
    assert first.clean == pytest.approx(short.clean)
    np.testing.assert_allclose(first.data["mlp"].values, short.data["mlp"].values, atol=1e-6)


def test_replacing_one_of_two_needed_names_is_found_at_that_name_alone() -> None:
    planted = both_tokens()
    trace = causal_trace(
        planted.model, planted.fact, corruption=TokenReplacement("Chet Davis"), kinds=("resid",)
    )
    found_only(trace, "resid", [(0, 0), *((END, layer) for layer in range(planted.write, 4))], 1e-5)


def test_corruptions_do_not_touch_the_random_state(planted: Planted) -> None:
    before = torch.get_rng_state()
    for corruption in CORRUPTIONS.values():
        causal_trace(planted.model, planted.fact, corruption=corruption, kinds=("mlp",), samples=1)
    assert torch.equal(torch.get_rng_state(), before)
