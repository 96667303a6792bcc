"""The rank correlation of two traces is Spearman's, over the right cells, of traces that belong together."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from transformer_lens import HookedTransformer

from mechstyle.errors import InputError, RangeError, WorkError
from mechstyle.facts import Fact
from mechstyle.tracing import Trace, causal_trace
from mechstyle.tracing.attribution import attribution_patching
from mechstyle.tracing.rank_correlation import rank_correlation, ranked
from mechstyle.tracing.targets import Contrast

FACT = Fact("The instrument of {} is the", "Miles Davis", " trumpet")
Pair = Callable[..., tuple[Trace, Trace]]


@pytest.fixture
def pair(architectures: Callable[..., HookedTransformer]) -> Pair:
    """A function from options -> the exact trace and the estimate."""
    model = architectures("gpt2")

    def traces(**options: Any) -> tuple[Trace, Trace]:
        options = {"samples": 2, "window": 2, "kinds": ("mlp", "heads"), **options}
        estimate = attribution_patching(model, FACT, check=0, **options)
        return causal_trace(model, FACT, metric="logprob", **options), estimate

    return traces


def test_it_is_spearmans_over_the_cells_from_the_subject_on(pair: Pair) -> None:
    exact, estimate = pair()
    first = exact.token("first subject token")
    for kind in ("mlp", "heads"):
        found = rank_correlation(exact, estimate, kind)
        numbers = [trace.indirect_effect(kind).values[first:].ravel() for trace in (exact, estimate)]
        assert found.value == pytest.approx(spearmanr(*numbers).statistic)
        assert found.n_cells == len(numbers[0])
        assert found.low <= found.value <= found.high
        some = rank_correlation(exact, estimate, kind, tokens=[first, first + 1])
        assert some.n_cells == 2 * numbers[0].size // (exact.data.sizes["token"] - first)


def test_the_interval_resamples_cells_and_holds_the_truth_as_often_as_it_says() -> None:
    random, truth, held = np.random.default_rng(0), 6 / np.pi * np.arcsin(0.6 / 2), 0
    for trial in range(200):
        x = random.normal(size=60)
        y = 0.6 * x + 0.8 * random.normal(size=60)
        found = ranked(x, y, level=0.9, resamples=200, seed=trial)
        assert found is not None
        held += found.low <= truth <= found.high
    assert 0.83 < held / 200 < 0.96


def test_the_same_order_is_one_and_the_reverse_minus_one() -> None:
    numbers = np.random.default_rng(0).normal(size=30)
    for other, value in ((np.exp(numbers), 1.0), (-numbers, -1.0)):
        found = ranked(numbers, other)
        assert found is not None
        assert (found.value, found.low, found.high) == pytest.approx((value, value, value))
    assert ranked(numbers, np.zeros(30)) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, "seed: 0 and 1"),
        ({"samples": 3}, "samples: 2 and 3"),
        ({"window": 1}, "window: 2 and 1"),
        ({"direction": "noising"}, "direction: 'denoising' and 'noising'"),
        ({"metric": "prob"}, "metric: 'logprob' and 'prob'"),
        ({"answer": " guitar"}, "answer: ' trumpet' and ' guitar'"),
    ],
)
def test_traces_of_different_settings_are_refused(
    architectures: Callable[..., HookedTransformer], pair: Pair, options: dict[str, Any], message: str
) -> None:
    exact, _ = pair(kinds=("mlp",))
    options = {"samples": 2, "window": 2, "kinds": ("mlp",), "check": 0, **options}
    other = attribution_patching(architectures("gpt2"), FACT, **options)
    with pytest.raises(InputError, match=re.escape(f"settings of the exact one, got {message}")):
        rank_correlation(exact, other, "mlp")


def test_traces_of_different_models_and_estimates_for_exact_are_refused(
    architectures: Callable[..., HookedTransformer], pair: Pair
) -> None:
    exact, estimate = pair()
    other = attribution_patching(architectures("neox"), FACT, samples=2, window=2, kinds=("mlp",), check=0)
    with pytest.raises(InputError, match="model: "):
        rank_correlation(exact, other, "mlp")
    with pytest.raises(InputError, match="exact: expected a trace of cells that were run, got the other"):
        rank_correlation(estimate, estimate, "mlp")
    with pytest.raises(
        InputError, match="estimate: expected an estimate of attribution_patching, got the other"
    ):
        rank_correlation(exact, exact, "mlp")
    with pytest.raises(InputError, match="kind: expected one of mlp, heads, got 'attn'"):
        rank_correlation(exact, estimate, "attn")


def test_cells_of_named_sets_of_tokens_are_not_paired_with_those_of_tokens(pair: Pair) -> None:
    exact, estimate = pair(kinds=("mlp",))
    n_tokens = exact.data.sizes["token"]
    backwards = Trace(exact.data.isel(token=list(range(n_tokens))[::-1]).assign_coords(token=range(n_tokens)))
    with pytest.raises(InputError, match=r"settings of the exact one, got tokens: \['"):
        rank_correlation(backwards, estimate, "mlp")


def test_contrasts_with_another_continuation_are_not_the_same(
    architectures: Callable[..., HookedTransformer],
) -> None:
    model, options = architectures("gpt2"), {"samples": 2, "window": 2, "kinds": ("mlp",)}
    one, other = (Contrast(" trumpet", text) for text in (" guitar", " piano"))
    exact = causal_trace(model, FACT, metric="logprob", answer=one, **options)
    estimates = [attribution_patching(model, FACT, answer=said, check=0, **options) for said in (one, other)]
    assert rank_correlation(exact, estimates[0], "mlp").n_cells > 0
    with pytest.raises(InputError, match=r"settings of the exact one, got contrast: \{"):
        rank_correlation(exact, estimates[1], "mlp")


def test_bad_numbers_and_traces_without_an_order_are_named(
    architectures: Callable[..., HookedTransformer], pair: Pair
) -> None:
    exact, estimate = pair()
    for options, message in (
        ({"tokens": [99]}, "tokens: expected some of 0 to"),
        ({"tokens": []}, "tokens: expected some of 0 to"),
        ({"level": 1.0}, "level: expected a share between 0 and 1, such as 0.95, got 1.0"),
        ({"resamples": 0}, "resamples: expected at least 1, got 0"),
    ):
        with pytest.raises(RangeError, match=re.escape(message)):
            rank_correlation(exact, estimate, "mlp", **options)
    with pytest.raises(WorkError, match="all 'mlp' effects of a trace are equal"):
        rank_correlation(exact, estimate, "mlp", tokens=[0])
