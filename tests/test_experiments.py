"""Experiments keep to their form and still run."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mechstyle as ms

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(path.parent for path in ROOT.glob("experiments/*/run.py"))
MOST_LINES = 150
PARTS = ("Question", "Method", "Answer")


def _private_imports(source: str) -> list[str]:
    """What a script takes from mechstyle that its modules do not export."""
    taken = [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mechstyle"
        for alias in node.names
    ]
    exported = {module: importlib.import_module(module).__all__ for module, _ in taken}
    return [f"{module}.{name}" for module, name in taken if name not in exported[module]]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_an_experiment_is_short_and_uses_exported_names_only(folder: Path) -> None:
    source = (folder / "run.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MOST_LINES
    assert _private_imports(source) == []


def test_the_check_of_exported_names_notices_a_private_one() -> None:
    source = "from mechstyle.metrics import _upcast, interval"
    assert _private_imports(source) == ["mechstyle.metrics._upcast"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_an_experiment_states_question_method_and_answer_in_this_order(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"^(?:## |\*\*)(Question|Method|Answer)\b", text, re.MULTILINE)
    assert tuple(found) == PARTS


def _smoke_run(experiment: str, out: Path) -> None:
    """Run an experiment's smoke form from another folder; its stderr is the message when it fails."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "experiments" / experiment / "run.py"), "--smoke", "--out", str(out)],
        cwd=out.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_smoke_run_of_one_fact_writes_results_with_provenance(tmp_path: Path) -> None:
    _smoke_run("00_one_fact", tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert results["smoke"] is True
    assert results["provenance"]["fingerprint"]
    assert [row["layer"] for row in results["layers"]] == results["config"]["smoke"]["layers"]
    assert all(row[name] is not None for row in results["layers"] for name in ("effect", "margin"))


@pytest.mark.slow
def test_the_smoke_run_of_the_organism_card_fills_every_field(tmp_path: Path) -> None:
    _smoke_run("01_organism_card", tmp_path / "out")
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "{{" not in card
    assert ms.fingerprint(ms.load_model("organism-m")) in card
