"""Where commands write, and what their help says of it: never into a ledger's own files."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from transformer_lens import HookedTransformer

from mechstyle.cli import run
from mechstyle.cli.canaries import LIMITS
from mechstyle.cli.tuning import option
from mechstyle.editing.health import HealthCheck
from mechstyle.editing.ledger import Ledger
from tests.cli.conftest import Run


@pytest.mark.parametrize("place", ["ledger.json", "new.safetensors", "entries/x", "entries/new/deep"])
@pytest.mark.parametrize(
    "words",
    [
        ["ledger", "edits", "--merge"],
        ["edit", "--requests", "requests.jsonl", "--layer", "0", "--out"],
        ["covariance", "--layers", "0", "--out"],
        ["export", "--ledger", "edits", "--out"],
        ["evaluate", "--requests", "requests.jsonl", "--out"],
        ["study", "--requests", "requests.jsonl", "--text", "requests.jsonl", "--out"],
    ],
    ids=lambda words: words[0],
)
def test_no_command_writes_into_the_folder_of_a_ledger(
    words: list[str],
    place: str,
    requests: Path,
    model: HookedTransformer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mechstyle_run: Run,
) -> None:
    with Ledger.open(model, tmp_path / "edits"):
        pass
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mechstyle.models.load_model", lambda *_: pytest.fail("loaded"))
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    code, out, err = mechstyle_run(*words, f"edits/{place}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is the folder of a ledger" in err
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_help_names_the_limits_that_a_health_check_has(capsys: pytest.CaptureFixture[str]) -> None:
    defaults = {one.name: one.default for one in fields(HealthCheck)}
    assert dict(LIMITS) == {name: defaults[name] for name in LIMITS}
    assert run(["edit", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for name, limit in LIMITS.items():
        assert f" {limit}. " in said.partition(option(name))[2][:160]
