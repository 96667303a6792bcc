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
    assert found.similarity["high"].tolist() == pytest.approx([1.0, 1.0])
    assert (found.similarity["low"] > 0.9).all()
    curve = found.curves[(found.curves["model"] == "one") & (found.curves["kind"] == "mlp")]
    table = average_by_role(traces)
    expected = table[(table["kind"] == "mlp") & (table["role"] != "before subject")]
    assert curve["mean"].tolist() == pytest.approx(expected["mean"].tolist())
    # All roles are of the same resamples; where every fact has the role, those are of average_by_role too.
    some = (expected["n_facts"] == len(traces)).to_numpy()
    for column in ("low", "high"):
        assert curve[column][some].tolist() == pytest.approx(expected[column][some].tolist())
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
    with pytest.raises(InputError, match="they have one: mlp, heads; two: attn"):
        compare_models({"one": traces, "two": attention})
    with pytest.raises(InputError, match="trace 1 has fingerprint"):
        compare_models({"one": traces, "two": [traces[0], *nats]})
    for wrong in ({"points": 1}, {"resamples": 0}, {"level": 2}):
        with pytest.raises(RangeError, match=next(iter(wrong))):
            compare_models({"one": traces, "two": traces}, **wrong)  # type: ignore[arg-type]


def test_roles_that_some_facts_lack_are_resampled_with_the_others() -> None:
    # Facts 0 and 2 have both roles with equal effects, fact 1 lacks the role and has none: wherever it was
    # picked, the mean at the last token is below that of the role, never above.
    one = [
        written({"mlp": np.full((2, 2), size)}, roles=roles, samples=1, fingerprint="a")
        for size, roles in (
            (1.0, ("middle subject tokens", LAST)),
            (0.0, ("before subject", LAST)),
            (1.0, ("middle subject tokens", LAST)),
        )
    ]
    curves = compare_models({"one": one, "two": one}).curves.query("model == 'one'").set_index("role")
    for column in ("low", "mean", "high"):
        assert curves.loc["middle subject tokens", column].tolist() == pytest.approx([1.0] * 21)
    assert curves.loc[LAST, "mean"].tolist() == pytest.approx([2 / 3] * 21)


def test_in_noising_peaks_are_the_largest_losses() -> None:
    effects = {"mlp": [[0.8, 0.8, 0.8]] * 3 + [[0.8, 0.2, 0.85]]}  # minus 0.8: of one run from the clean one
    traces = [written(effects, samples=1, direction="noising")] * 2
    found = compare_models({"one": traces, "two": traces}, points=3)
    peak = found.peaks[found.peaks["role"] == LAST].iloc[0]
    assert (peak["layer"], peak["low"], peak["high"]) == (1, 0.5, 0.5)
    assert peak["effect"] == pytest.approx(0.6)
    curve = found.curves[found.curves["role"] == LAST].iloc[:3]
    assert curve["mean"].tolist() == pytest.approx([0.0, -0.6, 0.05])


def test_one_draw_of_one_fact_has_no_intervals() -> None:
    traces = [written({"mlp": [[0.0, 0.1, 0.0]] * 4}, samples=1)]
    found = compare_models({"one": traces, "two": traces}, share=True)
    for table in (found.curves, found.peaks, found.similarity):
        assert table[["low", "high"]].isna().all(axis=None)
    assert found.peaks["layer"].tolist() == [1] * len(found.peaks)
    assert found.similarity["r"].tolist() == pytest.approx([1.0])


def test_all_roles_are_shares_of_one_total_effect() -> None:
    roles = ("middle subject tokens", LAST)
    traces = [
        written({"mlp": np.full((2, 2), 0.2)}, roles=roles, clean=0.6),  # total effect 0.4
        written({"mlp": np.full((1, 2), 0.2)}, roles=(LAST,), clean=1.4),  # 1.2
    ]
    found = compare_models({"one": traces, "two": traces}, share=True).curves
    assert found["mean"].tolist() == pytest.approx([0.25] * len(found))  # of 0.8, also where one fact is


def test_shares_of_no_total_effect_are_refused_by_the_name_of_the_model() -> None:
    some, none = ([written({"mlp": np.full((4, 2), 0.1)}, clean=clean)] * 2 for clean in (0.9, 0.2))
    with pytest.raises(
        InputError, match=r"share: the average total effect of 'none' is .* \(prob\), about 0"
    ):
        compare_models({"some": some, "none": none}, share=True)
    assert len(compare_models({"some": some, "none": none}).peaks)
