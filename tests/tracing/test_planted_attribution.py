"""Attribution patching where the truth is known: the planted place is first, unless gradients are blind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest

from mechstyle.facts import Fact
from mechstyle.tracing import GaussianNoise, Trace, causal_trace
from mechstyle.tracing.attribution import attribution_patching
from tests.planted import HEAD, NEURON, OTHER_HEAD, Planted, attention_fact, cancelling, mlp_fact, query_hop

Cell = tuple[int, ...]
FORMS: dict[str, dict[str, Any]] = {
    "bare": {},
    "grouped": {"grouped": True},
    "root mean square, grouped": {"norm": "RMS", "grouped": True},
}
LAST, END = 1, 3


def estimated(planted: Planted, **settings: Any) -> Trace:
    noise = GaussianNoise(draws=cancelling(planted, planted.fact))
    return attribution_patching(planted.model, planted.fact, corruption=noise, **{"window": 1, **settings})


def large(trace: Trace, kind: str) -> set[Cell]:
    """The cells whose estimate is not far below the total effect."""
    found = trace.indirect_effect(kind).values
    return {tuple(map(int, cell)) for cell in np.argwhere(found > 0.1 * float(trace.total_effect()))}


def check(trace: Trace, truth: Mapping[str, Iterable[Cell]]) -> None:
    """These cells are large, all others nothing. What is taken away in noising counts from below."""
    noising = trace.settings["direction"] == "noising"
    found = {kind: (-1 if noising else 1) * trace.indirect_effect(kind).values for kind in truth}
    # A sure answer hardly moves: gradients at the clean run are all small.
    most = max(values.max() for values in found.values()) if noising else float(trace.total_effect())
    for kind, cells in truth.items():
        assert {tuple(map(int, cell)) for cell in np.argwhere(found[kind] > 0.1 * most)} == set(cells), kind
        for cell in cells:
            found[kind][cell] = 0
        assert np.abs(found[kind]).max() < 0.02 * most, kind


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("form", FORMS)
def test_the_planted_mlp_head_value_and_neuron_are_ranked_first(form: str, direction: Any) -> None:
    planted = mlp_fact(**FORMS[form])
    write, read = planted.write, planted.read
    group = HEAD // 2 if "grouped" in form else HEAD
    kinds = ("mlp", "attn", "heads", "q", "k", "v", "pattern", "neurons")
    trace = estimated(planted, kinds=kinds, neuron_layer=write, direction=direction)
    truth = {
        "mlp": [(LAST, write)], "attn": [(END, read)], "heads": [(END, read, HEAD)], "q": [], "k": [],
        "v": [(LAST, read, group)], "pattern": [], "neurons": [(LAST, NEURON)],
    }  # fmt: skip
    check(trace, truth)


def test_a_dead_neuron_hides_what_lies_below_it_from_the_gradient_and_not_from_the_path() -> None:
    """The neuron is off in the corrupted run: no gradient passes there, but on the way to clean one does."""
    planted = mlp_fact()
    write, read = planted.write, planted.read
    seen = [(LAST, layer) for layer in range(write, read)] + [(END, layer) for layer in range(read, 6)]
    below = [(LAST, layer) for layer in range(write)]
    check(estimated(planted, kinds=("resid",)), {"resid": seen})
    path = estimated(planted, kinds=("resid", "severed_mlp"), method="integrated", steps=20)
    check(path, {"resid": [*below, *seen]})
    assert large(path, "severed_mlp") == set(seen)


def test_a_saturated_pattern_hides_a_query_from_the_gradient_and_not_from_the_path() -> None:
    planted = query_hop()
    read, end = planted.read, 7
    blind = estimated(planted, kinds=("q", "heads"))
    assert large(blind, "q") == set()
    path = estimated(planted, kinds=("q", "k", "heads"), method="integrated", steps=200)
    check(path, {"k": []})
    found = path.indirect_effect("q").values
    assert np.unravel_index(found.argmax(), found.shape) == (end, read, HEAD)
    assert large(path, "heads") == {(end, planted.write, OTHER_HEAD), (end, read, HEAD)}


@pytest.mark.parametrize("make", [mlp_fact, attention_fact])
def test_the_largest_estimate_is_the_largest_effect(make: Any) -> None:
    planted = make()
    kinds = ("mlp", "attn", "heads", "v")
    draws = cancelling(planted, planted.fact)
    exact = causal_trace(planted.model, planted.fact, kinds=kinds, noise=draws, window=1, metric="logprob")
    trace = estimated(planted, kinds=kinds)
    for kind in kinds:
        effect, estimate = exact.indirect_effect(kind).values, trace.indirect_effect(kind).values
        assert (effect > 1).sum() == (estimate > 1).sum()
        np.testing.assert_array_equal(effect > 1, estimate > 1)
    assert trace.clean == pytest.approx(exact.clean, abs=1e-5)
    np.testing.assert_allclose(trace.corrupted.values, exact.corrupted.values, atol=1e-5)


def test_a_pair_of_prompts_gives_the_place_as_well() -> None:
    planted = mlp_fact()
    stranger = Fact(planted.fact.template, "Miles Einstein", planted.fact.target)
    trace = attribution_patching(planted.model, planted.fact, stranger, kinds=("mlp", "heads"), window=1)
    check(trace, {"mlp": [(LAST, planted.write)], "heads": [(END, planted.read, HEAD)]})
