"""Edits side by side: every dot is where its metric is, and the order is the reader's."""

from __future__ import annotations

import pandas as pd
import pytest

from mechstyle import plot
from mechstyle.errors import InputError

SUMMARY = pd.DataFrame(
    [
        {"metric": metric, "edit": edit, "value": value, "low": value - 0.1, "high": value + 0.05, "n": 9}
        for metric, edit, value in (
            ("efficacy", "unedited", 0.1), ("score", "unedited", 0.2),
            ("efficacy", "a<b>", 0.8), ("score", "a<b>", 0.7), ("efficacy", "c", 0.6),
        )
    ]
).assign(unit="request")  # fmt: skip


def test_every_edit_has_a_dot_a_metric_with_its_interval() -> None:
    figure = plot.edits(SUMMARY, metrics=["score", "efficacy"])
    dots = [trace for trace in figure.data if trace.mode == "markers"]
    assert [trace.name for trace in dots] == ["unedited", "a<b>", "c"]
    assert list(dots[1].x) == [0.7, 0.8]
    assert list(dots[1].error_x.array) == pytest.approx([0.05, 0.05])
    assert list(dots[1].error_x.arrayminus) == pytest.approx([0.1, 0.1])
    assert list(figure.layout.yaxis.ticktext) == ["score", "efficacy"]
    rows = [[round(y) for y in trace.y] for trace in dots]
    assert rows == [[0, 1]] * 3
    assert len({trace.y[0] for trace in dots}) == 3
    assert "<b>" not in dots[1].hovertemplate.removesuffix("<extra>a&lt;b&gt;</extra>")
    assert [trace.marker.symbol for trace in dots] == ["circle-open", "circle", "circle"]


def test_what_is_not_in_the_summary_is_refused() -> None:
    with pytest.raises(InputError, match="metrics: the summary has no 'paraphrase'"):
        plot.edits(SUMMARY, metrics=["paraphrase"])
    with pytest.raises(InputError, match="expected rows with the columns metric, edit"):
        plot.edits(SUMMARY.drop(columns="edit"))
