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
from typing import Any

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


def _results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.slow
def test_the_smoke_run_of_embeddings_puts_a_control_beside_every_change(tmp_path: Path) -> None:
    _smoke_run("04_embeddings", tmp_path / "out")
    results = _results(tmp_path / "out")
    for name in ("noise", "swaps", "removals", "removals, MLPs alone"):
        for row in results[name]:
            assert 0 <= min(row["changed"], row["control"]) <= max(row["changed"], row["control"]) <= 1
            assert row["changed - control"][0] == pytest.approx(row["changed"] - row["control"])
    removed = {row["change"]: row["size"] for row in results["removals"]}
    assert min(removed.values()) > 0
    assert {row["variant"] for row in results["variants"]} > {"original", "lower case", "upper case"}
    assert (tmp_path / "out" / "figure.svg").read_text(encoding="utf-8").startswith("<svg")


@pytest.mark.slow
def test_the_smoke_run_of_localisation_explains_success_by_layer_and_trace(tmp_path: Path) -> None:
    _smoke_run("03_localisation_vs_editability", tmp_path / "out")
    results = _results(tmp_path / "out")
    assert results["facts"] + results["skipped"] == results["config"]["n"]
    assert [row["layer"] for row in results["layers"]] == [str(one) for one in results["config"]["layers"]]
    assert results["layers"][-1]["success"][0] == pytest.approx(0.0, abs=1e-6)  # by construction
    assert {row["explained by"] for row in results["variance"]} == {
        "the layer alone",
        "the trace alone",
        "both",
        "added by tracing",
    }
    assert (tmp_path / "out" / "figure.html").is_file()


@pytest.mark.slow
def test_the_smoke_run_of_where_are_facts_has_a_peak_for_every_kind_and_a_figure(tmp_path: Path) -> None:
    _smoke_run("01_where_are_facts", tmp_path / "out")
    results = _results(tmp_path / "out")
    assert 0 < results["facts"] <= results["config"]["n"]
    found = results["organism-m"]
    places = {(row["kind"], row["role"]) for row in found["peaks"]}
    roles = ("whole subject", "last subject token", "last prompt token")
    assert places >= {(kind, role) for kind in results["config"]["kinds"] for role in roles}
    assert max(row["effect"][0] for row in found["peaks"]) <= found["totals"]["total effect"][0] + 1e-6
    assert (tmp_path / "out" / "figure.svg").read_text(encoding="utf-8").count("<polygon") == 9


@pytest.mark.slow
def test_the_smoke_run_of_similar_prompts_tests_every_distance(tmp_path: Path) -> None:
    _smoke_run("02_do_similar_prompts_trace_alike", tmp_path / "out")
    results = _results(tmp_path / "out")
    for view in ("shape", "size", "shape, mlp alone"):
        assert len(results[view]["tests"]) == 8
        assert all(0 < float(row["p"]) <= 1 for row in results[view]["tests"])
    assert (tmp_path / "out" / "figure.svg").exists()


@pytest.mark.slow
def test_the_smoke_run_of_family_traces_has_both_sites_of_every_size_and_a_page_for_each(
    tmp_path: Path,
) -> None:
    _smoke_run("10_family_traces", tmp_path / "out")
    results = _results(tmp_path / "out")
    found = {(row["model"], row["group"], row["kind"], row["place"]) for row in results["effects"]}
    groups = ("real, one fact", "invented, 5-6 facts")
    places = ("all subject tokens", "all but the last", "last subject token", "last prompt token")
    assert found >= {
        (model, group, kind, place)
        for model in results["config"]["models"]
        for group in groups
        for kind in results["config"]["kinds"]
        for place in places
    }
    assert all(row["effect_low"] <= row["effect"] <= row["effect_high"] for row in results["effects"])
    for model in results["config"]["models"]:
        for group in groups:
            assert (tmp_path / "out" / f"{model}, {group}.html").is_file()


