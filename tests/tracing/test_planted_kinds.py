"""Heads, paths, neurons, queries, keys, values and token sets, where the truth is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mechstyle.tracing import Trace, causal_trace
from tests.planted import (
    HEAD,
    NEURON,
    OTHER_HEAD,
    Planted,
    attention_fact,
    both_tokens,
    cancelling,
    direct_fact,
    key_hop,
    mlp_fact,
    query_hop,
)

Cell = tuple[int, ...]
FORMS: Mapping[str, dict[str, Any]] = {
    "bare": {},
    "grouped": {"grouped": True},
    "layer norm": {"norm": "LN"},
    "root mean square, grouped": {"norm": "RMS", "grouped": True},
}
FIRST, LAST, NEXT, END = range(4)
"""Tokens of "Miles Davis plays the"."""
KINDS = ("resid", "severed_mlp", "severed_attn", "heads", "q", "k", "v", "pattern")


def traced(planted: Planted, **settings: Any) -> Trace:
    """The planted fact without its subject."""
    noise = cancelling(planted, planted.fact)
    return causal_trace(
        planted.model, planted.fact, **{"noise": noise, "window": 1, "kinds": KINDS, **settings}
    )


def share(trace: Trace, kind: str) -> NDArray[np.float64]:
    """The indirect effect as a share of the total."""
    found: NDArray[np.float64] = trace.indirect_effect(kind).values / float(trace.total_effect())
    return found


def only(trace: Trace, truth: Mapping[str, Iterable[Cell]], *, tolerance: float) -> None:
    """Every kind of the trace recovers everything in these cells and nothing in all others."""
    assert set(truth) == set(trace.kinds)
    for kind, cells in truth.items():
        found = share(trace, kind)
        expected = np.zeros_like(found)
        for cell in cells:
            expected[cell] = 1
        np.testing.assert_allclose(found, expected, atol=tolerance, err_msg=kind)


def kv(head: int, form: Mapping[str, object]) -> int:
    """The key-value head of a head."""
    return head // 2 if "grouped" in form else head


def loose(form: Mapping[str, object]) -> float:
    """How far a share may be off: a norm lets everything change everything a little."""
    return 0.02 if "norm" in form else 1e-5


@pytest.mark.parametrize("engine", ["resume", "whole"])
@pytest.mark.parametrize("form", FORMS)
def test_a_fact_in_one_mlp_runs_over_its_value_and_one_head(form: str, engine: str) -> None:
    planted = mlp_fact(**FORMS[form])
    write, read = planted.write, planted.read
    whole = [*((LAST, layer) for layer in range(read)), *((END, layer) for layer in range(read, 6))]
    truth = {
        "resid": whole,
        # Below the MLP the subject's state needs it; above, nothing more.
        "severed_mlp": [(token, layer) for token, layer in whole if token == END or layer >= write],
        "severed_attn": whole,
        "heads": [(END, read, HEAD)],
        "q": [],
        "k": [],
        "v": [(LAST, read, kv(HEAD, FORMS[form]))],
        "pattern": [],
    }
    only(traced(planted, engine=engine), truth, tolerance=loose(FORMS[form]))


@pytest.mark.parametrize("form", FORMS)
def test_a_fact_in_two_heads_is_cut_by_severing_attention_and_not_by_severing_mlps(form: str) -> None:
    planted = attention_fact(**FORMS[form])
    write, read = planted.write, planted.read
    whole = [*((LAST, layer) for layer in range(read)), *((END, layer) for layer in range(read, 6))]
    truth = {
        "resid": whole,
        "severed_mlp": whole,
        "severed_attn": [(token, layer) for token, layer in whole if token == END or layer >= write],
        "heads": [(LAST, write, HEAD), (END, read, HEAD)],
        "q": [],
        "k": [],
        "v": [(LAST, layer, kv(HEAD, FORMS[form])) for layer in (write, read)],
        "pattern": [],
    }
    only(traced(planted), truth, tolerance=loose(FORMS[form]))


def test_a_head_that_reads_the_subject_itself_is_cut_by_nothing_at_the_subject() -> None:
    planted = direct_fact()
    read = planted.read
    whole = [*((LAST, layer) for layer in range(read)), *((END, layer) for layer in range(read, 4))]
    truth: dict[str, Any] = dict.fromkeys(("resid", "severed_mlp", "severed_attn"), whole)
    truth |= {"heads": [(END, read, HEAD)], "v": [(LAST, read, HEAD)], "q": [], "k": [], "pattern": []}
    only(traced(planted), truth, tolerance=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_a_name_that_becomes_a_query_is_found_in_the_query_and_the_pattern(form: str) -> None:
    planted = query_hop(**FORMS[form])
    write, read, last, end = planted.write, planted.read, 5, 7
    whole = [(last, 0), *((end, layer) for layer in range(write, 4))]
    truth = {
        "resid": whole,
        "severed_mlp": whole,
        # At the last token the reading head itself is cut off, until it has read.
        "severed_attn": [(last, 0), (end, read)],
        "heads": [(end, write, OTHER_HEAD), (end, read, HEAD)],
        "q": [(end, read, HEAD)],
        "k": [],
        "v": [(last, write, kv(OTHER_HEAD, FORMS[form]))],
        "pattern": [(end, read, HEAD)],
    }
    only(traced(planted), truth, tolerance=loose(FORMS[form]))


@pytest.mark.parametrize("form", FORMS)
def test_a_name_that_becomes_a_key_is_found_in_the_key_and_the_pattern(form: str) -> None:
    planted = key_hop(**FORMS[form])
    write, read, last, colour, end = planted.write, planted.read, 2, 3, 5
    whole = [(last, 0), *((colour, layer) for layer in range(write, read)), (end, read)]
    truth = {
        "resid": whole,
        "severed_mlp": whole,
        "severed_attn": whole,
        "heads": [(colour, write, OTHER_HEAD), (end, read, HEAD)],
        "q": [],
        "k": [(colour, read, kv(HEAD, FORMS[form]))],
        "v": [(last, write, kv(OTHER_HEAD, FORMS[form]))],
        "pattern": [(end, read, HEAD)],
    }
    only(traced(planted), truth, tolerance=loose(FORMS[form]))


@pytest.mark.parametrize("form", FORMS)
def test_one_neuron_carries_the_fact(form: str) -> None:
    planted = mlp_fact(**FORMS[form])
    for layer in (planted.write, planted.write + 1):
        trace = traced(planted, kinds=("neurons",), neuron_layer=layer)
        truth = [(LAST, NEURON)] if layer == planted.write else []
        only(trace, {"neurons": truth}, tolerance=loose(FORMS[form]))


@pytest.mark.parametrize("engine", ["resume", "whole"])
@pytest.mark.parametrize("form", FORMS)
def test_of_two_needed_tokens_only_both_together_recover_the_fact(form: str, engine: str) -> None:
    planted = both_tokens(**FORMS[form])
    write, read = planted.write, planted.read
    sets = {
        "first": [FIRST], "last": "last subject token", "both": [FIRST, LAST],
        "not the last": [FIRST, NEXT, END], "end": "last prompt token",
    }  # fmt: skip
    kinds = ("resid", "mlp", "attn", "heads", "v")
    trace = traced(planted, kinds=kinds, tokens=sets, engine=engine)
    both, end = [2], [3, 4]
    truth = {
        # The heads read the names as they leave the layer below.
        "resid": [*((at, layer) for at in both for layer in range(write)),
                  *((at, layer) for at in end for layer in range(write, 4))],
        "mlp": [(at, read) for at in end],
        "attn": [(at, write) for at in end],
        # Each head brings one of the two names.
        "heads": [],
        "v": [],
    }  # fmt: skip
    only(trace, truth, tolerance=loose(FORMS[form]))
    assert trace.data["token_str"].values.tolist() == list(sets)


@pytest.mark.parametrize("make", [mlp_fact, key_hop])
def test_hooks_of_a_user_that_change_nothing_change_no_cell(make: Callable[..., Planted]) -> None:
    planted = make()
    bare = traced(planted)
    planted.model.add_hook("blocks.1.hook_resid_post", lambda state, hook: state)
    hooked = traced(planted)
    assert (bare.settings["engine"], hooked.settings["engine"]) == ("resume", "whole")
    for kind in KINDS:
        np.testing.assert_allclose(hooked.data[kind].values, bare.data[kind].values, atol=1e-6)
