"""Comparisons are drawn as computed: order of the map, points, lines by model, and the Hase check."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import mechstyle as ms
from mechstyle.errors import InputError
from mechstyle.facts import Fact
from mechstyle.study.localisation import LocalisationCheck
from mechstyle.tracing.compare_models import ModelComparison, compare_models
from mechstyle.tracing.compare_prompts import PromptComparison
from tests.plot.planted import grid, planted_trace

N = 6


@pytest.fixture
def prompts() -> PromptComparison:
    rng = np.random.default_rng(0)
    apart = rng.random((N, N))
    near = (apart + apart.T) * (1 - np.eye(N))
    facts = tuple(Fact("{} is", f"<s{number}>", f" o{number}") for number in range(N))
    mantel = pd.DataFrame(
        {"r": [0.1, 0.62], "p": [0.4, 0.011], "permutations": 9, "n_pairs": 15},
        index=["relation", "<edit>"],
    )
    return PromptComparison(
        facts=facts,
        distances=near,
        prompts={"relation": 1 - np.eye(N), "<edit>": 2 * near},
        mantel=mantel,
        groups=pd.DataFrame(),
        order=(3, 1, 0, 2, 5, 4),
    )


def test_the_map_of_prompts_is_in_the_order_of_the_clusters(prompts: PromptComparison) -> None:
    figure = ms.plot.compare_prompts(prompts)
    clustered = figure.data[0]
    np.testing.assert_array_equal(clustered.z, prompts.distances[np.ix_(prompts.order, prompts.order)])
    assert list(figure.layout.yaxis.ticktext) == [f"&lt;s{number}&gt;" for number in prompts.order]
    assert clustered.customdata[0][1] == "&lt;s3&gt; is → o3<br>&lt;s1&gt; is → o1"


def test_the_scatter_shows_every_pair_and_the_test_of_the_distance(prompts: PromptComparison) -> None:
    figure = ms.plot.compare_prompts(prompts)
    _, points, means = figure.data
    pairs = prompts.pairs
    np.testing.assert_array_equal(points.x, pairs["<edit>"])
    np.testing.assert_array_equal(points.y, pairs["trace"])
    assert figure.layout.annotations[1].text == "&lt;edit&gt;: rank correlation 0.62, p = 0.011"
    assert points.customdata[0] == "&lt;s0&gt; is → o0<br>&lt;s1&gt; is → o1"
    np.testing.assert_allclose(np.array(means.x) / 2, means.y)  # traces lie at half of this distance
    assert list(means.x) == sorted(means.x)


def test_a_distance_of_two_values_has_a_mean_at_each(prompts: PromptComparison) -> None:
    figure = ms.plot.compare_prompts(prompts, distance="relation")
    assert figure.data[2].x == (1.0,)
    assert figure.data[2].y[0] == pytest.approx(prompts.pairs["trace"].mean())
    with pytest.raises(InputError, match="expected one of relation, <edit>, got 'length'"):
        ms.plot.compare_prompts(prompts, distance="length")


@pytest.fixture
def models() -> ModelComparison:
    def some(n_layers: int) -> list[ms.Trace]:
        return [planted_trace({"mlp": grid(4, n_layers, seed=seed)}) for seed in range(3)]

    return compare_models({"small <b>": some(3), "large": some(7)}, points=5, resamples=50)


def test_models_are_lines_over_relative_depth_with_their_bands(models: ModelComparison) -> None:
    figure = ms.plot.compare_models(models)
    assert [note.text for note in figure.layout.annotations] == [
        "MLP, last subject token",
        "MLP, last prompt token",
    ]
    lines = [curve for curve in figure.data if curve.name]
    assert [line.name for line in lines] == ["small &lt;b&gt;", "large"] * 2
    assert [line.showlegend for line in lines] == [True, True, False, False]
    curves = models.curves
    for line, (model, role) in zip(
        lines,
        [(m, r) for r in ("last subject token", "last prompt token") for m in ("small <b>", "large")],
        strict=True,
    ):
        rows = curves[(curves["model"] == model) & (curves["role"] == role)]
        np.testing.assert_array_equal(line.x, rows["depth"])
        np.testing.assert_array_equal(line.y, rows["mean"])
    assert lines[0].line.color == lines[2].line.color != lines[1].line.color


def test_models_of_one_draw_of_one_fact_are_lines_without_bands() -> None:
    one = planted_trace({"mlp": 2 * np.abs(grid(4, 3, seed=0)) + 1})
    one = ms.Trace(one.data.isel(sample=[0]))
    found = compare_models({"small": [one], "large": [one]}, points=5)
    low, high = ms.plot.compare_models(found, roles=None).layout.yaxis.range
    assert low < 0 < found.curves["mean"].max() < high


def test_the_axis_of_models_holds_every_band(models: ModelComparison) -> None:
    low, high = ms.plot.compare_models(models, roles=None).layout.yaxis.range
    assert low <= models.curves["low"].min()
    assert high >= models.curves["high"].max()
    with pytest.raises(InputError, match=r"nothing to draw with roles=\['bos'\].*first subject token"):
        ms.plot.compare_models(models, roles=["bos"])


@pytest.fixture
def check() -> LocalisationCheck:
    facts, layers = np.indices((4, 3))
    effect = grid(4, 3)
    columns = {"fact": facts, "layer": layers, "success": 1 - layers / 2, "effect_mlp": effect}
    frame = pd.DataFrame({name: values.ravel() for name, values in columns.items()})
    return LocalisationCheck(frame, 0, {})


def test_success_and_effect_stand_on_axes_of_their_own(check: LocalisationCheck) -> None:
    figure = ms.plot.localisation(check)
    lines = {curve.name: curve for curve in figure.data if curve.name}
    assert list(lines) == ["edit success", "effect of restoring: MLP"]
    success, effect = lines.values()
    assert list(success.y) == [1.0, 0.5, 0.0]
    np.testing.assert_allclose(effect.y, check.frame.groupby("layer")["effect_mlp"].mean())
    assert (success.yaxis, effect.yaxis) == ("y", "y2")
    points = figure.data[-1]
    np.testing.assert_array_equal(points.x, check.frame["effect_mlp"])
    np.testing.assert_array_equal(points.marker.color, check.frame["layer"])


def test_the_title_says_what_is_explained(check: LocalisationCheck) -> None:
    title = ms.plot.localisation(check).layout.title.text
    assert "explained by the layer 100.0%" in title
    assert "the trace adds 0.00% to the layer" in title
    with pytest.raises(InputError, match="expected one of mlp, got 'attn'"):
        ms.plot.localisation(check, kind="attn")


def test_all_figures_are_in_the_house_style(
    prompts: PromptComparison, models: ModelComparison, check: LocalisationCheck
) -> None:
    figures: list[go.Figure] = [
        ms.plot.compare_prompts(prompts),
        ms.plot.compare_models(models),
        ms.plot.localisation(check),
        ms.plot.trace(planted_trace({"mlp": grid(4, 3)})),
        ms.plot.facts([planted_trace({"mlp": grid(4, 3)})]),
        ms.plot.average_map([planted_trace({"mlp": grid(4, 3)})]),
    ]
    looks = {(figure.layout.font.family, figure.layout.plot_bgcolor) for figure in figures}
    assert len(looks) == 1
    assert all(figure.layout.height for figure in figures)  # a report reserves the room
