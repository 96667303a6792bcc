"""Benchmarks run, say what they promise, and fail when the two sides disagree; no test looks at a clock."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

from mechstyle.editing.covariance import covariance

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
COMPARISONS = ("trace_resid", "trace_windows", "rome_target", "covariance")
PROMISED = set(
    "work ratio gate aim seconds baseline_seconds flop_ratio flops baseline_flops peak_mib "
    "device dtype threads versions date problem".split()
)
Import = Callable[[str], ModuleType]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Import]:
    """Import a script as if it were run from its folder, and forget it afterwards."""
    before = dict(sys.modules)
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    yield importlib.import_module
    for name in set(sys.modules) - set(before):
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == FOLDER:
            del sys.modules[name]


def run(script: Import, name: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    figures, main = script(name).figures, script("common").main
    status = main(figures, name, ["--quick", "--json", "--repeats", "1"])
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("name", COMPARISONS)
def test_the_library_agrees_with_the_textbook_form_that_it_is_measured_against(
    script: Import, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    found = run(script, name, capsys)
    assert found
    for one in found:
        assert set(one) >= PROMISED | {"max_difference", "tolerance", "baseline_peak_mib"}
        assert 0 <= one["max_difference"] <= one["tolerance"] <= 1e-3
        assert min(one["flops"], one["baseline_flops"], one["peak_mib"]) > 0


def test_the_work_of_a_trace_grows_with_the_powers_of_its_arithmetic(
    script: Import, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(script, "scaling", capsys)
    assert [one["power"] for one in found] == [2, 2, 1]
    for one in found:
        assert set(one) >= PROMISED
        assert one["slopes"]["flops"] == pytest.approx(one["power"], abs=0.45)
        assert one["slopes"]["peak"] < 1.2


def answer(value: float) -> Callable[[], float]:
    """A side whose work is one product of 2 FLOPs."""
    return lambda: float(torch.full((1, 1), value) @ torch.ones(1, 1))


@pytest.mark.parametrize(
    ("baseline", "gate", "message"),
    [
        (1.5, 0, "two numbers: the two sides differ by 0.5, more than 1e-05\n"),
        (float("nan"), 0, "two numbers: the two sides differ by nan, more than 1e-05\n"),
        (1.0, 1e9, "x is below the gate of 1e+09 x\n"),
        (1.0, 0, ""),
    ],
)
def test_a_difference_or_a_missed_gate_is_an_exit_status(
    script: Import, capsys: pytest.CaptureFixture[str], baseline: float, gate: float, message: str
) -> None:
    common = script("common")
    case = common.Case(
        work="two numbers",
        fast=answer(1.0),
        baseline=answer(baseline),
        difference=lambda one, other: abs(one - other),
        tolerance=1e-5,
        gate=gate,
        aim=0,
        sizes={},
    )
    status = common.main(lambda options: [common.measure(case, options)], "a title", ["--json"])
    out, err = capsys.readouterr()
    assert status == (1 if message else 0)
    assert err.endswith(message)
    assert (json.loads(out)["flops"], json.loads(out)["flop_ratio"]) == (2, 1.0)


def test_peak_memory_counts_each_living_tensor_once_and_the_dead_no_more(script: Import) -> None:
    there = torch.zeros(1000)
    with script("memory").LiveTensors() as live:
        for _ in range(3):
            made = there + 1  # 4000 bytes; the one before still lives while this is made
            view = made[:500]
            view += there[500:]
        assert (live.now, live.peak) == (4000, 8000)
        del made
        assert live.now == 4000
        del view
        assert live.now == 0


def test_moments_of_more_layers_hold_no_more_keys_at_once(
    script: Import, tiny_model: HookedTransformer
) -> None:
    texts = [" ".join("abcdefghijklmnopqrstuvwxyz")] * 16
    peaks = []
    for layers in ([2], [0, 1, 2]):
        with script("memory").LiveTensors() as live:
            covariance(tiny_model, texts, layers=layers, n_keys=700)
        peaks.append(live.peak)
    moment, keys_of_a_layer = 8 * 128**2, 4 * 128 * 700
    assert peaks[1] - peaks[0] < 2 * moment + keys_of_a_layer // 4


def test_the_results_are_written_as_tables_with_every_figure_and_what_failed(script: Import) -> None:
    machine = {"device": "a CPU", "cores": 2, "threads": 2, "dtype": "float32", "date": "today"}
    machine["versions"] = {"torch": "2.13"}
    ratios = {"work": "a trace", "ratio": 5.0, "gate": 4.0, "aim": 6.0, "flop_ratio": 5.5, "problem": None}
    ratios |= {"max_difference": 2e-7, "seconds": 2.0, "flops": 3e9, "peak_mib": 40.0}
    ratios |= {"baseline_seconds": 10.0, "baseline_flops": 15e9, "baseline_peak_mib": 200.0}
    growth = {
        "work": "growth with tokens",
        "power": 2,
        "all_seconds": [0.1, 0.3],
        "all_peak_mib": [7.0, 10.0],
    }
    growth |= {"slopes": {"flops": 1.98, "seconds": 1.75, "peak": 0.5}, "problem": "too slow"}
    text = script("run_all").markdown([{**ratios, **machine}, {**growth, **machine}], "scaling.svg")
    assert "| a trace | **5.00** | 4 | 6 | 5.50 | 2.00 / 10.00 | 3 / 15 | 40 / 200 | 2e-07 |\n" in text
    assert "| growth with tokens | 2 | 1.98 | 1.75 | 0.1, 0.3 | 0.50 | 7, 10 |\n" in text
    assert "today; a CPU, 2 cores,\n2 threads, float32; torch 2.13.\n" in text
    assert "- growth with tokens: too slow\n" in text
    assert "- a trace" not in text
