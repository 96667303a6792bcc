"""Averages by role and layer suggestions, on traces written by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import xarray as xr

from mechstyle.errors import InputError, RangeError
from mechstyle.tracing import Trace, average_by_role, suggest_layers

ROLES = ("first subject token", "middle subject tokens", "middle subject tokens", "last subject token")
DIMS = ("sample", "token", "layer")


def written(
    effects: Mapping[str, Sequence[Sequence[float]]],
    *,
    roles: Sequence[str] = ROLES,
    samples: int = 4,
    jitter: float = 0.0,
    **settings: object,
) -> Trace:
    """A trace whose mean indirect effects [token][layer] are known."""
    wobble = jitter * (np.arange(samples) - (samples - 1) / 2)[:, None, None]
    corrupted = np.linspace(0.1, 0.3, samples)
    chosen = {"metric": "prob", "window": 2, "prepend_bos": False, **settings}
    first = np.array(next(iter(effects.values())))
    return Trace(
        xr.Dataset(
            {k: (DIMS, corrupted[:, None, None] + np.array(v)[None] + wobble) for k, v in effects.items()},
            coords={
                "sample": np.arange(samples),
                "token": np.arange(first.shape[0]),
                "layer": np.arange(first.shape[1]),
                "token_str": ("token", np.array(list("abcdefgh"[: first.shape[0]]), dtype=object)),
                "role": ("token", np.array(roles, dtype=object)),
                "clean": ((), 0.9),
                "corrupted": ("sample", corrupted),
            },
            attrs={"provenance": json.dumps({"fingerprint": "f", "settings": chosen})},
        )
    )


ONE = written({"mlp": [[0.1, 0.2], [0.3, 0.0], [0.5, 0.2], [0.2, 0.6]]})
TWO = written({"mlp": [[0.3, 0.0], [0.4, 0.8]]}, roles=("first subject token", "last subject token"))


def test_tokens_of_a_role_are_averaged_inside_a_fact_and_then_over_facts() -> None:
    table = average_by_role([ONE, TWO]).set_index(["role", "layer"])
    assert list(table.columns) == ["kind", "mean", "low", "high", "n_facts"]
    assert table["mean"][("first subject token", 0)] == pytest.approx((0.1 + 0.3) / 2)
    assert table["mean"][("middle subject tokens", 0)] == pytest.approx((0.3 + 0.5) / 2)
    assert table["n_facts"][("middle subject tokens", 0)] == 1
    assert table["mean"][("last subject token", 1)] == pytest.approx((0.6 + 0.8) / 2)
    assert table["n_facts"][("last subject token", 1)] == 2
    assert "bos" not in table.index.get_level_values("role")
    assert (table["low"] <= table["mean"] + 1e-12).all()
    assert (table["mean"] <= table["high"] + 1e-12).all()


def test_intervals_are_over_facts_and_belong_to_their_seed() -> None:
    table = average_by_role([ONE, TWO], seed=3).set_index(["role", "layer"])
    row = table.loc[("last subject token", 1)]
    assert (row["low"], row["high"]) == (pytest.approx(0.6), pytest.approx(0.8))
    assert average_by_role([ONE, TWO], seed=3).equals(average_by_role([ONE, TWO], seed=3))


def test_the_suggestion_is_the_peak_at_the_last_subject_token() -> None:
    best, second = suggest_layers([ONE, TWO], n=2)
    assert (best.layer, second.layer) == (1, 0)
    assert best.effect == pytest.approx(0.7)
    assert best.interval == (pytest.approx(0.6), pytest.approx(0.8))
    assert best.share == 1.0
    assert second.share == 0.0
    assert "Layer 1 has the largest mean indirect effect" in best.reason
    assert "over 2 facts" in best.reason
    assert "Hase et al. 2023" in best.caveat


def test_one_trace_is_resampled_over_its_draws() -> None:
    wobbly = written({"mlp": [[0.0, 0.0]] * 3 + [[0.2, 0.6]]}, samples=10, jitter=0.02)
    for traces in (wobbly, [wobbly]):
        (best,) = suggest_layers(traces)
        assert best.layer == 1
        assert best.interval[0] < 0.6 < best.interval[1]
        assert "over 10 noise draws of one fact" in best.reason


def test_an_effect_that_cannot_be_told_from_zero_is_said_to_be_so() -> None:
    flat = written({"mlp": [[0.0, 0.0]] * 3 + [[0.0, 0.001]]}, samples=10, jitter=0.1)
    assert "The interval holds 0" in suggest_layers(flat)[0].reason
    assert "The interval holds 0" not in suggest_layers(ONE)[0].reason


def test_traces_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(InputError, match="traces: expected at least one trace"):
        average_by_role([])
    with pytest.raises(InputError, match=r"trace 1 has window 3, the first one 2"):
        average_by_role([ONE, written({"mlp": [[0.0, 0.0]] * 4}, window=3)])
    with pytest.raises(InputError, match=r"trace 1 has kinds \('attn',\)"):
        average_by_role([ONE, written({"attn": [[0.0, 0.0]] * 4})])
    with pytest.raises(InputError, match="expected the kind 'mlp', got attn"):
        suggest_layers(written({"attn": [[0.0, 0.0]] * 4}))


@pytest.mark.parametrize("n", [0, 3])
def test_the_number_of_layers_is_checked(n: int) -> None:
    with pytest.raises(RangeError, match=f"n: expected 1 to 2, the number of layers, got {n}"):
        suggest_layers(ONE, n)
