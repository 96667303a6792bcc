"""The trace of facts that a trained model knows."""

from __future__ import annotations

import pytest
from transformer_lens import HookedTransformer

from mechstyle import organisms
from mechstyle.tracing import average_by_role, causal_trace, suggest_layers


def test_a_known_fact_is_destroyed_by_noise_and_restored_by_the_last_state(
    organism: HookedTransformer,
) -> None:
    facts = [request.fact for request in organisms.requests("organism-m", n=2, seed=0, invented=False)]
    traces = [causal_trace(organism, fact, kinds=("resid", "mlp"), samples=3) for fact in facts]
    for trace in traces:
        assert trace.settings["noise"]["sigma_source"] == "200 packaged reference subjects"
        if len(trace.settings["answer_tokens"]) == 1:
            assert trace.data["resid"].isel(token=-1, layer=-1).values == pytest.approx(trace.clean, rel=1e-4)
    assert all(trace.knows and float(trace.total_effect()) > 0.3 for trace in traces)
    assert set(average_by_role(traces)["kind"]) == {"resid", "mlp"}
    assert suggest_layers(traces)[0].layer in range(organism.cfg.n_layers)
