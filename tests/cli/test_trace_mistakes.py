"""What is wrong with a ``mechstyle trace`` is told in one line, with exit code 2; nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mechstyle.facts import Fact
from tests.cli.conftest import Run

ONE = ("--prompt", "The {} plays the", "--subject", "Miles Davis", "--target", " trumpet")
FACTS = (Fact("{} plays the", "Miles Davis", " trumpet"), Fact("{} plays the", "Chet Baker", " trumpet"))
MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown kind": (("--kinds", "resid,keys"), "keys"),
    "no kind": (("--kinds", ""), "kinds"),
    "a kind twice": (("--kinds", "mlp,mlp"), "kinds"),
    "unknown metric": (("--metric", "accuracy"), "accuracy"),
    "unknown corruption": (("--corruption", "dropout"), "dropout"),
    "window 0": (("--window", "0"), "window"),
    "samples 0": (("--samples", "0"), "samples"),
    "negative noise": (("--noise", "-1"), "noise"),
    "noise not a number": (("--noise", "nan"), "noise"),
    "empty answer": (("--answer", " "), "answer"),
    "no answer tokens": (("--answer-tokens", "0"), "answer_tokens|answer-tokens"),
    "contrast with itself": (("--contrast", " trumpet"), "Contrast|contrast"),
    "neuron without a layer": (("--kinds", "neurons"), "neuron_layer|neuron-layer"),
    "a layer without neurons": (("--neuron-layer", "1"), "neurons"),
    "a layer that is not there": (("--kinds", "neurons", "--neuron-layer", "99"), "99"),
    "a set without tokens": (("--tokens", "all="), "tokens|all"),
    "a set without a name": (("--tokens", "=1,2"), "tokens"),
    "a token that is not there": (("--tokens", "far=99"), "99"),
    "a role that is not there": (("--tokens", "far=the end"), "the end"),
    "a counterpart of another length": (
        ("--corruption", "replacement", "--counterpart", "Zürich in Switzerland"),
        "corruption",
    ),
    "a counterpart without replacement": (("--counterpart", "Chet Baker"), "counterpart"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(mechstyle_run: Run, tmp_path: Path, name: str) -> None:
    words, says = MISTAKES[name]
    out = tmp_path / "trace.nc"
    code, said, told = mechstyle_run("trace", *ONE, "--out", out, *words)
    assert code == 2
    assert said == ""
    assert any(part in told for part in says.split("|"))
    assert "Traceback" not in told
    assert list(tmp_path.glob("trace*")) == []


@pytest.mark.parametrize("content", ["", "[]", "{", "[1, 2]", '[{"subject": "Miles Davis"}]'])
def test_a_dataset_that_is_empty_or_no_dataset_is_refused_before_a_folder_is_made(
    mechstyle_run: Run, tmp_path: Path, content: str
) -> None:
    path, out = tmp_path / "facts.json", tmp_path / "traces"
    path.write_text(content)
    code, _, told = mechstyle_run("trace", "--dataset", path, "--out", out)
    assert code == 2
    assert "Traceback" not in told
    assert not out.exists() or list(out.iterdir()) == []


def test_a_dataset_of_unknown_facts_leaves_no_half_of_a_folder(mechstyle_run: Run, tmp_path: Path) -> None:
    path, out = tmp_path / "facts.jsonl", tmp_path / "traces"
    path.write_text("".join(json.dumps(fact.to_dict()) + "\n" for fact in FACTS))
    code, _, told = mechstyle_run("trace", "--dataset", path, "--out", out)
    assert code == 2
    assert "none of the 2 can be traced: 2 not known" in told
    assert list(out.glob("*.nc")) == []
    assert not (out / "summary.json").exists()
