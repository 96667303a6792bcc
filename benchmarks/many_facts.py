"""A thousand facts of the organism, traced into a folder: facts a minute, and memory that does not grow.

Neither the seconds of a fact nor the memory of the process may depend on how many facts were traced before.
"""

from __future__ import annotations

import functools
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from common import MIB, Options, counted, main
from many_edits import resident_bytes

import mechstyle as ms
from mechstyle.tracing.trace_facts import trace_facts

MODEL, KINDS = "organism-m", ("resid", "mlp", "attn")
SLOWER, LARGER = 1.2, 0.5
"""At most: the last part's median second against the first's, and what a fact leaves against its trace."""


@dataclass(frozen=True)
class Sizes:
    """How many facts, watched in how many parts, and draws of each."""

    facts: int = 1_000
    parts: int = 10
    samples: int = 10


QUICK = Sizes(facts=6, parts=3, samples=1)


def figures(options: Options) -> Iterator[dict[str, Any]]:
    """The whole set, known facts only, with three kinds."""
    sizes = QUICK if options.quick else Sizes()
    model = ms.load_model(MODEL, device=options.device)
    facts = [request.fact for request in ms.organisms.requests(MODEL, n=sizes.facts, seed=0)]
    tracer = functools.partial(ms.causal_trace, kinds=KINDS, samples=sizes.samples)
    first = counted(lambda: tracer(model, facts[0]), options.device)  # warms up too
    ends: list[float] = []
    resident: list[int] = []

    def watched(model: Any, fact: ms.Fact, *, seed: int = 0) -> ms.Trace:
        trace = tracer(model, fact, seed=seed)
        ends.append(time.perf_counter())
        resident.append(resident_bytes())
        return trace

    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        traces = trace_facts(model, facts, tracer=watched, folder=folder)
        seconds = time.perf_counter() - begun
        averaged = time.perf_counter()
        traces.average()
        averaged = time.perf_counter() - averaged
        trace_bytes = sum(one.data.nbytes for one in traces) / len(traces)
    last = counted(lambda: tracer(model, facts[0]), options.device)
    part = max(2, len(ends) // sizes.parts)
    spent = [stop - start for start, stop in itertools.pairwise(ends)]
    slower = median(spent[-part:]) / median(spent[:part])
    peaks = max(resident[:part]), max(resident[-part:])
    growth = (peaks[1] - peaks[0]) / (len(ends) - part) / trace_bytes
    yield {
        "work": f"{len(traces):,} facts, three kinds, {sizes.samples} draws",
        "ratio": round(1 / slower, 3),
        "gate": round(1 / SLOWER, 3),
        "aim": 1.0,
        "seconds": round(seconds, 2),
        "baseline_seconds": round(median(spent[:part]) * len(traces), 2),
        "flop_ratio": round(first.flops / last.flops, 4),
        "flops": last.flops,
        "baseline_flops": first.flops,
        "peak_mib": round(last.peak / MIB, 2),
        "facts_a_minute": round(60 * len(traces) / seconds, 1),
        "averaging_seconds": round(averaged, 2),
        "skipped": len(traces.skipped),
        "slower": round(slower, 3),
        "most_slower": SLOWER,
        "peak_ratio": round(peaks[1] / peaks[0], 4) if peaks[0] else 1.0,
        "memory_growth": round(growth, 4),
        "most_memory_growth": LARGER,
        "trace_kib": round(trace_bytes / 1024, 2),
        "resident_mib": [round(one / MIB, 1) for one in resident[:: max(1, part)]],
        "sizes": {"model": MODEL, "facts": sizes.facts, "samples": sizes.samples, "kinds": list(KINDS)},
        "problem": flatness(slower, growth, first.flops == last.flops, options),
    }


def flatness(slower: float, growth: float, same_flops: bool, options: Options) -> str | None:
    """What depends on the number of facts, and should not."""
    if not same_flops:
        return "a fact takes other FLOPs after the others"
    if options.quick or options.device != "cpu":
        return None
    if growth > LARGER:
        return f"each fact leaves {growth:.2f} times the bytes of its trace in memory, more than {LARGER}"
    if slower > SLOWER:
        return f"the last facts take {slower:.2f} times the seconds of the first, more than {SLOWER}"
    return None


if __name__ == "__main__":
    sys.exit(main(figures, "A thousand facts"))
