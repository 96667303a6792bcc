"""Figures carry the numbers they were given, and no text of a token becomes markup."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from transformer_lens import HookedTransformer

import mechstyle as ms
from mechstyle.errors import InputError
from mechstyle.evaluation.scores import evaluate
from mechstyle.facts import EditRequest, Fact
from mechstyle.plot.style import token_label, zero_white
from mechstyle.tracing.causal_trace import causal_trace
from mechstyle.tracing.trace import Trace

FACT = Fact("{} plays the", "Miles Davis", " trumpet")


@pytest.fixture
def trace(tiny_model: HookedTransformer) -> Trace:
    return causal_trace(tiny_model, FACT, samples=3)


def test_a_heat_map_shows_the_mean_indirect_effect_of_every_cell(trace: Trace) -> None:
    figure = ms.plot.trace(trace)
    assert len(figure.data) == len(trace.kinds)
    for panel, kind in zip(figure.data, trace.kinds, strict=True):
        np.testing.assert_array_equal(panel.z, trace.indirect_effect(kind).values)
        low, high = trace.interval(kind)
        np.testing.assert_array_equal(panel.customdata, np.stack([low.values, high.values], axis=-1))


def test_one_draw_is_shown_without_intervals(trace: Trace) -> None:
    for panel in ms.plot.trace(Trace(trace.data.isel(sample=[0]))).data:
        assert panel.customdata is None
        assert "customdata" not in panel.hovertemplate


def test_subject_tokens_are_bold_and_others_are_not(trace: Trace) -> None:
    labels = ms.plot.trace(trace).layout.yaxis.ticktext
    roles = [str(role) for role in trace.data["role"].values]
    for label, role in zip(labels, roles, strict=True):
        assert label.startswith("<b>") == ("subject token" in role)


def test_zero_is_white_and_both_sides_of_it_are_equally_strong() -> None:
    scale = dict(zero_white(-1.0, 3.0, (0, 0, 0)))
    assert scale[0.25] == "rgb(255,255,255)"
    assert scale[1.0] == "rgb(0,0,0)"
    assert [position for position, _ in zero_white(-1.0, 3.0, (0, 0, 0))] == sorted(scale)


@pytest.mark.parametrize(
    ("token", "label"),
    [(" Davis", "Davis"), ("</script>", "&lt;/script&gt;"), (" ", "␣"), ("\n", "↵"), ("a&b", "a&amp;b")],
)
def test_token_labels_are_whole_and_escaped(token: str, label: str) -> None:
    assert token_label(token) == label
    assert token_label(token, bold=True) == f"<b>{label}</b>"


def test_a_sweep_without_measures_is_refused() -> None:
    with pytest.raises(InputError, match="at least one of the columns efficacy"):
        ms.plot.sweep(pd.DataFrame({"layer": [0]}))


def test_a_sweep_marks_the_chosen_layer() -> None:
    columns = {f"efficacy{end}": [0.2, 0.9] for end in ("", "_low", "_high")}
    figure = ms.plot.sweep(pd.DataFrame({"layer": [0, 1], **columns}), chosen=1)
    assert [shape.x0 for shape in figure.layout.shapes] == [1]
    assert any(list(curve.y) == [0.2, 0.9] for curve in figure.data)


def test_scores_are_shown_stage_by_stage(tiny_model: HookedTransformer) -> None:
    requests = [EditRequest(FACT, " guitar", neighborhood=(("Bill Evans plays the", " piano"),))]
    scores = evaluate(tiny_model, requests)
    figure = ms.plot.scores(scores)
    assert isinstance(figure, go.Figure)
    assert [curve.name for curve in figure.data] == ["before"]
    assert figure.data[0].x[0] == scores.summary().loc["efficacy", "value"]


def test_a_token_view_of_a_trace_shows_each_tokens_largest_effect(trace: Trace) -> None:
    body = ms.plot.tokens(trace, kind="resid").body
    props = json.loads(re.search(r"ColoredTokens, (.*)\)</script>", body).group(1))
    assert props["tokens"] == [str(text) for text in trace.data["token_str"].values]
    np.testing.assert_allclose(props["values"], trace.indirect_effect("resid").max("layer").values)


@pytest.mark.parametrize(
    "token", ["</script><script>alert(1)</script>", "CircuitsVis.ColoredTokens, {", "<!--", "“"]
)
def test_no_token_ends_the_script_of_a_token_view(token: str) -> None:
    body = ms.plot.tokens([token, "b"], [0.5, -1.0]).body
    assert body.count("</script>") == 1
    assert "<!--" not in body
    props = json.loads(re.search(r"ColoredTokens, (.*)\)</script>", body).group(1))
    assert props["tokens"] == [token, "b"]


def test_a_token_view_in_a_notebook_loads_nothing() -> None:
    shown = ms.plot.tokens(["a"], [1.0])._repr_html_()
    assert "src=" not in shown.partition("<script>")[0]
    assert "unpkg.com" not in shown
    assert shown.count("</script>") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trace": ["a"], "values": [1.0, 2.0]}, "one number a token, got 2 for 1"),
        ({"trace": ["a"]}, "one number a token, got 0 for 1"),
        ({"trace": ["a"], "values": [1.0], "name": '"><b>'}, "letters, digits"),
    ],
)
def test_a_token_view_says_what_is_wrong(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ms.plot.tokens(**arguments)
