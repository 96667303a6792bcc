"""What a plan refuses, what a trace of any kind says of itself, and what must hold for any model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from transformer_lens import HookedTransformer

from mechstyle.errors import FileError, InputError, ModelError, RangeError
from mechstyle.facts import Fact
from mechstyle.tracing import Trace, causal_trace
from mechstyle.tracing.kinds import KINDS
from mechstyle.tracing.plan import plan_cells
from mechstyle.tracing.run_cells import run_cells
from mechstyle.tracing.setup import prepare_fact
from mechstyle.tracing.targets import Contrast
from tests.tracing.cells import CASES, traced

FACT = Fact("The {} plays the", "Miles Davis", " trumpet")
EVERY = tuple(KINDS)
Models = Callable[..., HookedTransformer]


@pytest.fixture(scope="module")
def model(_loaded_tiny: HookedTransformer) -> HookedTransformer:
    return _loaded_tiny


@pytest.fixture(scope="module")
def trace(model: HookedTransformer) -> Trace:
    return causal_trace(model, FACT, kinds=EVERY, neuron_layer=2, samples=2, prepend_bos=True)


def test_every_kind_has_its_axes(trace: Trace) -> None:
    heads = ("sample", "token", "layer", "head")
    groups = ("sample", "token", "layer", "kv_head")
    wanted = {
        **dict.fromkeys(("resid", "mlp", "attn", "severed_mlp", "severed_attn"), heads[:3]),
        **dict.fromkeys(("heads", "q", "pattern"), heads), "k": groups, "v": groups,
        "neurons": ("sample", "token", "neuron"),
    }  # fmt: skip
    assert {kind: trace.data[kind].dims for kind in trace.kinds} == wanted
    assert trace.data.sizes["head"] == trace.data.sizes["kv_head"] == 4
    assert trace.data.sizes["neuron"] == 128
    assert trace.data["neurons"].attrs["layer"] == trace.settings["neuron_layer"] == 2


@pytest.mark.parametrize("kind", EVERY)
def test_effects_and_intervals_have_the_axes_of_the_kind(trace: Trace, kind: str) -> None:
    effect, (low, high) = trace.indirect_effect(kind), trace.interval(kind)
    assert effect.dims == low.dims == high.dims == trace.data[kind].dims[1:]
    assert bool(((low <= effect + 1e-12) & (effect <= high + 1e-12)).all())
    start = trace.token("first subject token")
    assert (effect.values[:start] == 0).all()
    assert (effect.values[start:] != 0).any()


def test_a_loaded_trace_of_every_kind_equals_the_saved_one(trace: Trace, tmp_path: Path) -> None:
    trace.save(tmp_path / "trace.nc")
    assert Trace.load(tmp_path / "trace.nc") == trace
    Trace(trace.data.rename(head="expert")).save(tmp_path / "other.nc")
    with pytest.raises(FileError, match="not a trace of mechstyle"):
        Trace.load(tmp_path / "other.nc")


def test_the_layer_of_neurons_is_part_of_the_checksum(trace: Trace, tmp_path: Path) -> None:
    trace.save(tmp_path / "trace.nc")
    stored = xr.load_dataset(tmp_path / "trace.nc", engine="h5netcdf")
    stored["neurons"].attrs["layer"] = 1
    stored.to_netcdf(tmp_path / "changed.nc", engine="h5netcdf")
    with pytest.raises(FileError, match="was changed after it was saved"):
        Trace.load(tmp_path / "changed.nc")


def test_effects_of_noising_are_differences_from_the_clean_run(architectures: Models) -> None:
    trace = traced(architectures("gpt2"), CASES[1], kinds=("resid", "heads"))
    for kind in trace.kinds:
        expected = trace.data[kind].values - trace.clean
        np.testing.assert_allclose(trace.indirect_effect(kind, reduce=None).values, expected, atol=1e-12)
    np.testing.assert_allclose(
        trace.total_effect(reduce=None).values, trace.clean - trace.corrupted.values, atol=1e-12
    )


def test_the_whole_residual_of_the_last_layer_carries_one_side_to_the_other(model: HookedTransformer) -> None:
    """For an answer of one token; in both directions."""
    setup = prepare_fact(model, FACT, samples=2)
    for direction in ("denoising", "noising"):
        trace = run_cells(model, setup, plan_cells(model, ("resid",), direction=direction))
        wanted = np.full(2, trace.clean) if direction == "denoising" else trace.corrupted.values
        np.testing.assert_allclose(trace.data["resid"].isel(token=-1, layer=-1).values, wanted, rtol=1e-5)


def test_all_tokens_of_the_first_layer_together_carry_one_side_to_the_other(model: HookedTransformer) -> None:
    trace = causal_trace(model, FACT, kinds=("resid",), samples=2, tokens={"all": range(5), "one": [1]})
    assert list(trace.data["token_str"].values) == list(trace.data["role"].values) == ["all", "one"]
    np.testing.assert_allclose(trace.data["resid"].sel(token=0).values, trace.clean, rtol=1e-5)
    assert (np.abs(trace.data["resid"].sel(token=1, layer=0).values - trace.clean) > 1e-6).all()
    assert trace.settings["tokens"] == {"all": [0, 1, 2, 3, 4], "one": [1]}


def test_a_set_of_one_token_is_that_token(model: HookedTransformer, trace: Trace) -> None:
    sets = {"last": "last subject token", "first": "bos", "by number": [2]}
    named = causal_trace(model, FACT, kinds=EVERY, neuron_layer=2, samples=2, prepend_bos=True, tokens=sets)
    last = trace.token("last subject token")
    for kind in EVERY:
        for place, token in enumerate((last, 0, 2)):
            np.testing.assert_allclose(
                named.data[kind].values[:, place], trace.data[kind].values[:, token], atol=1e-6
            )


def test_severing_what_comes_after_changes_nothing_in_the_last_layer(trace: Trace) -> None:
    for held in ("severed_mlp", "severed_attn"):
        plain, severed = trace.data["resid"].values, trace.data[held].values
        np.testing.assert_array_equal(severed[..., -1], plain[..., -1])
        assert (np.abs(severed - plain)[:, 2:, :-1] > 0).any()


def test_a_contrast_is_the_difference_of_its_two_traces(model: HookedTransformer) -> None:
    how: dict[str, Any] = {"kinds": ("resid", "heads"), "samples": 2, "metric": "logprob"}
    both = causal_trace(model, FACT, answer=Contrast(" trumpet too", " piano"), **how)
    one, other = (causal_trace(model, FACT, answer=text, **how) for text in (" trumpet too", " piano"))
    assert both.clean == pytest.approx(one.clean - other.clean, abs=1e-5)
    expected = one.corrupted.values - other.corrupted.values
    np.testing.assert_allclose(both.corrupted.values, expected, atol=1e-5)
    for kind in both.kinds:
        expected = one.data[kind].values - other.data[kind].values
        np.testing.assert_allclose(both.data[kind].values, expected, atol=1e-4)


def test_kl_to_the_clean_run_is_nothing_where_it_is_restored(model: HookedTransformer) -> None:
    trace = causal_trace(model, FACT, kinds=("resid",), samples=2, metric="neg_kl")
    assert trace.clean == pytest.approx(0, abs=1e-6)
    assert (trace.corrupted.values < 0).all()
    np.testing.assert_allclose(trace.data["resid"].isel(token=-1, layer=-1).values, 0, atol=1e-6)


@pytest.mark.parametrize(("engine", "batch_size"), [("resume", 1), ("resume", 7), ("whole", 3)])
def test_any_batch_size_gives_the_same_cells_of_every_kind(
    architectures: Models, engine: Any, batch_size: int
) -> None:
    model, kinds = architectures("llama-gqa"), ("severed_mlp", "heads", "k")
    case = CASES[4]
    wanted = traced(model, case, kinds=kinds, engine=engine)
    found = traced(model, case, kinds=kinds, engine=engine, batch_size=batch_size)
    for kind in kinds:
        np.testing.assert_allclose(found.data[kind].values, wanted.data[kind].values, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kinds": ("head",)}, InputError, "kinds: expected one or more .* heads, severed_mlp, .*'head'"),
        ({"kinds": ("heads", "heads")}, InputError, "kinds: expected one or more different ones"),
        ({"kinds": ("neurons",)}, InputError, "neuron_layer: expected the layer .* from 0 to 2, .* got None"),
        ({"neuron_layer": 1}, InputError, "neuron_layer: expected None without the kind 'neurons', got 1"),
        ({"kinds": ("neurons",), "neuron_layer": 3}, RangeError, "neuron_layer must be an integer from 0"),
        ({"tokens": {}}, InputError, "tokens: expected a dict of names"),
        ({"tokens": [1, 2]}, InputError, "tokens: expected a dict of names"),
        ({"tokens": {"": [1]}}, InputError, "tokens: expected texts as names"),
        ({"tokens": {"a": []}}, InputError, "tokens: 'a' expected one or more different token indices"),
        ({"tokens": {"a": [1, 1]}}, InputError, "tokens: 'a' expected one or more different"),
        ({"tokens": {"a": 1}}, InputError, "tokens: 'a' expected one or more .* or a role"),
        ({"tokens": {"a": [0, 5]}}, RangeError, r"tokens: 'a' expected indices from 0 to 4, .* got \[0, 5\]"),
        ({"tokens": {"a": "verb"}}, InputError, "tokens: 'a' expected a role of this prompt .* got 'verb'"),
    ],
)
def test_bad_plans_are_named(
    model: HookedTransformer, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        causal_trace(model, FACT, **{"kinds": ("resid",), "samples": 1, **options})


def test_bad_directions_and_models_are_refused_before_any_work(model: HookedTransformer) -> None:
    with pytest.raises(InputError, match="direction: expected 'denoising' or 'noising', got 'both'"):
        plan_cells(model, ("resid",), direction="both")  # type: ignore[arg-type]
    with pytest.raises(ModelError):
        plan_cells("gpt2", ("resid",))  # type: ignore[arg-type]
