"""Facts that cannot be traced as asked: they are left out with a reason, and wrong options are errors."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from mechstyle import organisms
from mechstyle.errors import InputError, ModelError, RangeError
from mechstyle.facts import Fact
from mechstyle.tracing import Trace, causal_trace
from mechstyle.tracing.trace_facts import trace_facts
from mechstyle.tracing.trace_set import TraceSet
from tests.tracing.written import written


@pytest.fixture(scope="module")
def known() -> list[Fact]:
    """Facts that the organism knows: real ones, which version 2 recalls better than invented ones."""
    return [request.fact for request in organisms.requests("organism-m", n=3, seed=0, invented=False)]


def test_facts_without_the_tokens_of_a_set_are_left_out_before_anything_is_traced(
    tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    facts = [Fact("{} plays the", name, " trumpet") for name in ("Miles Davis", "Miles Davis Quintet", "Jo")]
    tracer = partial(causal_trace, kinds=("resid",), samples=1)
    for tokens, left in (({"mid": "middle subject tokens"}, facts[1:2]), ({"far": [7]}, facts[1:2])):
        found = trace_facts(
            tiny_model,
            facts,
            tracer=partial(tracer, tokens=tokens),
            skip_unknown=False,
            folder=tmp_path / next(iter(tokens)),
        )
        assert found.facts == tuple(left)
    assert found.skipped["reason"].tolist() == ["has no such tokens"] * 2
    assert found.skipped["detail"].str.startswith("tokens: 'far' expected indices from 0 to").all()
    for wrong, message in (
        ({"far": [99]}, "3 has no such tokens.*got .99"),
        ({}, "expected a dict of names"),
    ):
        with pytest.raises(InputError, match=f"(?s)none of the 3 can be traced: .*{message}"):
            trace_facts(
                tiny_model,
                facts,
                tracer=partial(tracer, tokens=wrong),
                skip_unknown=False,
                folder=tmp_path / "no",
            )
        assert not list((tmp_path / "no").iterdir())


@pytest.mark.parametrize("place", [0, 1])
def test_a_fact_whose_metric_is_not_finite_is_left_out_with_its_reason(
    tiny_model: HookedTransformer, tmp_path: Path, place: int
) -> None:
    facts = [Fact("{} plays the", name, " trumpet") for name in ("Miles Davis", "Chet Baker", "Roy Hargrove")]
    bad = causal_trace(tiny_model, facts[place], kinds=("resid",), samples=1, metric=first_logit).clean

    def metric(logits: Tensor) -> Tensor:
        found = logits[:, 0, 0]
        return torch.where((found - bad).abs() < 1e-6, float("nan"), found)

    tracer = partial(causal_trace, kinds=("resid",), samples=1, metric=metric)
    found = trace_facts(tiny_model, facts, tracer=tracer, skip_unknown=False, folder=tmp_path)
    assert found.facts == tuple(fact for fact in facts if fact != facts[place])
    assert found.skipped[["subject", "reason"]].to_numpy().tolist() == [[facts[place].subject, "not finite"]]
    assert "metric of a clean run is NaN" in found.skipped["detail"][0]
    assert TraceSet.load(tmp_path).skipped.equals(found.skipped)
    with pytest.raises(InputError, match="none of the 1 can be traced: 1 not finite"):
        trace_facts(tiny_model, facts[place : place + 1], tracer=tracer, skip_unknown=False)


def quick(fact: Fact) -> Trace:
    return written({"mlp": [[0.0]] * 4}, fact=fact)


def first_logit(logits: Tensor) -> Tensor:
    return logits[:, 0, 0]


def test_what_a_tracer_refuses_is_raised_at_once_unless_it_has_traced_another_fact(
    organism: HookedTransformer, known: list[Fact]
) -> None:
    asked: list[Fact] = []

    def picky(model: HookedTransformer, fact: Fact) -> Trace:
        asked.append(fact)
        if fact == known[1]:
            raise RangeError("window: expected another one.")
        return quick(fact)

    found = trace_facts(organism, known[:3], tracer=picky)
    assert found.facts == (known[0], known[2])
    assert found.skipped["reason"].tolist() == ["cannot be traced"]
    asked.clear()
    with pytest.raises(RangeError, match="window: expected another one"):
        trace_facts(organism, known[1:3], tracer=picky)
    assert asked == known[1:2]

    def broken(model: HookedTransformer, fact: Fact) -> Trace:
        if fact == known[1]:
            raise ModelError("model: it is broken.")
        return quick(fact)

    with pytest.raises(ModelError, match="it is broken"):
        trace_facts(organism, known[:3], tracer=broken)
