"""Simulated data sets whose truth is known: how often intervals hold it, and how often tests cry wolf.

Requests differ in how hard they are and in how many prompts they have. 95 % percentile intervals of 30
requests hold the truth a little less often than they say; what is asserted is 0.90 to 0.98.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from mechstyle.evaluation.differences import paired_differences
from mechstyle.evaluation.measure import AnyMetric, Harmonic, Metric
from mechstyle.evaluation.significance import holm, sign_flip_p
from mechstyle.evaluation.summaries import harmonic_mean, summarise_rows

N_SETS, N_REQUESTS, RESAMPLES = 400, 30, 500
SHARE = Metric("share", "success", "share")
KINDS = tuple(Metric(kind, "success", "share", kind) for kind in ("rewrite", "paraphrase", "neighborhood"))
SCORE = Harmonic("score", KINDS, "harmonic mean")
PERPLEXITY = Metric("perplexity", "nll", "perplexity", weight="tokens", exponential=True)

pytestmark = pytest.mark.slow


def requests_of(rng: np.random.Generator) -> pd.DataFrame:
    """Requests with 1 to 8 prompts each, and how hard each request is: its own chance of success."""
    sizes = rng.integers(1, 9, N_REQUESTS)
    rows = pd.DataFrame({"request": np.repeat(np.arange(N_REQUESTS), sizes)})
    return rows.assign(
        item=rows.groupby("request").cumcount(), chance=rng.beta(1.2, 0.8, N_REQUESTS)[rows["request"]]
    )


def clustered(rng: np.random.Generator) -> pd.DataFrame:
    """The mean over requests is 0.6."""
    rows = requests_of(rng)
    return rows.assign(success=rng.random(len(rows)) < rows["chance"])


def coverage(draw: Callable[[np.random.Generator], tuple[float, float]], truth: float) -> float:
    rng = np.random.default_rng(1)
    held = []
    for _ in range(N_SETS):
        low, high = draw(rng)
        held.append(low <= truth <= high)
    return float(np.mean(held))


def edges(rows: pd.DataFrame, metric: AnyMetric) -> tuple[float, float]:
    row = summarise_rows(rows, [metric], resamples=RESAMPLES).loc[metric.name]
    return row["low"], row["high"]


def test_intervals_of_clustered_rates_cover() -> None:
    assert 0.90 <= coverage(lambda rng: edges(clustered(rng), SHARE), 0.6) <= 0.98


def test_intervals_that_take_every_prompt_for_independent_would_not() -> None:
    def prompts_alone(rng: np.random.Generator) -> tuple[float, float]:
        return edges(clustered(rng).drop(columns="request"), SHARE)

    assert coverage(prompts_alone, 0.6) < 0.85


def test_intervals_of_perplexity_cover_where_long_texts_are_easier() -> None:
    def draw(rng: np.random.Generator) -> tuple[float, float]:
        rows = requests_of(rng)
        tokens = rng.integers(5, 40, len(rows))
        hard = rng.normal(0, 0.4, N_REQUESTS)[rows["request"]]
        return edges(rows.assign(tokens=tokens, nll=tokens * (3 + hard) + 20), PERPLEXITY)

    mean_tokens = np.arange(5, 40).mean()
    assert 0.90 <= coverage(draw, float(np.exp(3 + 20 / mean_tokens))) <= 0.98


def test_intervals_of_a_harmonic_score_cover() -> None:
    chances = np.array([0.8, 0.6, 0.7])

    def draw(rng: np.random.Generator) -> tuple[float, float]:
        shift = rng.uniform(-0.2, 0.2, N_REQUESTS)
        rows = pd.DataFrame({"request": np.repeat(np.arange(N_REQUESTS), 3 * 4)})
        place = np.tile(np.repeat(np.arange(3), 4), N_REQUESTS)
        chance = chances[place] + shift[rows["request"]]
        kinds = np.array([metric.kind for metric in KINDS])[place]
        return edges(rows.assign(kind=kinds, success=rng.random(len(rows)) < chance), SCORE)

    assert 0.90 <= coverage(draw, float(harmonic_mean(chances))) <= 0.98


def two_edits(rng: np.random.Generator, better: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two edits on the same requests, hard ones hard for both; one has ``better`` more of every chance."""
    rows = requests_of(rng).drop(columns="chance")
    chance = rng.uniform(0.05, 0.95 - better, N_REQUESTS)[rows["request"]]
    ours, theirs = (rng.random(len(rows)) < chance + more for more in (better, 0))
    return rows.assign(success=ours), rows.assign(success=theirs)


def test_intervals_of_paired_differences_cover_and_are_narrower_than_unpaired_ones() -> None:
    widths = []

    def draw(rng: np.random.Generator) -> tuple[float, float]:
        ours, theirs = two_edits(rng, 0.2)
        row = paired_differences(ours, theirs, [SHARE], resamples=RESAMPLES).loc["share"]
        if len(widths) < 50:
            alone = [np.diff(edges(rows, SHARE))[0] for rows in (ours, theirs)]
            widths.append((row["high"] - row["low"], np.hypot(*alone)))
        return row["low"], row["high"]

    assert 0.90 <= coverage(draw, 0.2) <= 0.98
    paired, unpaired = np.mean(widths, axis=0)
    assert paired < 0.85 * unpaired


def test_intervals_of_paired_differences_of_perplexity_cover() -> None:
    """One edit costs 0.1 nats a token on average, more in some requests than in others."""

    def draw(rng: np.random.Generator) -> tuple[float, float]:
        rows = requests_of(rng)
        tokens = rng.integers(5, 40, len(rows))
        cost = rng.normal(0.1, 0.1, N_REQUESTS)[rows["request"]]
        theirs = rows.assign(tokens=tokens, nll=2.0 * tokens)
        ours = rows.assign(tokens=tokens, nll=(2.0 + cost) * tokens)
        row = paired_differences(ours, theirs, [PERPLEXITY], resamples=RESAMPLES).loc["perplexity"]
        return row["low"], row["high"]

    assert 0.90 <= coverage(draw, float(np.exp(2.1) - np.exp(2.0))) <= 0.98


@pytest.mark.parametrize("n_requests", [9, N_REQUESTS])
def test_p_values_of_edits_that_are_alike_are_uniform(n_requests: int) -> None:
    """Of 9 requests all signs are tried, of 30 random ones. Both edits find the same requests hard."""
    rng = np.random.default_rng(2)
    hard = rng.normal(0, 2, (n_requests, 2000))
    ours, theirs = (hard + rng.exponential(1, hard.shape) for _ in range(2))
    p = sign_flip_p(ours - theirs, permutations=1999)
    assert 0.02 < np.mean(p <= 0.05) < 0.07
    shares = [np.mean(p <= level) for level in (0.25, 0.5, 0.75)]
    assert shares == pytest.approx([0.25, 0.5, 0.75], abs=0.04)


def test_holms_correction_keeps_the_chance_of_any_false_alarm_among_edits() -> None:
    rng = np.random.default_rng(3)
    plain, corrected = [], []
    for _ in range(400):
        edits = rng.normal(0, 1, (N_REQUESTS, 5))
        p = sign_flip_p(edits[:, :4] - edits[:, 4:], permutations=199)
        plain.append((p <= 0.05).any())
        corrected.append((holm(p) <= 0.05).any())
    assert np.mean(plain) > 0.09
    assert np.mean(corrected) < 0.07
