"""Run benchmarks, each in a process of its own, and rewrite RESULTS.md: `make bench`.

RESULTS.jsonl keeps the figures as they were measured, so that some can be measured again alone (`--only`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import of_device
from tables import markdown

HERE = Path(__file__).parent
TRACING = (
    "trace_resid",
    "trace_windows",
    "trace_heads",
    "path_patching",
    "attribution",
    "many_facts",
    "scaling",
)
EDITING = ("rome_target", "covariance", "rome_edit", "memit_edits", "many_edits")
EVALUATION = ("evaluation",)
LONG = ("memit_published",)
"""Runs only by name: it takes longer than all others together."""
SECTIONS = {"Tracing": TRACING, "Editing": (*EDITING, *LONG), "Evaluation": EVALUATION}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 when any benchmark failed; the results are written all the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny models: shows that all run, not how fast")
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--out", type=Path, help="default: RESULTS.md here, or none with --quick")
    parser.add_argument(
        "--only",
        action="append",
        choices=(*TRACING, *EDITING, *EVALUATION, *LONG),
        help="measure this one (again for more) and keep the other rows as they are",
    )
    given = parser.parse_args(arguments)
    names = given.only or [*TRACING, *EDITING, *EVALUATION]
    found: list[dict[str, Any]] = []
    failed = []
    for name in names:
        sys.stderr.write(f"{name} ...\n")
        flags = ["--json", "--device", given.device, *(["--quick"] if given.quick else [])]
        command = [sys.executable, str(HERE / f"{name}.py"), *flags]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        found += [{"script": name, **json.loads(line)} for line in done.stdout.splitlines()]
        failed += [name] if done.returncode else []
    out = given.out or (None if given.quick else HERE / f"RESULTS{of_device(given.device)}.md")
    rows = merged(read(out.with_suffix(".jsonl")) if out is not None else [], found)
    text = markdown(rows, SECTIONS, of_device(given.device))
    sys.stdout.write(text)
    if out is not None and rows:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        out.with_suffix(".jsonl").write_text(lines, encoding="utf-8")
        out.write_text(text, encoding="utf-8")
    if failed:
        sys.stderr.write(f"failed: {', '.join(failed)}\n")
    return 1 if failed else 0


def read(path: Path) -> list[dict[str, Any]]:
    """Figures measured before."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def merged(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """All rows in the order of the sections; a script that gave figures now has no old ones."""
    order = [name for names in SECTIONS.values() for name in names]
    measured = {row["script"] for row in new}
    rows = [*(row for row in old if row["script"] not in measured and row["script"] in order), *new]
    return sorted(rows, key=lambda row: order.index(row["script"]))


if __name__ == "__main__":
    sys.exit(main())
