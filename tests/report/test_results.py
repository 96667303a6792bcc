"""results.json holds the report's numbers, and nothing that JSON does not know."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mechstyle.editing.edit import load_edit
from mechstyle.models import load_model
from mechstyle.report import Report
from mechstyle.tracing.trace import Trace


@pytest.fixture(scope="module")
def data(report: Report) -> dict:
    return json.loads(report.results.read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_the_effects_are_those_of_the_saved_trace(report: Report, data: dict) -> None:
    for fact in data["facts"]:
        trace = Trace.load(report.folder / fact["files"]["trace"])
        for kind, grid in fact["trace"]["kinds"].items():
            np.testing.assert_allclose(grid["effect"], trace.indirect_effect(kind).values)
        assert fact["trace"]["clean"] == trace.clean


def test_the_relative_norm_is_that_of_the_saved_edit(report: Report, data: dict, tiny_folder: object) -> None:
    weights = dict(load_model(str(tiny_folder)).named_parameters())
    for fact in data["facts"]:
        edit = load_edit(report.folder / fact["files"]["edit"])
        (name,) = edit.parameters
        share = edit.delta(name).norm() / weights[name].detach().double().norm()
        assert fact["edit"]["relative_norm"] == pytest.approx(float(share))
        assert fact["edit"]["bytes"] == (report.folder / fact["files"]["edit"]).stat().st_size


def test_provenance_names_model_versions_and_seed(report: Report, data: dict) -> None:
    assert data["provenance"]["fingerprint"] == report.facts[0].edit.fingerprint
    assert {"mechstyle", "torch", "transformer-lens"} <= set(data["provenance"]["versions"])
    assert data["provenance"]["settings"]["seed"] == 0


def test_scores_hold_before_and_after_of_every_prompt(data: dict) -> None:
    rows = data["scores"]["rows"]
    assert sum(row["stage"] == "before" for row in rows) == 5
    assert sum(row["stage"] == "after" for row in rows) == 5
