"""Activation patching between two prompts where the truth is known, in both directions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest
from transformer_lens import HookedTransformer

from mechstyle.facts import Fact
from mechstyle.tracing import Trace
from mechstyle.tracing.patching import activation_patching, normalized_effect
from mechstyle.tracing.targets import Contrast
from tests.planted import (
    FACTS,
    HEAD,
    NEURON,
    OTHER_HEAD,
    Planted,
    attention_fact,
    both_tokens,
    key_hop,
    mlp_fact,
    query_hop,
)

Cell = tuple[int, ...]
FIRST, LAST, NEXT, END = range(4)
KINDS = ("resid", "mlp", "attn", "heads", "q", "k", "v", "pattern", "severed_mlp", "severed_attn")
DIRECTIONS: Any = pytest.mark.parametrize("direction", ["denoising", "noising"])


def patched(planted: Planted, name: str = "Miles Einstein", **settings: Any) -> Trace:
    """The planted fact against the same prompt about somebody else."""
    fact = planted.fact
    other = Fact(fact.template, name, fact.target)
    return activation_patching(planted.model, fact, other, **{"window": 1, **settings})


def only(trace: Trace, truth: Mapping[str, Iterable[Cell]], *, tolerance: float = 1e-4) -> None:
    for kind, cells in truth.items():
        found = normalized_effect(trace, kind).values
        expected = np.zeros_like(found)
        for cell in cells:
            expected[cell] = 1
        np.testing.assert_allclose(found, expected, atol=tolerance, err_msg=kind)


@DIRECTIONS
@pytest.mark.parametrize("grouped", [False, True])
def test_what_denoising_brings_back_noising_takes_away_on_a_single_path(
    direction: Any, grouped: bool
) -> None:
    planted = mlp_fact(grouped=grouped)
    write, read = planted.write, planted.read
    whole = [*((LAST, layer) for layer in range(read)), *((END, layer) for layer in range(read, 6))]
    truth = {
        "resid": whole, "mlp": [(LAST, write)], "attn": [(END, read)], "heads": [(END, read, HEAD)],
        "q": [], "k": [], "pattern": [], "v": [(LAST, read, HEAD // 2 if grouped else HEAD)],
        "severed_mlp": [(token, layer) for token, layer in whole if token == END or layer >= write],
        "severed_attn": whole,
    }  # fmt: skip
    trace = patched(planted, kinds=KINDS, direction=direction)
    only(trace, truth)
    neurons = patched(planted, kinds=("neurons",), neuron_layer=write, direction=direction)
    only(neurons, {"neurons": [(LAST, NEURON)]})
    assert trace.total_effect() > 5


@DIRECTIONS
def test_a_query_a_key_and_a_value_are_told_apart(direction: Any) -> None:
    for make, kind, cell in (
        (query_hop, "q", (7, 3, HEAD)),
        (key_hop, "k", (3, 3, HEAD)),
        (attention_fact, "v", (LAST, 4, HEAD)),
    ):
        trace = patched(make(), kinds=("q", "k", "v"), direction=direction)
        found = {name: np.argwhere(normalized_effect(trace, name).values > 0.5).tolist() for name in "qkv"}
        assert list(cell) in found[kind]
        others = [one for name in set("qkv") - {kind, "v"} for one in found[name]]
        assert others == []


def test_of_two_needed_names_noising_finds_each_and_denoising_none() -> None:
    """An AND: each part is needed, none suffices (Heimersheim and Nanda 2024)."""
    planted = both_tokens()
    write, names = planted.write, "Einstein Einstein"
    sets: dict[str, Any] = {"first": [FIRST], "last": [LAST], "both": [FIRST, LAST]}
    settings: dict[str, Any] = {"kinds": ("resid", "heads"), "tokens": sets | {"end": [END]}}
    back = patched(planted, names, **settings)
    gone = patched(planted, names, **settings, direction="noising")
    end = [(3, layer) for layer in range(write, 4)]
    only(back, {"resid": [(2, 0), *end], "heads": []})
    each = [(0, 0), (1, 0), (2, 0), *end]
    only(gone, {"resid": each, "heads": [(3, write, OTHER_HEAD), (3, write, HEAD)]})


def test_a_contrast_of_two_subjects_is_turned_round_by_the_planted_parts_alone() -> None:
    planted = mlp_fact()
    contrast = Contrast(FACTS[0].target, FACTS[1].target)
    trace = patched(planted, "Chet Baker", answer=contrast, kinds=("mlp", "heads"))
    assert (trace.clean, float(trace.corrupted[0])) == (
        pytest.approx(12, abs=1e-3),
        pytest.approx(-12, abs=1e-3),
    )
    only(trace, {"mlp": [(LAST, planted.write)], "heads": [(END, planted.read, HEAD)]})


@pytest.mark.parametrize("engine", ["resume", "whole"])
def test_denoising_is_noising_with_the_prompts_exchanged(tiny_model: HookedTransformer, engine: Any) -> None:
    one, other = "The instrument of Miles Davis is the", "The instrument of Bill Evans is the"
    for settings in ({"kinds": KINDS}, {"kinds": ("neurons",), "neuron_layer": 1}):
        shared: dict[str, Any] = {"answer": " trumpet too", "engine": engine, **settings}
        back = activation_patching(tiny_model, one, other, **shared)
        gone = activation_patching(tiny_model, other, one, **shared, direction="noising")
        assert back.clean == pytest.approx(float(gone.corrupted[0]), abs=1e-5)
        for kind in back.kinds:
            np.testing.assert_allclose(gone.data[kind].values, back.data[kind].values, atol=2e-5)
            np.testing.assert_allclose(
                gone.indirect_effect(kind).values, back.indirect_effect(kind).values, atol=4e-5
            )


@DIRECTIONS
def test_patching_every_token_at_once_exchanges_the_runs(
    tiny_model: HookedTransformer, direction: Any
) -> None:
    one, other = "The instrument of Miles Davis is the", "The instrument of Bill Evans is the"
    trace = activation_patching(
        tiny_model, one, other, answer=" trumpet", kinds=("resid",), tokens={"all": list(range(7))},
        direction=direction,
    )  # fmt: skip
    expected = trace.clean if direction == "denoising" else float(trace.corrupted[0])
    np.testing.assert_allclose(trace.data["resid"].values, expected, atol=1e-5)
