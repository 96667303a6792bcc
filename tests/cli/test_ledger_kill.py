"""``mechstyle edit --ledger`` that is killed without warning goes on and ends with the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LIMIT = 240.0


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_bits(
    tiny_folder: Path, requests: Path, moments: Path, tmp_path: Path
) -> None:
    def words(folder: Path) -> list[str]:
        begin = [sys.executable, "-m", "mechstyle", "edit", "--method", "memit", "--model", str(tiny_folder)]
        files = ["--requests", str(requests), "--covariance", str(moments), "--ledger", str(folder)]
        return [*begin, *files, "--layers", "0,1", "--steps", "15", "--batch-size", "1", "--quiet", "--json"]

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(words(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    begun = time.monotonic()
    while not list(killed.glob("entries/0001*")):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() - begun < LIMIT
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    said = [
        json.loads(subprocess.run(words(folder), capture_output=True, check=True, timeout=LIMIT).stdout)
        for folder in (killed, whole)
    ]
    assert [one["entries"] for one in said] == [[1, 2, 3], [1, 2, 3]]
    assert len(said[0]["there_before"]) < 3
    found = [json.loads((folder / "ledger.json").read_text())["entries"] for folder in (killed, whole)]
    assert [one["id"] for one in found[0]] == [one["id"] for one in found[1]]
    assert all(one["active"] for one in found[0])