@pytest.mark.slow
def test_the_smoke_run_of_one_formula_finds_the_identities_true(tmp_path: Path) -> None:
    _smoke_run("05_one_formula", tmp_path / "out")
    results = _results(tmp_path / "out")
    measured = {row[""]: row["measured"] for row in results["identities"]}
    assert measured["EMMET of one edit and ROME, same key and target, largest difference"] < 1e-9
    assert measured["MEMIT, weight 1e-08: from EMMET"] < 1e-6
    assert measured["MEMIT, weight 1e+08: size, EMMET = 1"] < 1e-3
    assert {row["method"] for row in results["alone"]} == {"ROME", "MEMIT, tuned", "FT + KL", "in context"}
    exact = next(row for row in results["together"] if row["method"] == "edit cache")
    assert exact["efficacy"][0] == exact["neighborhood"][0] == 1.0
    assert exact["perplexity"] == 0.0


@pytest.mark.slow
def test_the_smoke_run_of_batch_and_spread_has_a_cell_for_every_combination(tmp_path: Path) -> None:
    _smoke_run("06_batch_and_spread", tmp_path / "out")
    results = _results(tmp_path / "out")
    found = {(row["method"], row["spread"], row["batch"]) for row in results["cells"]}
    config = results["config"]
    assert found == {
        (name, spread, size)
        for name in config["variants"]
        for spread in ("no", "yes")
        for size in config["batch_sizes"]
    }


@pytest.mark.slow
def test_the_smoke_run_of_sequential_collapse_looks_at_the_health_after_every_batch(tmp_path: Path) -> None:
    _smoke_run("07_sequential_collapse", tmp_path / "out")
    results = _results(tmp_path / "out")
    for name, method in results["config"]["methods"].items():
        edits = [row["edits"] for row in results["sequences"][name]["health"]]
        assert edits == list(range(method["size"], results["config"]["n"] + 1, method["size"]))


@pytest.mark.slow
def test_the_smoke_run_of_gradients_shares_them_among_all_layers(tmp_path: Path) -> None:
    _smoke_run("08_where_do_gradients_go", tmp_path / "out")
    shares = _results(tmp_path / "out")["conditions"][0]["gradients"]
    assert len(shares) == 2 * 10
    for name in ("first step", "last step", "all steps", "relative"):
        assert sum(row[name] for row in shares) == pytest.approx(1.0)


@pytest.mark.slow
def test_the_smoke_run_of_what_did_the_edit_do_asks_the_same_of_every_editor(tmp_path: Path) -> None:
    _smoke_run("09_what_did_the_edit_do", tmp_path / "out")
    results = _results(tmp_path / "out")
    named = {one["name"]: one.get("only") for one in results["config"]["editor"]}
    for which, n in results["config"]["n"].items():
        rows = results[which]["efficacy"]
        assert [row["edit"] for row in rows] == [
            name for name, only in named.items() if only in (None, which)
        ]
        assert {row["n"] for row in rows} == {n}
        assert (tmp_path / "out" / f"{which}.html").is_file()
    known = results["specificity"]["specificity_exact"]
    assert {row["reference"] for row in known} == {1.0}  # what the model does not know is not counted
    exact = {row["edit"]: row for row in known}["edit cache, exact"]
    assert exact["difference"] == [0.0, 0.0, 0.0]  # a cache of one prompt knows no other
    asked = {row["right"] + row["the new object"] + row["something else"] for row in results["written"]}
    assert len(asked) == 1


def test_a_part_that_is_finished_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    shared = importlib.import_module("on_organism")
    made: list[int] = []

    def make() -> dict[str, list[float]]:
        made.append(1)
        return {"efficacy": [1.0, 0.5, 1.0]}

    first = shared.kept(tmp_path / "cell.json", make)
    assert shared.kept(tmp_path / "cell.json", make) == first == {"efficacy": [1.0, 0.5, 1.0]}
    assert len(made) == 1
    assert shared.markdown([first], ("efficacy", "score")).splitlines()[-1] == "| 1.00 [0.50, 1.00] | – |"
