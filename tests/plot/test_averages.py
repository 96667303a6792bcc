"""Averages are drawn as they stand in the table: means, bands, names and their order."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import mechstyle as ms
from mechstyle.errors import InputError
from mechstyle.tokens import ROLES
from mechstyle.tracing.aggregate import average_by_role
from tests.plot.planted import grid, planted_trace


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    traces = [
        planted_trace({"mlp": grid(4, 5, seed=seed), "heads": grid(4, 5, 3, seed=seed), "attn": grid(4, 5)})
        for seed in range(4)
    ]
    return average_by_role(traces)


def _lines(figure: go.Figure) -> list[go.Scatter]:
    return [curve for curve in figure.data if curve.mode == "lines" and curve.name]


def _rows(table: pd.DataFrame, kind: str, role: str) -> pd.DataFrame:
    return table[(table["kind"] == kind) & (table["role"] == role)].sort_values("layer")


def test_lines_and_bands_are_those_of_the_table(table: pd.DataFrame) -> None:
    figure = ms.plot.average(table)
    assert [note.text for note in figure.layout.annotations] == ["MLP", "attention"]
    lines = _lines(figure)
    assert len(lines) == 2 * 4
    for panel, kind in (("x", "mlp"), ("x2", "attn")):
        here = [line for line in lines if line.xaxis == panel]
        assert [line.name for line in here] == [role for role in ROLES if role in set(table["role"])]
        for line in here:
            rows = _rows(table, kind, line.name)
            np.testing.assert_array_equal(line.y, rows["mean"])
            np.testing.assert_array_equal(line.customdata, rows[["low", "high", "n_facts"]])
            (area,) = [
                one for one in figure.data if one.fill and one.xaxis == panel and one.legendgroup == line.name
            ]
            assert list(area.y) == [*rows["high"], *reversed(rows["low"].tolist())]


def test_kinds_can_be_lines_and_roles_panels(table: pd.DataFrame) -> None:
    roles = ["last prompt token", "last subject token"]
    figure = ms.plot.average(table, lines="kind", roles=roles)
    assert [note.text for note in figure.layout.annotations] == ["last subject token", "last prompt token"]
    first = [line for line in _lines(figure) if line.xaxis == "x"]
    assert [line.name for line in first] == ["MLP", "attention"]
    np.testing.assert_array_equal(first[0].y, _rows(table, "mlp", "last subject token")["mean"])


def test_each_name_stands_once_in_the_legend(table: pd.DataFrame) -> None:
    named = [line.name for line in _lines(ms.plot.average(table)) if line.showlegend]
    assert len(named) == len(set(named)) == 4


def test_traces_are_averaged_on_the_way() -> None:
    traces = [planted_trace({"mlp": grid(4, 5, seed=seed)}) for seed in range(3)]
    drawn, wanted = ms.plot.average(traces), ms.plot.average(average_by_role(traces))
    assert drawn == wanted


def test_roles_of_ones_own_are_drawn_and_escaped() -> None:
    trace = planted_trace({"mlp": grid(1, 5)}, tokens=["<b>set"], roles=["<b>set"])
    (line,) = _lines(ms.plot.average([trace]))
    assert line.name == "&lt;b&gt;set"
    assert list(ms.plot.average_map([trace]).layout.yaxis.ticktext) == ["&lt;b&gt;set"]


def test_a_map_has_a_row_a_role_in_reading_order(table: pd.DataFrame) -> None:
    figure = ms.plot.average_map(table)
    names = [role for role in ROLES if role in set(table["role"])]
    assert list(figure.layout.yaxis.ticktext) == names
    for panel, kind in zip(figure.data, ("mlp", "attn"), strict=True):
        for row, role in enumerate(names):
            rows = _rows(table, kind, role)
            np.testing.assert_array_equal(panel.z[row], rows["mean"])
            np.testing.assert_array_equal(panel.customdata[row], rows[["low", "high"]])


def test_a_map_of_heads_has_a_panel_a_role_on_one_scale(table: pd.DataFrame) -> None:
    figure = ms.plot.average_map(table, kind="heads", roles=["last subject token", "last prompt token"])
    heads = table[table["kind"] == "heads"]
    for panel, role in zip(figure.data, ("last subject token", "last prompt token"), strict=True):
        wanted = heads[heads["role"] == role].pivot(index="head", columns="layer", values="mean")
        np.testing.assert_array_equal(panel.z, wanted.to_numpy(float))
    assert figure.data[0].zmax == figure.data[1].zmax
    assert list(figure.layout.yaxis.ticktext) == ["head 0", "head 1", "head 2"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda table: ms.plot.average(table, lines="fact"), "lines: expected 'role' or 'kind', got 'fact'"),
        (lambda table: ms.plot.average(table, roles=["bos"]), r"nothing to draw as lines.*\['bos'\]"),
        (lambda table: ms.plot.average(table[table["kind"] == "heads"]), "drawn by average_map"),
        (
            lambda table: ms.plot.average_map(table, kind="resid"),
            "expected one of mlp, heads, attn, got 'resid'",
        ),
        (lambda table: ms.plot.average_map(table, roles=["bos"]), "nothing to draw as a map"),
        (lambda table: ms.plot.average(table.drop(columns="low")), "missing: low"),
        (lambda table: ms.plot.average_map(table.iloc[:0]), "it has no rows"),
    ],
)
def test_what_cannot_be_drawn_is_said(table: pd.DataFrame, call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(table)
