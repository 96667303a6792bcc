"""What benchmarks share: two sides that must agree, their times, FLOPs and memory, and the command line."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from memory import peak_bytes
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.oracles import textbook, textbook_edits  # the loops to beat are those that the tests prove with

__all__ = [
    "MIB",
    "Case",
    "Counted",
    "Options",
    "counted",
    "hardware",
    "main",
    "measure",
    "of_device",
    "textbook",
    "textbook_edits",
    "timed",
]

MIB = 2**20
REPEATS = 3
Figures = dict[str, Any]
"""One measured piece of work; ``problem`` says what is wrong with it, or is None."""


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    device: str = "cpu"
    quick: bool = False
    repeats: int = REPEATS


@dataclass(frozen=True)
class Case:
    """One piece of work done in two ways.

    Args:
        difference: of the two results; more than ``tolerance`` is a failure, whatever the speed.
        gate: least ratio of seconds, for whole sizes on a CPU; ``aim`` is what one would like.
        sizes: what the work was, for the record.
        repeats: runs of the library's side, unless the command line says fewer.
        count: FLOPs and peak bytes of a baseline too long to run twice: it then runs once, without counters.
    """

    work: str
    fast: Callable[[], Any]
    baseline: Callable[[], Any]
    difference: Callable[[Any, Any], float]
    tolerance: float
    gate: float
    aim: float
    sizes: dict[str, Any]
    repeats: int = REPEATS
    count: Callable[[], tuple[int, int]] | None = None


@dataclass(frozen=True)
class Counted:
    """A result, the FLOPs of its matrix products, the most bytes that it took, its time under counters."""

    result: Any
    flops: int
    peak: int
    seconds: float


def measure(case: Case, options: Options) -> Figures:
    """Run both sides in turn, first under counters: the median leaves that cold, counted run out."""
    fast, baseline = counted(case.fast, options.device), _baseline(case, options.device)
    seconds = [fast.seconds], [baseline.seconds]
    for _ in range(min(options.repeats, case.repeats) - 1):
        seconds[0].append(timed(case.fast, options.device))
        if case.count is None:
            seconds[1].append(timed(case.baseline, options.device))
    fast_seconds, baseline_seconds = (median(times) for times in seconds)
    ratio, difference = baseline_seconds / fast_seconds, case.difference(fast.result, baseline.result)
    problem = None
    if not difference <= case.tolerance:
        problem = f"the two sides differ by {difference:.2g}, more than {case.tolerance:.2g}"
    elif ratio < case.gate and options.device == "cpu" and not options.quick:
        problem = f"{ratio:.2f} x is below the gate of {case.gate:g} x"
    return {
        "work": case.work,
        "ratio": round(ratio, 3),
        "gate": case.gate,
        "aim": case.aim,
        "seconds": round(fast_seconds, 4),
        "baseline_seconds": round(baseline_seconds, 4),
        "flop_ratio": round(baseline.flops / fast.flops, 3),
        "flops": fast.flops,
        "baseline_flops": baseline.flops,
        "peak_mib": round(fast.peak / MIB, 2),
        "baseline_peak_mib": round(baseline.peak / MIB, 2),
        "max_difference": difference,
        "tolerance": case.tolerance,
        "sizes": case.sizes,
        "all_seconds": [[round(one, 4) for one in times] for times in seconds],
        "problem": problem,
    }


def counted(side: Callable[[], Any], device: str) -> Counted:
    """Run once under the counters, which cost some time themselves."""
    results: list[Any] = []
    with FlopCounterMode(display=False) as counter, peak_bytes(device) as peak:
        seconds = timed(lambda: results.append(side()), device)
    return Counted(results[0], counter.get_total_flops(), peak(), seconds)


def _baseline(case: Case, device: str) -> Counted:
    if case.count is None:
        return counted(case.baseline, device)
    results: list[Any] = []
    flops, peak = case.count()
    seconds = timed(lambda: results.append(case.baseline()), device)
    return Counted(results[0], flops, peak, seconds)


def timed(side: Callable[[], Any], device: str) -> float:
    """Seconds of one run, until the GPU too has done what it was asked."""
    start = time.perf_counter()
    side()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def of_device(device: str) -> str:
    """What tells the files of a device from those of the CPU, by name."""
    return "" if device == "cpu" else f"-{device.partition(':')[0]}"


def hardware(options: Options) -> dict[str, Any]:
    """Date, machine and versions: what a figure means nothing without."""
    names = ("mechstyle", "torch", "transformer-lens", "transformers")
    cuda = options.device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name(options.device) if cuda else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "dtype": "float32",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in names}},
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def main(
    figures_of: Callable[[Options], Iterable[Figures]], title: str, arguments: Sequence[str] | None = None
) -> int:
    """Run one benchmark from the command line; 1 means a missed gate, or two sides that disagree."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of a table")
    parser.add_argument("--quick", action="store_true", help="a tiny model: shows that it runs, not how fast")
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="runs of each side; the median counts")
    given = parser.parse_args(arguments)
    options = Options(device=given.device, quick=given.quick, repeats=given.repeats)
    record, found = hardware(options), []
    for figures in figures_of(options):
        found.append(figures)
        if given.json:
            sys.stdout.write(json.dumps({**figures, **record}) + "\n")
            sys.stdout.flush()
    if not given.json:
        Console().print(_table(title, found))
    problems = [f"{figures['work']}: {figures['problem']}\n" for figures in found if figures["problem"]]
    sys.stderr.write("".join(problems))
    return 1 if problems else 0


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _table(title: str, found: Iterable[Figures]) -> Table:
    columns = ("ratio", "gate", "aim", "seconds", "baseline", "FLOPs", "MiB")
    table = Table("work", *columns, title=title, caption="ratio: of seconds. FLOPs: ratio of both sides'.")
    for one in found:
        numbers = (one["ratio"], one["gate"], one["aim"], one["seconds"], one["baseline_seconds"],
                   one["flop_ratio"], one["peak_mib"])  # fmt: skip
        table.add_row(one["work"], *("" if number is None else f"{number:.3g}" for number in numbers))
    return table
