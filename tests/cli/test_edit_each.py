"""``mechstyle edit --each``: an edit of its own for each request, as ``evaluate --edits`` takes a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from transformer_lens import HookedTransformer

from mechstyle.case_files import write_cases
from mechstyle.cases import Case
from mechstyle.editing.loading import load_edit
from tests.cli.conftest import REQUESTS, Run


def test_each_request_has_a_file_and_the_folder_is_evaluated_side_by_side(
    model: HookedTransformer, tmp_path: Path, moments: Path, mechstyle_run: Run
) -> None:
    cases = tmp_path / "cases.jsonl"  # the same file for both commands
    write_cases(cases, [Case(request, name=str(place)) for place, request in enumerate(REQUESTS)])
    words = ["edit", "--method", "rome", "--requests", cases, "--layer", "1", "--covariance", moments]
    folder = tmp_path / "rome"
    code, out, err = mechstyle_run(*words, "--each", folder, "--steps", "3")
    assert (code, err) == (0, "")
    assert out.rstrip().endswith(f"{folder}: 3 edits")
    files = sorted(folder.glob("*.safetensors"))
    assert [file.name for file in files] == ["000.safetensors", "001.safetensors", "002.safetensors"]
    assert [load_edit(file).requests for file in files] == [(request,) for request in REQUESTS]
    code, *_ = mechstyle_run(
        "evaluate", "--requests", cases, "--edits", f"rome={folder}", "--out", tmp_path / "out"
    )
    assert code == 0
    assert set(pd.read_csv(tmp_path / "out" / "scores.csv")["edit"]) == {"unedited", "rome"}


def test_the_same_command_goes_on_and_another_one_is_refused(
    model: HookedTransformer, tmp_path: Path, requests: Path, mechstyle_run: Run
) -> None:
    words = ["edit", "--method", "cache", "--requests", requests, "--each", tmp_path / "each"]
    first, *_ = mechstyle_run(*words)
    assert first == 0
    files = sorted((tmp_path / "each").glob("*.safetensors"))
    files[1].unlink()
    times = [file.stat().st_mtime_ns for file in (files[0], files[2])]
    again, *_ = mechstyle_run(*words)
    assert again == 0
    assert files[1].is_file()
    assert [file.stat().st_mtime_ns for file in (files[0], files[2])] == times
    code, out, err = mechstyle_run(*words, "--epsilon", "0.2")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "holds edits that were made with other options" in err
    assert json.loads((tmp_path / "each" / "order.json").read_text())["method"] == "cache"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--each", "e", "--out", "o"], "give one of --out FILE"),
        (["--each", "e", "--batch-size", "2"], "--each: with an edit for each request, leave --batch-size"),
        (["--each", "e", "--dry-run"], "leave --batch-size and --dry-run out"),
        ([], "--each DIR, for an edit of each request"),
    ],
)
def test_what_does_not_go_together_is_refused(
    words: list[str], message: str, requests: Path, mechstyle_run: Run
) -> None:
    code, _, err = mechstyle_run("edit", "--method", "cache", "--requests", requests, *words)
    assert code == 2
    assert message in err
