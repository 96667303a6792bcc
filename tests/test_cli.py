"""The command line: quick help, honest exit codes, one line for an error, JSON and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mechstyle.cli
from mechstyle.cli import run
from mechstyle.datasets import write_requests
from mechstyle.editing.covariance import Covariance
from mechstyle.editing.edit import load_edit
from mechstyle.errors import TextError, WorkError
from mechstyle.facts import EditRequest, Fact
from mechstyle.tracing.trace import Trace

PROSE = "Miles Davis plays the trumpet. Paris is the capital of France. The day was long.\n\n"
FACT = ["--prompt", "{} plays the", "--subject", "Miles Davis", "--target", " trumpet"]
WRITE = ["edit", *FACT, "--new", " guitar"]
COMMANDS = ("study", "trace", "edit", "ledger", "undo", "export", "evaluate", "covariance", "models")

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def prose(tmp_path: Path) -> str:
    path = tmp_path / "prose.txt"
    path.write_text(PROSE * 30, encoding="utf-8")
    return str(path)


def error_line(capsys: Capture) -> str:
    """The only thing that was said: one line on stderr."""
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("mechstyle: ")
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    return said.err


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    code = (
        "import sys, mechstyle.cli\n"
        "heavy = {'torch', 'transformer_lens', 'transformers', 'pandas', 'xarray', 'plotly', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_help_answers_at_once() -> None:
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        found = subprocess.run(
            [sys.executable, "-m", "mechstyle", "--help"], capture_output=True, text=True, check=True
        )
        times.append(time.perf_counter() - begun)
    assert all(command in found.stdout for command in COMMANDS)
    assert min(times) < 2.0  # 0.2 s on an idle machine; this one may be busy


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_json_seed_and_quiet(command: str, capsys: Capture) -> None:
    assert run([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert all(option in said for option in ("--json", "--seed", "--quiet", "--help"))


def test_trace_writes_a_trace_and_says_where(tiny_folder: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "trace.nc"
    words = [
        "trace",
        "--model",
        str(tiny_folder),
        *FACT,
        "--kinds",
        "resid,mlp",
        "--samples",
        "2",
        "--out",
        str(out),
    ]
    assert run([*words, "--quiet"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == str(out)
    trace = Trace.load(out)
    assert trace.kinds == ("resid", "mlp")
    assert trace.settings["samples"] == 2
    assert run([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["clean"] == pytest.approx(trace.clean)


def test_covariance_edit_and_evaluate_hand_their_files_on(
    tiny_folder: Path, tmp_path: Path, prose: str, capsys: Capture
) -> None:
    model = ["--model", str(tiny_folder)]
    moments, edit, scores = (str(tmp_path / name) for name in ("c.safetensors", "e.safetensors", "s.json"))
    measure = [
        "covariance",
        *model,
        "--text",
        prose,
        "--layers",
        "0,1",
        "--n-keys",
        "300",
        "--out",
        moments,
        "--json",
    ]
    assert run(measure) == 0
    assert json.loads(capsys.readouterr().out)["count"] == 300
    assert list(Covariance.load(moments)) == [0, 1]

    write = [
        "edit",
        *model,
        *FACT,
        "--new",
        " guitar",
        "--layer",
        "1",
        "--covariance",
        moments,
        "--out",
        edit,
        "--json",
    ]
    assert run(write) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == ["blocks.1.mlp.W_out"]
    assert load_edit(edit).requests[0].new_target == " guitar"

    assert run(["evaluate", *model, "--edit", edit, "--text", prose, "--out", scores, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(Path(scores).read_text(encoding="utf-8"))
    assert set(printed["summary"]) == {"before", "after"}


@pytest.mark.parametrize(
    ("method", "options", "ridge"),
    [("memit", [], 128.0), ("memit", ["--mom2-weight", "3"], 3.0), ("emmet", ["--ridge", "0.5"], 0.5)],
)
def test_edit_writes_all_requests_of_a_file_into_several_layers(
    tiny_folder: Path,
    tmp_path: Path,
    prose: str,
    capsys: Capture,
    method: str,
    options: list[str],
    ridge: float,
) -> None:
    requests, out = tmp_path / "requests.jsonl", tmp_path / "edit.safetensors"
    facts = (
        Fact("{} plays the", "Miles Davis", " trumpet"),
        Fact("{} is the capital of", "Paris", " France"),
    )
    asked = [EditRequest(fact, new) for fact, new in zip(facts, (" guitar", " Italy"), strict=True)]
    write_requests(requests, asked)
    words = ["edit", "--method", method, "--layers", "1,0", "--requests", str(requests), "--out", str(out)]
    words += ["--model", str(tiny_folder), "--text", prose, "--n-keys", "300", *options]
    assert run([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["method"] == method
    assert said["layers"] == [0, 1]
    assert said["parameters"] == ["blocks.0.mlp.W_out", "blocks.1.mlp.W_out"]
    assert all(share > 0 for share in said["relative_norms"].values())
    assert [EditRequest.from_dict(one) for one in said["requests"]] == asked
    edit = load_edit(out)
    assert edit.requests == tuple(asked)
    settings = edit.provenance["settings"]
    assert (settings["method"], settings["layers"], settings["ridge"]) == (method, [0, 1], ridge)
    assert run([*words, "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["'Miles Davis plays the' -> ' guitar'", "'Paris is the capital of' -> ' Italy'"]
    assert lines[-1] == str(out)


def test_rome_refuses_several_requests_and_names_the_methods_that_take_them(
    tiny_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    path, out = tmp_path / "requests.jsonl", tmp_path / "edit.safetensors"
    fact = Fact("{} plays the", "Miles Davis", " trumpet")
    other = Fact("{} is the capital of", "Paris", " France")
    write_requests(path, [EditRequest(fact, " guitar"), EditRequest(other, " Italy")])
    words = ["edit", "--model", str(tiny_folder), "--requests", str(path), "--out", str(out), "--layers", "1"]
    assert run(words) == 2
    said = error_line(capsys)
    assert "rome writes one request into one edit, and the file holds 2" in said
    assert "--method memit or emmet" in said
    assert not out.exists()


def test_what_memit_cannot_write_is_refused_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr("mechstyle.models.load_model", lambda *_: pytest.fail("loaded"))
    path, out = tmp_path / "requests.jsonl", tmp_path / "edit.safetensors"
    fact = Fact("{} plays the", "Miles Davis", " trumpet")
    write_requests(path, [EditRequest(fact, " guitar"), EditRequest(fact, " piano")])
    words = ["edit", "--method", "memit", "--layers", "0,1", "--out", str(out)]
    assert run([*words, "--requests", str(path)]) == 2
    assert "requests[1]: wants ' piano' after 'Miles Davis plays the'" in error_line(capsys)
    write_requests(path, [EditRequest(fact, " guitar")])
    assert run([*words, "--requests", str(path), "--mom2-weight", "0"]) == 2
    assert "--mom2-weight: expected a finite number above 0, got 0.0" in error_line(capsys)
    assert not out.exists()


def test_layers_have_one_option_with_two_names(
    tiny_folder: Path, tmp_path: Path, prose: str, capsys: Capture
) -> None:
    words = ["edit", "--model", str(tiny_folder), *FACT, "--new", " guitar", "--text", prose, "--json"]
    words += ["--n-keys", "300", "--out", str(tmp_path / "edit.safetensors")]
    said = []
    for option in ("--layer", "--layers"):
        assert run([*words, option, "1"]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0] == said[1]
    assert (said[0]["method"], said[0]["layers"]) == ("rome", [1])
    assert said[0]["relative_norms"]["blocks.1.mlp.W_out"] > 0
    assert said[0]["requests"][0]["new_target"] == " guitar"


def test_requests_are_read_from_a_file(
    tiny_folder: Path, tmp_path: Path, prose: str, capsys: Capture
) -> None:
    path = tmp_path / "requests.jsonl"
    write_requests(path, [EditRequest(Fact("{} plays the", "Miles Davis", " trumpet"), " guitar")])
    assert run(["evaluate", "--model", str(tiny_folder), "--requests", str(path), "--quiet"]) == 0
    assert "efficacy" in capsys.readouterr().out


def test_study_ends_with_the_path_of_the_report(
    tiny_folder: Path, tmp_path: Path, prose: str, capsys: Capture
) -> None:
    config = tmp_path / "study.toml"
    config.write_text(
        f"model = {str(tiny_folder)!r}\nsamples = 2\nn_keys = 300\ntext = 'prose.txt'\nlayer = 0\n"
    )
    out = tmp_path / "out"
    words = ["study", "--config", str(config), "--layer", "1", *FACT, "--new", " guitar", "--out", str(out)]
    assert run([*words, "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == str(out / "report.html")
    assert (out / "report.html").is_file()
    assert load_edit(out / "edit.safetensors").parameters == ("blocks.1.mlp.W_out",)


def test_models_lists_what_is_embedded(capsys: Capture) -> None:
    assert run(["models", "--json"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out)["models"], list)


def test_a_target_without_its_space_is_helped_and_noted(
    tiny_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = str(tmp_path / "trace.nc")
    words = ["--prompt", "Miles Davis plays the", "--subject", "Miles Davis", "--target", "trumpet"]
    assert run(["trace", "--model", str(tiny_folder), *words, "--samples", "1", "--quiet", "--out", out]) == 0
    assert "--target: took ' trumpet' for 'trumpet'" in capsys.readouterr().err
    assert Trace.load(out).settings["fact"]["target"] == " trumpet"
    assert Trace.load(out).settings["fact"]["template"] == "{} plays the"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["study"], "--out"),
        (["study", "--out", "out", "--surprise"], "--surprise"),
        (["trace", "--out", "t.nc", "--samples", "many"], "--samples"),
        (["trace", "--out", "t.nc", "--prompt", "{} plays the"], "--subject, --target missing"),
        (
            ["trace", "--out", "t.nc", "--prompt", "He plays", "--subject", "Miles", "--target", " a"],
            "names it 0 times",
        ),
        (
            ["study", "--out", "out", "--prompt", "{} plays the", "--subject", "Miles", "--target", " a"],
            "--new missing",
        ),
        (["study", "--out", "out", "--paraphrase", "Miles plays the"], "--paraphrase belongs to a fact"),
        (["edit", "--layer", "1", "--out", "e"], "give either --requests FILE or --prompt"),
        (
            [*WRITE, "--out", "e", "--layers", "1,1", "--method", "memit"],
            "--layers 1,1: expected different layers",
        ),
        (
            [*WRITE, "--out", "e", "--layers", "1", "--method", "emmet", "--ridge", "-1"],
            "--ridge: expected a finite number 0 or more, got -1.0",
        ),
        ([*WRITE, "--out", "e", "--layers", "1,two"], "--layers: expected whole numbers with commas"),
        ([*WRITE, "--out", "e", "--layers", "1", "--method", "remit"], "--method"),
        (
            [*WRITE, "--out", "e", "--layers", "1", "--method", "memit", "--ridge", "1"],
            "--ridge belongs to --method emmet, not to --method memit",
        ),
        (
            [*WRITE, "--out", "e", "--layer", "1", "--mom2-weight", "1"],
            "--mom2-weight belongs to --method memit, not to --method rome",
        ),
        (["evaluate"], "nothing to score"),
        (["covariance", "--layers", "1,two", "--out", "c"], "--layers: expected whole numbers"),
        (["study", "--config", "missing.toml", "--out", "out"], "cannot read missing.toml"),
        (["nonsense"], "nonsense"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(words) == 2
    assert message in error_line(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("layers = 3", "unknown settings layers; known: model"),
        ("layer = 'three'", "layer must be int, got 'three'"),
        ("samples = true", "samples must be int"),
        ("layer = ", "is not TOML"),
        ("requests = [3]", "must be a table"),
        ("[[requests]]\nnew_target = ' a'", "missing: fact"),
    ],
)
def test_a_wrong_configuration_is_one_line_and_exit_code_2(
    content: str, message: str, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "study.toml"
    path.write_text(content)
    assert run(["study", "--config", str(path), "--out", str(tmp_path / "out")]) == 2
    assert message in error_line(capsys)
    assert not (tmp_path / "out").exists()


def test_an_unknown_model_is_wrong_input(tmp_path: Path, capsys: Capture) -> None:
    out = str(tmp_path / "trace.nc")
    assert run(["trace", "--model", "no-such-model", *FACT, "--out", out, "--quiet"]) == 2
    assert "no-such-model" in error_line(capsys)


def test_an_unwritable_place_is_wrong_input_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr("mechstyle.models.load_model", lambda *_: pytest.fail("loaded"))
    assert run(["trace", *FACT, "--out", str(tmp_path / "nowhere" / "t.nc")]) == 2
    assert "does not exist" in error_line(capsys)


@pytest.mark.parametrize(
    ("error", "code"),
    [(WorkError("it diverged\nbadly"), 1), (ValueError("surprise"), 1), (TextError("empty"), 2)],
)
def test_failures_of_the_work_are_exit_code_1(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("mechstyle.models.list_models", fail)
    assert run(["models"]) == code
    assert " ".join(str(error).split()) in error_line(capsys)


def test_a_traceback_is_shown_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ValueError("surprise")

    monkeypatch.setattr("mechstyle.models.list_models", fail)
    monkeypatch.setenv(mechstyle.cli.TRACEBACK, "1")
    with pytest.raises(ValueError, match="surprise"):
        run(["models"])
