"""Averages by role, total effects and layer suggestions, on traces written by hand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from mechstyle.errors import InputError, RangeError
from mechstyle.tracing import Trace, average_by_role, suggest_layers
from mechstyle.tracing.aggregate import band, total_effects
from mechstyle.tracing.aligned import resampled_means
from tests.tracing.written import written

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


def test_facts_may_have_several_numbers_of_draws_and_each_has_one_vote() -> None:
    three = written({"mlp": [[0.0, 0.0]] * 3 + [[0.9, 0.0]]}, samples=11, jitter=0.01)
    table = average_by_role([ONE, TWO, three]).set_index(["role", "layer"])
    row = table.loc[("last subject token", 0)]
    assert row["mean"] == pytest.approx((0.2 + 0.4 + 0.9) / 3)
    assert row["low"] < row["mean"] < row["high"]
    one_draw = np.array([[1.0]])
    means = resampled_means([one_draw, np.array([[2.0], [4.0], [6.0]])], resamples=20_000, seed=0)[:, 0]
    assert means.mean() == pytest.approx(2.5, abs=0.05)
    # Half of the resamples have each fact once: then the second one's draws alone vary.
    assert means.var() == pytest.approx(1.5**2 / 2 + 0.5 * (8 / 3 / 3) / 4 + 0.25 * (8 / 3 / 3) / 2, rel=0.05)


def test_traces_are_read_once_and_not_kept() -> None:
    def once() -> Iterator[Trace]:
        yield from (ONE, TWO)

    assert average_by_role(once()).equals(average_by_role([ONE, TWO]))
    with pytest.raises(InputError, match="expected traces, got str at place 0"):
        average_by_role("ab")  # type: ignore[arg-type]


def test_further_axes_become_columns_and_token_sets_become_roles() -> None:
    heads = np.arange(12.0).reshape(2, 2, 3)  # token set, layer, head
    one = written(
        {"q": heads, "mlp": heads[..., 0], "key": heads[:, 1]},
        roles=("the subject", "last prompt token"),
        axes={"q": ("layer", "head"), "key": ("neuron",)},
        layer=7,
    )
    table = average_by_role([one, one])
    assert list(table.columns) == [
        "kind", "role", "layer", "head", "neuron", "mean", "low", "high", "n_facts",
    ]  # fmt: skip
    assert table["role"].unique().tolist() == ["last prompt token", "the subject"]
    head = table[table["kind"] == "q"].set_index(["role", "layer", "head"])["mean"]
    for token, role in enumerate(("the subject", "last prompt token")):
        for layer in range(2):
            for number in range(3):
                assert head[role, layer, number] == pytest.approx(heads[token, layer, number])
    neurons = table[table["kind"] == "key"]
    assert set(neurons["layer"]) == {7}
    assert neurons["head"].isna().all()
    by_neuron = neurons[neurons["role"] == "the subject"].set_index("neuron")["mean"]
    assert by_neuron.tolist() == pytest.approx(heads[0, 1].tolist())
    assert table[table["kind"] == "mlp"]["head"].isna().all()


def test_total_effects_are_averaged_over_facts() -> None:
    table = total_effects([ONE, written({"mlp": [[0.0, 0.0]] * 4}, clean=0.5)])
    assert table["mean"]["clean"] == pytest.approx(0.7)
    assert table["mean"]["corrupted"] == pytest.approx(0.2)
    assert table["mean"]["total effect"] == pytest.approx(0.5)
    assert (table["n_facts"] == 2).all()
    assert table["low"]["total effect"] < 0.5 < table["high"]["total effect"]
    assert total_effects([ONE], over="facts")[["low", "high"]].isna().all(axis=None)  # nothing to resample


ALONE = {"mlp": [[0.0, 0.0]] * 3 + [[0.2, 0.6]]}


def test_one_draw_of_one_fact_has_no_interval() -> None:
    single = written(ALONE, samples=1)
    (best,) = suggest_layers(single)
    assert (best.layer, best.effect) == (1, pytest.approx(0.6))
    assert np.isnan([*best.interval, best.share]).all()
    assert best.reason.endswith(
        "at the last subject token: 0.6; one draw of one fact has no interval, so that this may be chance."
    )
    for traces, over in (([single], "facts and draws"), ([ONE], "facts")):
        table = average_by_role(traces, over=over)  # type: ignore[arg-type]
        assert table["mean"].notna().all()
        assert table[["low", "high"]].isna().all(axis=None)
    # Also of a role that one of several facts has, but not of roles that two have.
    table = average_by_role([ONE, TWO], over="facts").set_index("role")
    assert table.loc["middle subject tokens", ["low", "high"]].isna().all(axis=None)
    assert table.loc["last subject token", ["low", "high"]].notna().all(axis=None)


def test_in_noising_the_layer_that_loses_most_is_suggested() -> None:
    # The metric of a run is 0.1 + its value here, and the clean one 0.9: effects are value - 0.8.
    lost = {"mlp": [[0.8, 0.8]] * 3 + [[0.2, 0.85]]}
    (best,) = suggest_layers([written(lost, samples=1, direction="noising")] * 2)
    assert (best.layer, best.effect) == (0, pytest.approx(0.6))
    assert best.interval == (pytest.approx(0.6), pytest.approx(0.6))
    assert "the largest mean loss from noising the MLP" in best.reason
    (best,) = suggest_layers([written(lost, samples=1)] * 2)
    assert best.layer == 1


def test_intervals_cover_a_known_truth_as_often_as_they_say() -> None:
    # Facts differ by 1, draws by 2: half of a fact's variance is the noise of its four draws.
    rng = np.random.default_rng(0)
    runs, facts, draws, level = 300, 25, 4, 0.9
    values = rng.normal(size=(runs, facts, 1)) + 2 * rng.normal(size=(runs, facts, draws))
    covered = {"facts": 0, "facts and draws": 0}
    for run in range(runs):
        given = values[run][..., None]
        for over, data in (("facts", given.mean(1, keepdims=True)), ("facts and draws", given)):
            low, high = band(resampled_means(list(data), resamples=200, seed=run), level)
            covered[over] += bool(low[0] <= 0 <= high[0])
    # Within three standard errors (0.017 each); percentile intervals of 25 facts are a little short.
    assert 0.83 < covered["facts"] / runs < 0.94
    # The noise of draws is counted twice there: never less, and here 0.96 is due.
    assert 0.92 < covered["facts and draws"] / runs < 0.995


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"over": "draws"}, "over: expected 'facts and draws' or 'facts', got 'draws'"),
        ({"level": 1.0}, "level: expected a share between 0 and 1"),
        ({"resamples": 0}, "resamples: expected a whole number of at least 1, got 0"),
    ],
)
def test_wrong_options_are_named(wrong: dict[str, object], message: str) -> None:
    for function in (average_by_role, total_effects):
        with pytest.raises((InputError, RangeError), match=message):
            function([ONE], **wrong)  # type: ignore[operator]


def test_a_layer_is_suggested_at_the_last_subject_token_only() -> None:
    with pytest.raises(InputError, match="expected the role 'last subject token'"):
        suggest_layers([written({"mlp": [[0.1, 0.2]]}, roles=("the subject",))])


@pytest.mark.parametrize("n", [0, 3])
def test_the_number_of_layers_is_checked(n: int) -> None:
    with pytest.raises(RangeError, match=f"n: expected 1 to 2, the number of layers, got {n}"):
        suggest_layers(ONE, n)
