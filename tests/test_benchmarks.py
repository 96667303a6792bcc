"""Benchmarks run, say what they promise, and fail when the two sides disagree; no test looks at a clock."""

from __future__ import annotations

import importlib
import json
import subprocess
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
COMPARISONS = (
    "trace_resid",
    "trace_windows",
    "trace_heads",
    "path_patching",
    "rome_target",
    "covariance",
    "rome_edit",
    "memit_edits",
    pytest.param("attribution", marks=pytest.mark.slow),
)
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


def test_a_thousand_edits_leave_weights_flops_and_memory_as_they_should_be(
    script: Import, capsys: pytest.CaptureFixture[str]
) -> None:
    sequence, batch = run(script, "many_edits", capsys)
    assert set(sequence) >= PROMISED
    assert set(batch) >= PROMISED
    assert sequence["flops"] == sequence["baseline_flops"] > 0
    d_mlp, d_model, n_bytes = 128, 32, 8
    assert sequence["stored_kib"] * 1024 == pytest.approx((2 * d_mlp + d_model) * n_bytes, abs=10)
    assert sequence["memory_growth"] == pytest.approx(1.0, abs=0.1)
    assert batch["slopes"]["flops"] == pytest.approx(1.0, abs=0.1)
    assert batch["slopes"]["peak"] < 1.1


@pytest.mark.parametrize(
    ("slower", "growth", "same_flops", "restored", "message"),
    [
        (1.1, 1.0, True, True, None),
        (1.3, 1.0, True, True, "the last edits take 1.30 times the seconds of the first, more than 1.2"),
        (1.1, 1.5, True, True, "each edit takes 1.50 times the memory of what is kept of it, more than 1.2"),
        (1.1, 1.0, False, True, "an edit on top of others takes other FLOPs"),
        (1.1, 1.0, True, False, "the weights are not as before"),
    ],
)
def test_edits_that_cost_more_and_more_are_a_problem(
    script: Import, slower: float, growth: float, same_flops: bool, restored: bool, message: str | None
) -> None:
    flatness, options = script("many_edits").flatness, script("common").Options()
    assert flatness(slower, growth, same_flops, restored, options) == message


@pytest.mark.parametrize("linear", ["requests", "steps"])
def test_a_baseline_that_is_not_counted_whole_has_the_flops_of_one_that_is(
    script: Import, linear: str
) -> None:
    common = script("common")
    case = script("memit_edits").random_case(common.Options(quick=True), steps=3, linear=linear)
    assert case.count()[0] == common.counted(case.baseline, "cpu").flops


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


MACHINE = {
    "device": "a CPU",
    "cores": 2,
    "threads": 2,
    "dtype": "float32",
    "date": "today",
    "versions": {"torch": "2.13"},
    "problem": None,
}


def test_the_results_are_written_as_tables_with_every_figure_and_what_failed(script: Import) -> None:
    ratios = {"script": "trace_resid", "work": "a trace", "ratio": 5.0, "gate": 4.0, "aim": 6.0}
    ratios |= {"max_difference": 2e-7, "seconds": 2.0, "flops": 3e9, "peak_mib": 40.0, "flop_ratio": 5.5}
    ratios |= {"baseline_seconds": 10.0, "baseline_flops": 15e9, "baseline_peak_mib": 200.0}
    growth = {"script": "scaling", "work": "growth with tokens", "power": 2, "all_seconds": [0.1, 0.3]}
    growth |= {"all_peak_mib": [7.0, 10.0], "slopes": {"flops": 1.98, "seconds": 1.75, "peak": 0.5}}
    flat = {"script": "many_edits", "work": "many edits", "slower": 1.05, "most_slower": 1.2}
    flat |= {"flop_ratio": 1.0, "parts": [0.031, 0.0325], "memory_growth": 1.01, "stored_kib": 6.75}
    flat |= {"most_memory_growth": 1.2}
    other = {**MACHINE, "device": "another CPU", "date": "yesterday"}
    rows = [{**MACHINE, **ratios}, {**other, **growth, "problem": "too slow"}, {**MACHINE, **flat}]
    run_all = script("run_all")
    text = run_all.markdown(rows, run_all.SECTIONS, "-cuda")
    lines = text.splitlines()
    cells = "| a trace | **5.00** | 4 | 6 | 5.50 | 2.00 / 10.00 | 3 / 15 | 40 / 200 | 2e-07 | today (1) |"
    growing = "| growth with tokens | 2 | 1.98 | 1.75 | 0.1, 0.3 | 0.50 | 7, 10 | yesterday (2) |"
    even = "| many edits | **1.05** | 1.2 | 1.00 | 0.031, 0.0325 | 1.01 x 6.75 KiB | 1.2 | today (1) |"
    order = ["## Tracing", cells, growing, "## Editing", even]
    assert [line for line in lines if line in order] == order
    assert "(scaling-cuda.svg)" in text
    assert "1. a CPU, 2 cores, 2 threads, float32; torch 2.13." in lines
    assert "2. another CPU, 2 cores, 2 threads, float32; torch 2.13." in lines
    assert [line for line in lines if line.startswith("- ")] == ["- growth with tokens: too slow"]


def test_what_is_measured_again_replaces_its_own_rows_and_no_others(script: Import) -> None:
    def rows(*names: str, date: str) -> list[dict[str, str]]:
        return [{"script": name, "date": date} for name in names]

    old = rows("trace_resid", "rome_target", "memit_edits", "memit_edits", "gone", date="then")
    new = rows("memit_edits", "trace_windows", date="now")
    merged = script("run_all").merged(old, new)
    assert [(row["script"], row["date"]) for row in merged] == [
        ("trace_resid", "then"),
        ("trace_windows", "now"),
        ("rome_target", "then"),
        ("memit_edits", "now"),
    ]


def test_the_tables_that_are_shown_are_those_of_the_figures_that_are_kept(script: Import) -> None:
    run_all = script("run_all")
    rows = run_all.read(FOLDER / "RESULTS.jsonl")
    shown = (FOLDER / "RESULTS.md").read_text(encoding="utf-8")
    assert shown == run_all.markdown(rows, run_all.SECTIONS, "")


def test_one_benchmark_alone_is_added_to_the_results(
    script: Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_all = script("run_all")
    kept = {"script": "scaling", "work": "growth with draws", "power": 1, "all_seconds": [1.0]}
    kept |= {"all_peak_mib": [1.0], "slopes": {"flops": 1.0, "seconds": 1.0, "peak": 1.0}}
    out = tmp_path / "RESULTS.md"
    out.with_suffix(".jsonl").write_text(json.dumps({**MACHINE, **kept}) + "\n", encoding="utf-8")
    made = {"work": "a trace", "ratio": 5.0, "gate": 4.0, "aim": 6.0, "max_difference": 0.0}
    for name in ("seconds", "flops", "peak_mib"):
        made |= {name: 1.0, f"baseline_{name}": 5.0}
    line = json.dumps({**MACHINE, **made, "flop_ratio": 5.0})
    asked: list[str] = []

    def measured(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(Path(command[1]).stem)
        return subprocess.CompletedProcess(command, 0, stdout=line + "\n")

    monkeypatch.setattr(run_all.subprocess, "run", measured)
    assert run_all.main(["--only", "trace_resid", "--out", str(out)]) == 0
    capsys.readouterr()
    assert asked == ["trace_resid"]
    assert [row["work"] for row in run_all.read(out.with_suffix(".jsonl"))] == [
        "a trace",
        "growth with draws",
    ]
    assert "| growth with draws | 1 |" in out.read_text(encoding="utf-8")
