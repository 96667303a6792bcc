"""``mechstyle evaluate --suite``: edits side by side, in one folder, resumed after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from transformer_lens import HookedTransformer

from mechstyle.editing.memory_editors import edit_cache, in_context_edit
from mechstyle.evaluation.scores import evaluate
from tests.cli.conftest import REQUESTS, Run
from tests.evaluation.measures import random_edit

SUITE = """
[run]
at_once = 1

[scores]
generate = true

[questions]
true_false = 1

[perplexity]
text = "held_out.txt"

[divergence]
text = "held_out.txt"
words = 3
"""
LIMIT = 240.0


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "held_out.txt").write_text("The day was long.\n\nRome is a city.\n", encoding="utf-8")
    path = tmp_path / "suite.toml"
    path.write_text(SUITE, encoding="utf-8")
    return path


def test_edits_side_by_side_from_files_and_folders(
    model: HookedTransformer, requests: Path, suite: Path, tmp_path: Path, mechstyle_run: Run
) -> None:
    one = random_edit(model, 1)
    one.save(tmp_path / "one.safetensors")
    folder = tmp_path / "each"
    folder.mkdir()
    own = [random_edit(model, 2 + place) for place in range(3)]
    for place, edit in enumerate(own):
        edit.save(folder / f"{place}.safetensors")
    out = tmp_path / "out"
    words = ["evaluate", "--suite", suite, "--requests", requests, "--out", out]
    edits = ["--edits", tmp_path / "one.safetensors", "--edits", f"own={folder}"]
    code, said, err = mechstyle_run(*words, *edits)
    assert (code, err) == (0, "")
    assert "efficacy" in said
    assert said.rstrip().endswith(str(out / "report.html"))
    table = pd.read_csv(out / "scores.csv")
    assert table["edit"].unique().tolist() == ["unedited", "one", "own"]
    for name, given in (("one", one), ("own", own)):
        wanted = evaluate(model, REQUESTS, edits=given).frame["p_new"].tolist()
        assert table.loc[table["edit"] == name, "p_new"].tolist() == pytest.approx(wanted, abs=1e-6)
    assert {path.name for path in out.iterdir()} >= {
        "report.html", "results.json", "summary.csv", "comparison.csv", "questions.csv", "perplexity.csv",
        "divergence.csv",
    }  # fmt: skip
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Edit against edit" in page
    assert "What the edits changed" in page


def test_json_is_one_object(
    model: HookedTransformer, requests: Path, tmp_path: Path, mechstyle_run: Run
) -> None:
    edit = edit_cache(model, REQUESTS).save(tmp_path / "cache.safetensors")
    code, said, _ = mechstyle_run(
        "evaluate", "--requests", requests, "--edits", f"c={edit}", "--out", tmp_path / "out", "--json"
    )
    data = json.loads(said)
    assert code == 0
    rows = [row for row in data["summary"] if row["metric"] == "efficacy"]
    assert [(row["edit"], row["value"]) for row in rows][1] == ("c", 1.0)
    assert data["files"]["report"] == str(tmp_path / "out" / "report.html")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "quick"], "--out missing: a suite writes its tables and its report into a folder"),
        (["--suite", "none.toml", "--out", "x"], "cannot read the suite none.toml"),
        (["--suite", "quick", "--out", "x", "--generate"], "--generate: not with --suite"),
        (["--suite", "quick", "--out", "x"], "--requests FILE"),
        (["--edits", "=x", "--out", "x"], "--edits: expected NAME=PATH"),
        (["--edits", "a=x", "--edits", "a=y", "--out", "x"], "--edits: two are named 'a'"),
    ],
)
def test_wrong_command_lines_are_told_in_one_line_and_write_nothing(
    words: Sequence[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mechstyle_run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = mechstyle_run("evaluate", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not list(Path("x").glob("*.*"))


def test_without_requests_the_edits_own_are_scored(
    model: HookedTransformer, requests: Path, tmp_path: Path, mechstyle_run: Run
) -> None:
    one = edit_cache(model, REQUESTS[:2]).save(tmp_path / "one.safetensors")
    other = edit_cache(model, REQUESTS).save(tmp_path / "other.safetensors")
    code, *_ = mechstyle_run("evaluate", "--edits", one, "--out", tmp_path / "out")
    assert code == 0
    table = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert set(table["prompt"]) == {request.fact.prompt for request in REQUESTS[:2]}
    assert table.loc[table["edit"] == "one", "success"].all()
    words = ["evaluate", "--edits", one, "--edits", other, "--out", tmp_path / "both"]
    code, _, err = mechstyle_run(*words)
    assert code == 2
    assert "--edits other: made for other requests than one; give --requests FILE" in err
    silent = random_edit(model, 1).save(tmp_path / "silent.safetensors")
    code, _, err = mechstyle_run("evaluate", "--edits", silent, "--out", tmp_path / "none")
    assert code == 2
    assert "--edits silent: does not say what it was made for" in err


def test_a_folder_is_read_by_numbers_and_may_be_called_as_a_suite(
    model: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mechstyle_run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("each").mkdir()
    many = [
        replace(REQUESTS[0], new_target=f" {word}") for word in "piano guitar French Italy London".split()
    ]
    for place, request in zip((1, 2, 3, 10, 20), many, strict=True):
        edit_cache(model, request).save(Path("each") / f"e{place}.safetensors")
    for _ in range(2):  # the second time the folder called as the suite is there
        code, *_ = mechstyle_run("evaluate", "--suite", "scores", "--edits", "each", "--out", "scores")
        assert code == 0
    table = pd.read_csv(Path("scores") / "scores.csv").query("edit == 'each'")
    assert table["target_new"].tolist() == [request.new_target for request in many]
    assert table["success"].all()


def test_a_folder_without_edits_is_refused(tmp_path: Path, requests: Path, mechstyle_run: Run) -> None:
    (tmp_path / "empty").mkdir()
    words = ["--requests", requests, "--edits", f"e={tmp_path / 'empty'}", "--out", tmp_path / "out"]
    code, _, err = mechstyle_run("evaluate", *words)
    assert code == 2
    assert "the folder holds no *.safetensors" in err


@pytest.mark.slow
def test_a_killed_suite_goes_on_and_ends_with_the_same_results(
    model: HookedTransformer, tiny_folder: Path, requests: Path, suite: Path, tmp_path: Path
) -> None:
    edit = in_context_edit(model, REQUESTS[0]).save(tmp_path / "e.safetensors")

    def words(out: Path) -> list[str]:
        begin = [sys.executable, "-m", "mechstyle", "evaluate", "--model", str(tiny_folder), "--quiet"]
        rest = ["--suite", str(suite), "--requests", str(requests), "--edits", f"e={edit}"]
        return [*begin, *rest, "--out", str(out)]

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(words(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    begun = time.monotonic()
    while len(list(killed.glob("rows/*.json"))) < 3:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() - begun < LIMIT
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = {path.name: path.stat().st_mtime_ns for path in killed.glob("rows/*.json")}
    for out in (killed, whole):
        subprocess.run(words(out), check=True, timeout=LIMIT, capture_output=True)
    assert len(before) < len(list(whole.glob("rows/*.json")))
    assert before == {name: (killed / "rows" / name).stat().st_mtime_ns for name in before}
    for name in ("results.json", "scores.csv", "questions.csv", "perplexity.csv", "divergence.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
