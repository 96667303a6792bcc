"""How the cost of a trace grows with tokens, layers and draws, against the powers that its arithmetic has.

The residual grid on narrow models. Every cell runs the later tokens through the later layers: squares of
tokens and of layers, and all that for each draw. With batches of a fixed number of rows, memory beyond them
is that of caches, never of the grid: at most the first power of each.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import MIB, Options, counted, main, of_device, timed
from shapes import gpt2
from svg import Panel, draw
from trace_resid import trace_case

NARROW = {"n_embd": 64, "n_head": 4, "n_positions": 128, "vocab_size": 320}
SUBJECT = range(3)
BELOW, ABOVE, MEMORY = 0.5, 0.35, 1.1
"""FLOPs may be off by such powers, seconds only above (calls cost too); memory has at most the last power."""


@dataclass(frozen=True)
class Sweep:
    """One size varies, the others stay; ``power`` is what the FLOPs grow with."""

    name: str
    values: tuple[int, ...]
    power: int


SIZES = {"tokens": 16, "layers": 12, "draws": 5, "rows": 100}
SWEEPS = (
    Sweep("tokens", (8, 16, 32, 64), 2),
    Sweep("layers", (6, 12, 24, 48), 2),
    Sweep("draws", (1, 5, 10, 50), 1),
)
QUICK_SIZES = {"tokens": 6, "layers": 3, "draws": 2, "rows": 4}
QUICK_SWEEPS = (Sweep("tokens", (6, 12), 2), Sweep("layers", (4, 8), 2), Sweep("draws", (1, 4), 1))


def figures(options: Options) -> Iterator[dict[str, Any]]:
    """One object a sweep; the baseline is what the expected power makes of the smallest size."""
    sweeps, sizes = (QUICK_SWEEPS, QUICK_SIZES) if options.quick else (SWEEPS, SIZES)
    panels = []
    for sweep in sweeps:
        points = [point(options, **{**sizes, sweep.name: value}) for value in sweep.values]
        seconds, flops, peaks = (list(column) for column in zip(*points, strict=True))
        panels.append(Panel(sweep.name, sweep.values, seconds, sweep.power))
        growth = (sweep.values[-1] / sweep.values[0]) ** sweep.power
        slopes = {
            name: slope(sweep.values, of)
            for name, of in (("seconds", seconds), ("flops", flops), ("peak", peaks))
        }
        yield {
            "work": f"growth with {sweep.name}, {sweep.values[0]} to {sweep.values[-1]}",
            "ratio": round(growth * seconds[0] / seconds[-1], 3),
            "gate": None,
            "aim": None,
            "seconds": round(seconds[-1], 4),
            "baseline_seconds": round(growth * seconds[0], 4),
            "flop_ratio": round(growth * flops[0] / flops[-1], 3),
            "flops": flops[-1],
            "baseline_flops": round(growth * flops[0]),
            "peak_mib": round(peaks[-1] / MIB, 2),
            "power": sweep.power,
            "slopes": {name: round(value, 3) for name, value in slopes.items()},
            "sizes": {**sizes, sweep.name: list(sweep.values), **NARROW},
            "all_seconds": [round(one, 4) for one in seconds],
            "all_flops": flops,
            "all_peak_mib": [round(one / MIB, 2) for one in peaks],
            "problem": None if options.quick else problem(slopes, sweep.power),
        }
    if not options.quick:
        plot = Path(__file__).with_name(f"scaling{of_device(options.device)}.svg")
        plot.write_text(draw("seconds of one residual trace", panels), encoding="utf-8")


def point(options: Options, *, tokens: int, layers: int, draws: int, rows: int) -> tuple[float, int, int]:
    """Median seconds, FLOPs and peak bytes of one trace."""
    model = gpt2(options.device, **NARROW, n_layer=layers)
    fast = trace_case(
        model, "resid", tokens=tokens, samples=draws, subject=SUBJECT, batch_size=rows, gate=0, aim=0
    ).fast
    count = counted(fast, options.device)
    seconds = [count.seconds, *(timed(fast, options.device) for _ in range(options.repeats - 1))]
    return median(seconds), count.flops, count.peak


def slope(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Least-squares slope in log-log: the power with which the values grow."""
    x, y = (torch.tensor(column, dtype=torch.float64).log() for column in (sizes, values))
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())


def problem(slopes: dict[str, float], power: int) -> str | None:
    """Which of them grows with another power than it should."""
    if not power - BELOW <= slopes["flops"] <= power + ABOVE:
        return f"FLOPs grow with power {slopes['flops']:.2f}, expected {power}"
    if slopes["seconds"] > power + ABOVE:
        return f"seconds grow with power {slopes['seconds']:.2f}, expected {power}"
    if slopes["peak"] > MEMORY:
        return f"memory grows with power {slopes['peak']:.2f}, expected 1 at most"
    return None


if __name__ == "__main__":
    sys.exit(main(figures, "How the cost of a trace grows"))
