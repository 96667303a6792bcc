"""Models of other depths and tokenizers on one grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from mechstyle.errors import InputError, RangeError
from mechstyle.tracing import Trace, average_by_role
from mechstyle.tracing.compare_models import compare_models
from tests.tracing.written import written

LAST = "last subject token"


def bump(
    n_layers: int, peak: float, *, n: int = 6, seed: int = 0, noise: float = 0.02, scale: float = 1.0
) -> list[Trace]:
    """Facts of one model whose effect at the last subject token peaks at a relative depth."""
    rng = np.random.default_rng(seed)
    depth = np.linspace(0, 1, n_layers)
    shape = scale * np.exp(-(((depth - peak) / 0.2) ** 2))
    traces = []
    for index in range(n):
        middle = index % 3  # prompts of several lengths
        roles = ["before subject", "first subject token", *["middle subject tokens"] * middle, LAST]
        rows = [np.zeros(n_layers), 0.2 * shape[::-1], *[0.1 * shape] * middle, shape]
        grid = np.stack(rows) + noise * rng.normal(size=(len(rows), n_layers))
        grid[0] = 0
        one = {"mlp": grid, "heads": np.repeat(grid[..., None], 2, axis=-1)}
        axes = {"heads": ("layer", "head")}
        traces.append(written(one, roles=roles, axes=axes, fingerprint=f"{n_layers} {peak}", window=n_layers))
    return traces


def test_peaks_at_one_relative_depth_are_found_in_models_of_other_depths() -> None:
    found = compare_models({"ten": bump(11, 0.3), "six": bump(6, 0.4), "late": bump(21, 0.8)})
    peaks = found.peaks[(found.peaks["kind"] == "mlp") & (found.peaks["role"] == LAST)].set_index("model")
    assert peaks["layer"].to_dict() == {"ten": 3, "six": 2, "late": 16}
    assert peaks["depth"].to_dict() == pytest.approx({"ten": 0.3, "six": 0.4, "late": 0.8})
    assert (peaks["low"] <= peaks["depth"]).all()
    assert (peaks["depth"] <= peaks["high"]).all()
    assert peaks["n_layers"].tolist() == [11, 6, 21]
    assert "before subject" not in set(found.peaks["role"])  # nothing can happen there
    # Equal peaks look alike, others do not.
    r = found.similarity[found.similarity["kind"] == "mlp"].set_index(["model", "other"])
    assert r["low"]["ten", "six"] > r["high"]["ten", "late"]
    assert r["r"]["ten", "six"] > 0.7


def test_a_model_is_the_same_as_itself_and_its_layers_are_points_of_the_grid() -> None:
    traces = bump(6, 0.4)
    found = compare_models({"one": traces, "two": traces}, points=6)
    assert found.similarity["r"].tolist() == pytest.approx([1.0, 1.0])
    assert (found.similarity["low"] > 0.9).all()
    curve = found.curves[(found.curves["model"] == "one") & (found.curves["kind"] == "mlp")]
    table = average_by_role(traces)
    expected = table[(table["kind"] == "mlp") & (table["role"] != "before subject")]
    for column in ("mean", "low", "high"):
        assert curve[column].tolist() == pytest.approx(expected[column].tolist())
    heads = found.curves[(found.curves["model"] == "one") & (found.curves["kind"] == "heads")]
    assert heads["mean"].tolist() == pytest.approx(curve["mean"].tolist())  # the mean of two equal ones
    assert set(curve[curve["role"] == "middle subject tokens"]["n_facts"]) == {4}


def test_between_layers_the_curve_is_a_straight_line() -> None:
    line = [written({"mlp": np.tile([1.0, 3.0], (4, 1))}, fingerprint="a") for _ in range(3)]
    deep = [written({"mlp": np.tile(np.linspace(1, 3, 5), (4, 1))}, fingerprint="b") for _ in range(3)]
    found = compare_models({"two layers": line, "five": deep}, points=9)
    for name in ("two layers", "five"):
        curve = found.curves[(found.curves["model"] == name) & (found.curves["role"] == LAST)]
        assert curve["mean"].tolist() == pytest.approx(np.linspace(1, 3, 9).tolist())
        assert curve["depth"].tolist() == pytest.approx(np.linspace(0, 1, 9).tolist())
    assert found.similarity["r"].tolist() == pytest.approx([1.0])


def test_shares_of_the_total_effect_do_not_depend_on_its_size() -> None:
    strong = [written({"mlp": np.full((4, 2), 0.35)}, clean=0.9, fingerprint="a") for _ in range(3)]
    weak = [written({"mlp": np.full((4, 3), 0.1)}, clean=0.4, fingerprint="b") for _ in range(3)]
    plain = compare_models({"strong": strong, "weak": weak}).curves.groupby("model")["mean"].mean()
    assert plain.to_dict() == pytest.approx({"strong": 0.35, "weak": 0.1})
    shares = (
        compare_models({"strong": strong, "weak": weak}, share=True).curves.groupby("model")["mean"].mean()
    )
    assert shares.to_dict() == pytest.approx({"strong": 0.5, "weak": 0.5})


def test_traces_may_come_one_by_one_and_a_seed_repeats_the_intervals() -> None:
    def once(traces: Sequence[Trace]) -> Iterator[Trace]:
        yield from traces

    sides = {"ten": bump(11, 0.3), "six": bump(6, 0.4)}
    found = compare_models({name: once(traces) for name, traces in sides.items()}, seed=3)
    again = compare_models(sides, seed=3)
    assert found.curves.equals(again.curves)
    assert found.peaks.equals(again.peaks)
    assert not found.curves.equals(compare_models(sides, seed=4).curves)


def test_neurons_of_one_layer_are_no_curve_over_layers() -> None:
    grid = np.ones((4, 3))
    sides = {
        name: [
            written({"mlp": grid, "key": grid}, axes={"key": ("neuron",)}, layer=2, fingerprint=name)
            for _ in range(2)
        ]
        for name in ("one", "two")
    }
    assert set(compare_models(sides).curves["kind"]) == {"mlp"}
    with pytest.raises(InputError, match="kinds: expected kinds that all models have layer by layer"):
        compare_models(sides, kinds=("key",))


def test_models_that_cannot_be_compared_are_refused() -> None:
    traces = bump(6, 0.4)
    with pytest.raises(InputError, match="models: expected traces of at least two models by name"):
        compare_models({"one": traces})
    nats = [written({"mlp": np.ones((4, 6))}, metric="logprob")] * 2
    with pytest.raises(InputError, match="'two' has traces with metric 'logprob', 'one' with 'prob'"):
        compare_models({"one": traces, "two": nats})
    attention = [written({"attn": np.ones((4, 6))})] * 2
    with pytest.raises(InputError, match="they have one: mlp, head; two: attn"):
        compare_models({"one": traces, "two": attention})
    with pytest.raises(InputError, match="trace 1 has fingerprint"):
        compare_models({"one": traces, "two": [traces[0], *nats]})
    for wrong in ({"points": 1}, {"resamples": 0}, {"level": 2}):
        with pytest.raises(RangeError, match=next(iter(wrong))):
            compare_models({"one": traces, "two": traces}, **wrong)  # type: ignore[arg-type]
