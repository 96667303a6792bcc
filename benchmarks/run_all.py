"""Run all benchmarks, each in a process of its own, and rewrite RESULTS.md: `make bench`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import of_device

HERE = Path(__file__).parent
SCRIPTS = ("trace_resid", "trace_windows", "rome_target", "covariance", "scaling")
RATIO_COLUMNS = ("work", "ratio", "gate", "aim", "FLOP ratio", "seconds", "GFLOP", "peak MiB", "difference")
GROWTH_COLUMNS = ("growth", "expected", "FLOPs", "time", "seconds", "memory", "peak MiB")


def main() -> int:
    """Exit status 1 when any benchmark failed; the results are written all the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny models: shows that all run, not how fast")
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--out", type=Path, help="default: RESULTS.md here, or none with --quick")
    given = parser.parse_args()
    found: list[dict[str, Any]] = []
    failed = []
    for name in SCRIPTS:
        sys.stderr.write(f"{name} ...\n")
        flags = ["--json", "--device", given.device, *(["--quick"] if given.quick else [])]
        command = [sys.executable, str(HERE / f"{name}.py"), *flags]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        found += [json.loads(line) for line in done.stdout.splitlines()]
        failed += [name] if done.returncode else []
    text = markdown(found, f"scaling{of_device(given.device)}.svg") if found else ""
    sys.stdout.write(text)
    out = given.out or (None if given.quick else HERE / f"RESULTS{of_device(given.device)}.md")
    if out is not None and text:
        out.write_text(text, encoding="utf-8")
    if failed:
        sys.stderr.write(f"failed: {', '.join(failed)}\n")
    return 1 if failed else 0


def markdown(found: list[dict[str, Any]], plot: str) -> str:
    """RESULTS.md: the machine, the ratios, and how costs grow."""
    machine = found[-1]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    problems = [f"- {one['work']}: {one['problem']}" for one in found if one["problem"]]
    return "\n".join(
        [
            "# Speed and memory",
            "",
            "By `make bench`; what is measured, and against what, stands in [the README](README.md).",
            "",
            f"{machine['date']}; {machine['device']}, {machine['cores']} cores,",
            f"{machine['threads']} threads, {machine['dtype']}; {versions}.",
            "",
            *_table(RATIO_COLUMNS, [_ratios(one) for one in found if "slopes" not in one]),
            "",
            *_table(GROWTH_COLUMNS, [_growth(one) for one in found if "slopes" in one]),
            "",
            f"![seconds against tokens, layers and draws]({plot})",
            "",
            *(["Not as it should be:", "", *problems, ""] if problems else []),
        ]
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _ratios(one: dict[str, Any]) -> list[str]:
    pairs = [(one[name], one[f"baseline_{name}"]) for name in ("seconds", "flops", "peak_mib")]
    (seconds, baseline_seconds), (flops, baseline_flops), (mib, baseline_mib) = pairs
    return [
        one["work"],
        f"**{one['ratio']:.2f}**",
        f"{one['gate']:g}",
        f"{one['aim']:g}",
        f"{one['flop_ratio']:.2f}",
        f"{seconds:.2f} / {baseline_seconds:.2f}",
        f"{flops / 1e9:,.0f} / {baseline_flops / 1e9:,.0f}",
        f"{mib:,.0f} / {baseline_mib:,.0f}",
        f"{one['max_difference']:.1g}",
    ]


def _growth(one: dict[str, Any]) -> list[str]:
    return [
        one["work"],
        f"{one['power']}",
        f"{one['slopes']['flops']:.2f}",
        f"{one['slopes']['seconds']:.2f}",
        ", ".join(f"{value:.2g}" for value in one["all_seconds"]),
        f"{one['slopes']['peak']:.2f}",
        ", ".join(f"{value:.3g}" for value in one["all_peak_mib"]),
    ]


if __name__ == "__main__":
    sys.exit(main())
