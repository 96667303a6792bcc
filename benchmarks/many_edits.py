"""A thousand edits: one after the other through a ledger, and many in one batch.

One after the other, seconds and FLOPs of an edit must not depend on how many there are below it, and each may
add no more memory than what is kept of it. In one batch, costs grow with the first power of the requests.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import MIB, Options, counted, main, of_device, timed
from rome_target import NEW_TARGET
from scaling import problem, slope
from shapes import contexts, gpt2, moment, numbered, words
from svg import Panel, draw

import mechstyle as ms

SHAPE = {"n_layer": 5, "n_embd": 96, "n_head": 4, "n_positions": 64, "vocab_size": 320}
QUICK_SHAPE = {**SHAPE, "n_layer": 3, "n_embd": 32}
LAYER, LAYERS, STEPS, PREFIXES = 1, (0, 1), 5, (5, 5)
TEMPLATE = f"{words(2)} {{}} {words(2, first=5)}"
SLOWER, LARGER = 1.2, 1.2
"""At most: the last tenth's seconds against the first's, and growth of memory against what is kept."""


@dataclass(frozen=True)
class Sizes:
    """How many edits, read in how many parts, and how many requests in a batch."""

    edits: int = 1_000
    parts: int = 10
    batches: tuple[int, ...] = (1, 10, 100, 1_000)


QUICK = Sizes(edits=6, parts=3, batches=(1, 4))


def figures(options: Options) -> Iterator[dict[str, Any]]:
    """The sequence, then the batches."""
    sizes = QUICK if options.quick else Sizes()
    model = gpt2(options.device, **(QUICK_SHAPE if options.quick else SHAPE))
    covariance = dict.fromkeys(LAYERS, moment(model.cfg.d_mlp))
    sequence, first_panel = one_by_one(model, covariance, sizes, options)
    yield sequence
    batches, second_panel = in_one_batch(model, covariance, sizes, options)
    yield batches
    if not options.quick:
        plot = Path(__file__).with_name(f"many_edits{of_device(options.device)}.svg")
        plot.write_text(draw("seconds of many edits", [first_panel, second_panel]), encoding="utf-8")


def requests(number: int) -> list[ms.EditRequest]:
    """So many wishes of one length, each of another subject."""
    return [ms.EditRequest(ms.Fact(TEMPLATE, numbered(index), " z"), NEW_TARGET) for index in range(number)]


def one_by_one(
    model: Any, covariance: dict[int, torch.Tensor], sizes: Sizes, options: Options
) -> tuple[dict[str, Any], Panel]:
    """ROME after ROME, each computed and written on top of all before, then all taken out."""
    editor = functools.partial(
        ms.rome,
        layer=LAYER,
        covariance=covariance,
        contexts=contexts(PREFIXES),
        target_options=ms.TargetOptions(steps=STEPS, early_stop=0.0),
        prepend_bos=False,
    )
    wishes = requests(sizes.edits + 1)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    first_flops = counted(lambda: editor(model, wishes[-1]), options.device).flops  # warms up too
    seconds: list[float] = []
    living: list[int] = []
    resident: list[int] = []
    part = sizes.edits // sizes.parts
    with ms.Ledger(model) as ledger:
        for number, wish in enumerate(wishes[:-1], start=1):
            seconds.append(timed(functools.partial(ledger.write, editor, [wish]), options.device))
            if number % part == 0:
                living.append(living_bytes())
                resident.append(resident_bytes())
        last = counted(lambda: editor(model, wishes[-1]), options.device)
        stored = sum(
            factor.nbytes
            for entry in ledger.entries
            for edit in entry.edit.edits
            for factor in (edit.left, edit.right, edit.keys)
            if factor is not None
        ) / len(ledger.entries)
    restored = all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    parts = [median(seconds[start : start + part]) for start in range(0, sizes.edits, part)]
    later = (sizes.parts - 1) * part
    growth = (living[-1] - living[0]) / later / stored
    slower = parts[-1] / parts[0]
    return {
        "work": f"ROME, {sizes.edits:,} edits one after the other",
        "ratio": round(1 / slower, 3),
        "gate": round(1 / SLOWER, 3),
        "aim": 1.0,
        "seconds": round(parts[-1], 5),
        "baseline_seconds": round(parts[0], 5),
        "flop_ratio": round(first_flops / last.flops, 4),
        "flops": last.flops,
        "baseline_flops": first_flops,
        "peak_mib": round(last.peak / MIB, 2),
        "parts": [round(one, 5) for one in parts],
        "slower": round(slower, 3),
        "most_slower": SLOWER,
        "memory_growth": round(growth, 4),
        "most_memory_growth": LARGER,
        "stored_kib": round(stored / 1024, 2),
        "resident_kib": round((resident[-1] - resident[0]) / later / 1024, 2),
        "living_mib": [round(one / MIB, 2) for one in living],
        "sizes": {
            "edits": sizes.edits,
            "layer": LAYER,
            "steps": STEPS,
            "contexts": len(PREFIXES) + 1,
            **SHAPE,
        },
        "problem": flatness(slower, growth, first_flops == last.flops, restored, options),
    }, Panel("edits, one after the other", *cumulative(seconds, part), 1)


def cumulative(seconds: Sequence[float], part: int) -> tuple[list[int], list[float]]:
    """Seconds of the first so many edits."""
    numbers = list(range(part, len(seconds) + 1, part))
    return numbers, [sum(seconds[:number]) for number in numbers]


def flatness(slower: float, growth: float, same_flops: bool, restored: bool, options: Options) -> str | None:
    """What depends on the number of edits, and should not."""
    if not restored:
        return "the weights are not as before"
    if not same_flops:
        return "an edit on top of others takes other FLOPs"
    if growth > LARGER:
        return f"each edit takes {growth:.2f} times the memory of what is kept of it, more than {LARGER}"
    if slower > SLOWER and options.device == "cpu" and not options.quick:
        return f"the last edits take {slower:.2f} times the seconds of the first, more than {SLOWER}"
    return None


def living_bytes() -> int:
    """Bytes of all tensors that Python holds, each storage once, and all of it."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor):
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def resident_bytes() -> int:
    """Of this process, 0 where the system does not tell: what Python keeps beside tensors shows here."""
    statm, libc = Path("/proc/self/statm"), ctypes.CDLL(None)
    if not statm.exists() or not hasattr(libc, "malloc_trim"):
        return 0
    libc.malloc_trim(0)  # what is kept for the next allocation belongs to nobody
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def in_one_batch(
    model: Any, covariance: dict[int, torch.Tensor], sizes: Sizes, options: Options
) -> tuple[dict[str, Any], Panel]:
    """MEMIT of more and more requests at once."""
    points = []
    for number in sizes.batches:
        work = functools.partial(
            ms.memit,
            model,
            requests(number),
            layers=list(LAYERS),
            covariance=covariance,
            contexts=contexts(PREFIXES),
            target_options=ms.TargetOptions(steps=STEPS, clamp_norm=0.75, early_stop=0.0),
            prepend_bos=False,
        )
        count = counted(work, options.device)
        seconds = [count.seconds, *(timed(work, options.device) for _ in range(options.repeats - 1))]
        points.append((median(seconds), count.flops, count.peak))
    seconds, flops, peaks = (list(column) for column in zip(*points, strict=True))
    slopes = {
        name: slope(sizes.batches, of)
        for name, of in (("seconds", seconds), ("flops", flops), ("peak", peaks))
    }
    growth = sizes.batches[-1] / sizes.batches[0]
    return {
        "work": f"growth of MEMIT with requests, {sizes.batches[0]} to {sizes.batches[-1]:,} in one batch",
        "ratio": round(growth * seconds[0] / seconds[-1], 3),
        "gate": None,
        "aim": None,
        "seconds": round(seconds[-1], 4),
        "baseline_seconds": round(growth * seconds[0], 4),
        "flop_ratio": round(growth * flops[0] / flops[-1], 3),
        "flops": flops[-1],
        "baseline_flops": round(growth * flops[0]),
        "peak_mib": round(peaks[-1] / MIB, 2),
        "power": 1,
        "slopes": {name: round(value, 3) for name, value in slopes.items()},
        "sizes": {"requests": list(sizes.batches), "layers": list(LAYERS), "steps": STEPS, **SHAPE},
        "all_seconds": [round(one, 4) for one in seconds],
        "seconds_an_edit": [round(one / n, 5) for one, n in zip(seconds, sizes.batches, strict=True)],
        "all_flops": flops,
        "all_peak_mib": [round(one / MIB, 2) for one in peaks],
        "problem": None if options.quick else problem(slopes, 1),
    }, Panel("requests in one batch", sizes.batches, seconds, 1)


if __name__ == "__main__":
    sys.exit(main(figures, "A thousand edits"))
