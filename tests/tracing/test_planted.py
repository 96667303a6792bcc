"""Models with a fact whose place is known: tracing finds exactly it, and nothing beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mechstyle.facts import Fact
from mechstyle.tracing import Trace, causal_trace, suggest_layers, window_layers
from tests.planted import (
    FACTS,
    Planted,
    attention_fact,
    both_tokens,
    cancelling,
    direct_fact,
    key_hop,
    mlp_fact,
    query_hop,
)

Make = Callable[..., Planted]

MAKERS: tuple[Make, ...] = (mlp_fact, attention_fact, direct_fact, query_hop, key_hop, both_tokens)
FORMS = {
    "bare": {},
    "grouped": {"grouped": True},
    "layer norm": {"norm": "LN"},
    "root mean square, grouped": {"norm": "RMS", "grouped": True},
}
FIRST, LAST, NEXT, END = range(4)
"""Tokens of "Miles Davis plays the"."""


def answer_of(planted: Planted, fact: Fact) -> tuple[str, float]:
    """The most probable next token and the target's probability, by the model alone."""
    tokenizer: Any = planted.model.tokenizer
    ids = torch.tensor([tokenizer(fact.prompt, add_special_tokens=False)["input_ids"]])
    (target,) = tokenizer(fact.target, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        probabilities = planted.model(ids)[0, -1].softmax(-1)
    return tokenizer.decode(probabilities.argmax().item()), float(probabilities[target])


def traced(planted: Planted, **settings: Any) -> Trace:
    """The planted fact without its subject, a window of one."""
    noise = cancelling(planted, planted.fact)
    return causal_trace(planted.model, planted.fact, **{"noise": noise, "window": 1, **settings})


def grid(planted: Planted, cells: Iterable[tuple[int, int]], n_tokens: int = 4) -> NDArray[np.float64]:
    """One at these (token, layer), zero elsewhere."""
    found = np.zeros((n_tokens, planted.n_layers))
    for token, layer in cells:
        found[token, layer] = 1
    return found


def share(trace: Trace, kind: str) -> NDArray[np.float64]:
    """The indirect effect as a share of the total."""
    found: NDArray[np.float64] = trace.indirect_effect(kind).values / float(trace.total_effect())
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", MAKERS)
def test_planted_models_know_their_fact_and_no_other_subjects(make: Make, form: str) -> None:
    if make is direct_fact and "grouped" in FORMS[form]:
        make = partial(make, norm=FORMS[form].get("norm"))
        planted = make()
    else:
        planted = make(**FORMS[form])
    said, probability = answer_of(planted, planted.fact)
    assert said == planted.fact.target
    assert probability > 0.95
    stranger = Fact(planted.fact.template, "Miles Einstein", planted.fact.target)
    assert answer_of(planted, stranger)[1] < 0.01


def test_a_planted_model_knows_subjects_of_one_two_and_three_tokens() -> None:
    planted = mlp_fact()
    for fact in FACTS:
        said, probability = answer_of(planted, fact)
        assert (said, probability > 0.95) == (fact.target, True)


@pytest.mark.parametrize("engine", ["resume", "whole"])
@pytest.mark.parametrize("form", FORMS)
def test_a_fact_in_one_mlp_is_found_there_and_nowhere_else(form: str, engine: str) -> None:
    planted = mlp_fact(**FORMS[form])
    trace = traced(planted, engine=engine)
    write, read = planted.write, planted.read
    truth = {
        "resid": [*((LAST, layer) for layer in range(read)), *((END, layer) for layer in range(read, 6))],
        "mlp": [(LAST, write)],
        "attn": [(END, read)],
    }
    tolerance = 0.01 if "norm" in FORMS[form] else 1e-6
    assert trace.knows
    assert float(trace.total_effect()) > 0.95
    for kind, cells in truth.items():
        np.testing.assert_allclose(share(trace, kind), grid(planted, cells), atol=tolerance, err_msg=kind)


@pytest.mark.parametrize("form", FORMS)
def test_a_fact_in_two_heads_is_found_in_both_and_in_no_mlp(form: str) -> None:
    planted = attention_fact(**FORMS[form])
    trace = traced(planted)
    write, read = planted.write, planted.read
    truth = {
        "resid": [*((LAST, layer) for layer in range(read)), *((END, layer) for layer in range(read, 6))],
        "mlp": [],
        "attn": [(LAST, write), (END, read)],
    }
    tolerance = 0.01 if "norm" in FORMS[form] else 1e-6
    for kind, cells in truth.items():
        np.testing.assert_allclose(share(trace, kind), grid(planted, cells), atol=tolerance, err_msg=kind)


def test_a_head_that_reads_the_subject_itself_needs_no_other_part() -> None:
    planted = direct_fact()
    trace = traced(planted)
    np.testing.assert_allclose(share(trace, "mlp"), 0, atol=1e-6)
    np.testing.assert_allclose(share(trace, "attn"), grid(planted, [(END, planted.read)]), atol=1e-6)


@pytest.mark.parametrize("make", [query_hop, key_hop])
def test_a_fact_that_goes_over_a_query_or_a_key_is_found_in_both_heads(make: Make) -> None:
    planted = make()
    trace = traced(planted)
    tokens = trace.data.sizes["token"]
    mover = {query_hop: tokens - 1, key_hop: trace.token("first subsequent token")}[make]
    cells = [(mover, planted.write), (tokens - 1, planted.read)]
    np.testing.assert_allclose(share(trace, "attn"), grid(planted, cells, tokens), atol=1e-6)
    np.testing.assert_allclose(share(trace, "mlp"), 0, atol=1e-6)


def test_one_of_two_needed_tokens_recovers_nothing() -> None:
    planted = both_tokens()
    trace = traced(planted)
    after = [(END, layer) for layer in range(planted.write, 4)]
    np.testing.assert_allclose(share(trace, "resid"), grid(planted, after), atol=1e-6)
    # Both heads write in the same layer, at the same token: the attention output there holds both names.
    np.testing.assert_allclose(share(trace, "attn"), grid(planted, [(END, planted.write)]), atol=1e-6)
    np.testing.assert_allclose(share(trace, "mlp"), grid(planted, [(END, planted.read)]), atol=1e-6)


@pytest.mark.parametrize("window", [2, 3, 5, 40])
def test_a_window_recovers_the_fact_when_it_holds_its_layer(window: int) -> None:
    planted = mlp_fact()
    trace = traced(planted, window=window)
    for kind, token, layer in (("mlp", LAST, planted.write), ("attn", END, planted.read)):
        cells = [(token, at) for at in range(6) if layer in window_layers(at, window, 6)]
        np.testing.assert_allclose(share(trace, kind), grid(planted, cells), atol=1e-6)


def test_the_answer_of_another_subject_loses_what_the_fact_wins() -> None:
    planted = mlp_fact()
    trace = traced(planted, answer=FACTS[1].target, metric="logprob", kinds=("mlp",))
    assert not trace.knows
    assert float(trace.total_effect()) < -3
    np.testing.assert_allclose(share(trace, "mlp"), grid(planted, [(LAST, planted.write)]), atol=1e-6)


def test_what_the_model_predicts_is_the_planted_answer() -> None:
    planted = mlp_fact()
    asked = Fact(planted.fact.template, planted.fact.subject, " organ")
    predicted = traced(Planted(planted.model, asked, 2, 4), answer="predicted", kinds=("mlp",))
    assert predicted.settings["answer"] == planted.fact.target
    np.testing.assert_array_equal(
        predicted.data["mlp"].values, traced(planted, kinds=("mlp",)).data["mlp"].values
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_planted_place_is_found_in_every_number_format(dtype: torch.dtype) -> None:
    planted = mlp_fact(dtype=dtype)
    found = share(traced(planted, kinds=("mlp",)), "mlp")
    tolerance = 1e-12 if dtype == torch.float64 else 0.01
    np.testing.assert_allclose(found, grid(planted, [(LAST, planted.write)]), atol=tolerance)


def test_random_weights_around_a_fact_do_not_hide_it() -> None:
    planted = mlp_fact(tiny=0.001, norm="LN")
    found = share(traced(planted), "mlp")
    np.testing.assert_allclose(found, grid(planted, [(LAST, planted.write)]), atol=0.1)
    assert (np.delete(found.ravel(), found.argmax()) != 0).any()


@pytest.mark.parametrize("layer", [0, 3])
def test_the_planted_layer_is_suggested(layer: int) -> None:
    planted = mlp_fact(n_layers=8, write=layer, read=7)
    (found,) = suggest_layers(traced(planted, kinds=("mlp",)))
    assert (found.layer, found.share) == (layer, 1.0)
    assert found.effect == pytest.approx(found.interval[0]) == pytest.approx(found.interval[1])
    noisy = [
        causal_trace(planted.model, fact, kinds=("mlp",), sigma=0.3, samples=4, window=1) for fact in FACTS
    ]
    assert suggest_layers(noisy)[0].layer == layer
