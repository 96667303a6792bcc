"""``mechstyle reproduce``: the row is shown, kept and judged; a killed run goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mechstyle.cli import run
from mechstyle.datasets import write_requests
from mechstyle.facts import EditRequest, Fact
from tests.cli.conftest import Run

COUNTERFACT = Path(__file__).parents[1] / "data" / "facts" / "counterfact.json"
TUNED = """
name = "tuned"
model = "tiny"
row_model = "gpt2-xl"
table = "{table}"
editor = "{editor}"

[data]
file = "requests.jsonl"
records = {records}

[method]
name = "ft"
layers = [1]
settings = {{ steps = 2 }}
{more}
"""
Capture = pytest.CaptureFixture[str]


def manifest(
    tmp_path: Path, more: str = "", *, table: str = "rome-zsre", editor: str = "FT", records: int = 3
) -> Path:
    path = tmp_path / "tuned.toml"
    path.write_text(TUNED.format(more=more, table=table, editor=editor, records=records), encoding="utf-8")
    return path


def test_the_manifests_are_listed_with_what_they_want(capsys: Capture) -> None:
    assert run(["reproduce", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(
        line.startswith("gpt2-xl-rome ") and line.endswith("7,500 of counterfact.json") for line in lines
    )
    assert run(["reproduce", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["manifests"]
    assert len(listed) == len(lines)
    assert {"organism-m-rome", "gpt-j-10000-memit"} <= {one["name"] for one in listed}


def test_our_row_stands_beside_the_published_one(tmp_path: Path, requests: Path, mechstyle_run: Run) -> None:
    out = tmp_path / "out"
    words = ("reproduce", manifest(tmp_path), "--data", requests, "--out", out)
    code, said, _ = mechstyle_run(*words)
    assert code == 0
    assert said.splitlines()[:2] == [
        "tuned: rome-zsre: gpt2-xl, FT (Meng et al. 2022 (ROME), zsRE tables)",
        "ours over 3 of 10,000 records",
    ]
    assert "as printed there: efficacy 99.6, paraphrase 82.1, neighborhood 23.2" in said
    assert said.splitlines()[-1] == str(out)
    assert len(list((out / "requests").iterdir())) == 3
    code, said, _ = mechstyle_run(*words, "--json")
    told = json.loads(said)
    assert (code, told["measured"], told["out"]) == (0, 3, str(out))
    assert told["table"] == json.loads((out / "result.json").read_text(encoding="utf-8"))["table"]


def test_what_is_not_reproduced_is_said_and_fails_only_when_strict(
    tmp_path: Path, mechstyle_run: Run
) -> None:
    neighbour = (("Chet Baker plays the", " trumpet"),)
    requests = tmp_path / "requests.jsonl"
    write_requests(
        requests,
        [
            EditRequest(Fact("{} plays the", name, " horn"), " guitar", neighborhood=neighbour)
            for name in ("Miles Davis", "Bill Evans")
        ],
    )
    strict = "[tolerance]\nneighborhood = 0.01"
    path = manifest(tmp_path, strict, table="counterfact-plus", editor="ROME", records=2)
    words = ("reproduce", path, "--data", requests)
    code, said, _ = mechstyle_run(*words, "--out", tmp_path / "out")
    assert code == 0
    assert "not reproduced" in next(line for line in said.splitlines() if line.startswith("neighborhood"))
    assert mechstyle_run(*words, "--out", tmp_path / "out", "--strict")[0] == 1
    code, said, _ = mechstyle_run(*words, "--limit", 1, "--out", tmp_path / "few", "--strict")
    assert code == 0, "on fewer records nothing is contradicted"
    assert "on 1 of 2 records" in said


def test_what_is_missing_is_wrong_input(
    tmp_path: Path, mechstyle_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mechstyle.models.load_model", lambda *_: pytest.fail("loaded"))
    for words, message in (
        ([], "MANIFEST missing"),
        (["gpt2-xl-rome"], "--out missing"),
        (["gpt2-xl-rome", "--list"], "leave gpt2-xl-rome out"),
        (["gpt2-rome", "--out", tmp_path], "gpt2-rome is no file, and none that ships is called so"),
        (["gpt2-xl-rome", "--out", tmp_path], "needs the file counterfact.json (its first 7,500 records)"),
        (["gpt2-xl-rome", "--out", tmp_path, "--data", COUNTERFACT], "name natural text with --text FILE"),
    ):
        code, out, err = mechstyle_run("reproduce", *words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_row(tmp_path: Path, capsys: Capture) -> None:
    def words(folder: str) -> list[str]:
        out = str(tmp_path / folder)
        return ["reproduce", "organism-m-rome", "--limit", "4", "--out", out, "--quiet"]

    requests = tmp_path / "killed" / "requests"
    process = subprocess.Popen(
        [sys.executable, "-m", "mechstyle", *words("killed")], stdout=subprocess.DEVNULL
    )
    while not requests.is_dir() or len(list(requests.glob("0*.json"))) < 2:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    there = {path: path.stat().st_mtime_ns for path in requests.glob("0*.json")}
    assert 2 <= len(there) < 4
    assert run(words("killed")) == run(words("whole")) == 0
    assert {path: path.stat().st_mtime_ns for path in there} == there, "what was done is not done again"
    tables = [(tmp_path / folder / "table.csv").read_text() for folder in ("killed", "whole")]
    assert tables[0] == tables[1]
