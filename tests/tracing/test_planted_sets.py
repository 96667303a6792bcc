"""Many facts, and several models, whose truth is known."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mechstyle.facts import Fact
from mechstyle.tracing import causal_trace, suggest_layers
from mechstyle.tracing.compare_models import compare_models
from mechstyle.tracing.replacement import MeanAblation
from mechstyle.tracing.trace_facts import trace_facts
from mechstyle.tracing.trace_set import TraceSet
from tests.planted import FACTS, SUBJECTS, Planted, mlp_fact

NO_SUBJECT = MeanAblation(reference=tuple(SUBJECTS))
"""Takes every name away, and nothing else."""
TRACER: Any = partial(causal_trace, corruption=NO_SUBJECT, window=1)
UNKNOWN = (
    Fact("{} plays the", "Miles Einstein", " trumpet"),
    Fact("{} plays the", "Miles Davis", " horn"),
    Fact("With {} the sound of", "Miles Davis", " trumpet"),
)
STRADDLING = Fact("{} plays the trum", "Miles Davis", "pet")
LAST = "last subject token"


@pytest.fixture(scope="module")
def planted() -> Planted:
    return mlp_fact()


def test_of_many_facts_the_known_ones_are_traced_and_the_others_counted(
    planted: Planted, tmp_path: Path
) -> None:
    facts = [UNKNOWN[0], *FACTS, UNKNOWN[1], FACTS[0], UNKNOWN[2], STRADDLING]
    traces = trace_facts(planted.model, facts, tracer=TRACER, folder=tmp_path / "traces")
    assert traces.facts == FACTS
    assert traces.skipped["reason"].value_counts().to_dict() == {
        "not known": 3, "given twice": 1, "cannot be tokenised": 1,
    }  # fmt: skip
    again = TraceSet.load(tmp_path / "traces")
    assert [one == other for one, other in zip(traces, again, strict=True)] == [True] * len(FACTS)
    assert suggest_layers(again)[0].layer == planted.write


def test_averages_over_facts_of_different_lengths_are_the_truth(planted: Planted) -> None:
    traces = trace_facts(planted.model, FACTS, tracer=TRACER)
    table = traces.average(resamples=50).set_index(["kind", "role", "layer"])
    counts = {
        "first subject token": 6, "middle subject tokens": 1, LAST: 7, "first subsequent token": 7,
        "last prompt token": 7,
    }  # fmt: skip
    assert table["n_facts"].groupby("role").first().to_dict() == counts
    truth = {
        ("resid", LAST): range(planted.read),
        ("resid", "last prompt token"): range(planted.read, 6),
        ("mlp", LAST): [planted.write],
        ("attn", "last prompt token"): [planted.read],
    }
    whole = float(traces[0].total_effect())
    for (kind, role, layer), row in table.iterrows():
        wanted = whole if layer in truth.get((kind, role), ()) else 0.0
        assert row["mean"] == pytest.approx(wanted, abs=1e-5)
        ends = (wanted if counts[role] > 1 else np.nan,) * 2  # one draw of one fact has no interval
        assert (row["low"], row["high"]) == pytest.approx(ends, abs=1e-5, nan_ok=True)


def test_models_of_different_depth_have_their_peaks_at_the_same_relative_depth() -> None:
    shallow = mlp_fact(n_layers=4, write=1, read=2)
    deep = mlp_fact(n_layers=10, write=3, read=6, norm="LN", grouped=True)
    elsewhere = mlp_fact(n_layers=7, write=4, read=5)
    sets = {
        name: trace_facts(one.model, FACTS, tracer=TRACER)
        for name, one in (("shallow", shallow), ("deep", deep), ("elsewhere", elsewhere))
    }
    found = compare_models(sets, share=True, resamples=50, points=31)
    peaks = found.peaks.set_index(["kind", "role", "model"])
    for kind, role, place in (("mlp", LAST, "write"), ("attn", "last prompt token", "read")):
        for name, one in (("shallow", shallow), ("deep", deep), ("elsewhere", elsewhere)):
            peak, layer = peaks.loc[kind, role, name], getattr(one, place)
            assert (peak["layer"], peak["n_layers"]) == (layer, one.n_layers)
            assert peak["depth"] == peak["low"] == peak["high"] == pytest.approx(layer / (one.n_layers - 1))
            assert peak["effect"] == pytest.approx(1.0, abs=0.01)
    alike = found.similarity.query("kind == 'mlp'").set_index(["model", "other"])["r"]
    assert alike["shallow", "deep"] > 0.7
    assert alike["shallow", "elsewhere"] < 0.3


def test_the_seed_of_a_fact_does_not_hang_on_the_other_facts(planted: Planted) -> None:
    tracer: Any = partial(causal_trace, sigma=0.3, samples=2, seed=5, kinds=("mlp",))
    few = trace_facts(planted.model, FACTS[2:4], tracer=tracer)
    many = trace_facts(planted.model, FACTS[::-1], tracer=tracer)
    by_fact = dict(zip(many.facts, many, strict=True))
    for fact, trace in zip(few.facts, few, strict=True):
        assert trace == by_fact[fact]
    seeds = {trace.settings["seed"] for trace in many}
    assert len(seeds) == len(FACTS)
    corrupted = np.stack([trace.corrupted.values for trace in many])
    assert len(np.unique(corrupted.round(12))) > len(FACTS)
