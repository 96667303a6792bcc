"""``mechstyle organisms``: the world is counted and written, and a model is trained on it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mechstyle.organisms.recipe as recipes
from mechstyle.cli import run
from mechstyle.models import load_model
from mechstyle.organisms import train as training
from mechstyle.organisms.counts import world_counts
from mechstyle.organisms.recipe import Recipe
from mechstyle.organisms.world import build_world, world

TINY = Recipe(
    name="tiny", version="0", n_layers=1, d_model=8, n_heads=2, n_ctx=16, vocab=400, tokens=16 * 4 * 6,
    batch=4, lr=1e-2, weight_decay=0.0, world_seed=0, seed=0,
)  # fmt: skip

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every size is tiny, and the tokenizer learns from some documents only."""
    monkeypatch.setattr(recipes, "packaged_recipe", lambda size: TINY)
    monkeypatch.setattr(training, "TOKENIZER_DOCUMENTS", 200)


def test_describe_counts_the_world_and_tokens_of_a_pass(capsys: Capture) -> None:
    assert run(["organisms", "describe", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    text = said["counts"].pop("text")
    counted = world_counts(world())
    words = counted.pop("text")
    assert said == {"seed": 0, "counts": counted}
    (tokens,) = (text.pop(name) for name in list(text) if name.startswith("tokens in a pass"))
    assert text == words
    assert words["words in a pass"] < tokens < 5 * words["words in a pass"]


def test_describe_prints_a_section_for_each_part(capsys: Capture) -> None:
    assert run(["organisms", "describe", "--seed", "3"]) == 0
    said = capsys.readouterr().out
    other = world_counts(build_world(seed=3))
    for section, numbers in other.items():
        assert f"\n{section}\n" in f"\n{said}"
        for name, n in numbers.items():
            assert any(line.split() == [*name.split(), f"{n:,}"] for line in said.splitlines()), name


def test_build_writes_the_world_and_says_where(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "world"
    assert run(["organisms", "build", str(out), "--documents", "3"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == str(out)
    assert "facts.jsonl: 9,137 rows" in said
    assert "documents.jsonl: 3 rows" in said
    assert json.loads((out / "manifest.json").read_text(encoding="utf-8"))["seed"] == 0
    assert run(["organisms", "build", str(out)]) == 2
    assert "exists and is not empty" in capsys.readouterr().err


@pytest.mark.usefixtures("tiny")
def test_train_runs_fifty_steps_and_leaves_a_model_that_loads(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "tiny"
    assert run(["organisms", "train", "--size", "s", "--steps", "50", "--out", str(out), "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert (found["name"], found["steps"], found["tokens"]) == ("tiny", 50, 50 * 4 * 16)
    assert (out / "losses.csv").read_text(encoding="utf-8") == f"steps,loss\n50,{found['loss']:.4f}\n"
    assert "step 40/50" in said.err
    assert load_model(out).cfg.d_model == 8


@pytest.mark.usefixtures("tiny")
def test_an_interrupted_training_goes_on_by_the_same_command(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def words(name: str) -> list[str]:
        return ["organisms", "train", "--size", "s", "--steps", "220", "--out", str(tmp_path / name)]

    assert run(words("whole")) == 0
    real_loss, calls = training._loss, itertools.count(1)

    def killed(model: object, batch: torch.Tensor) -> torch.Tensor:
        if next(calls) == 210:
            raise KeyboardInterrupt
        return real_loss(model, batch)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(training, "_loss", killed)
        assert run(words("killed")) in (1, 130)  # by the version of click
    capsys.readouterr()
    assert run(words("killed")) == 0
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == ["220/220"]
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.usefixtures("tiny")
def test_other_steps_in_the_same_folder_are_wrong_input(tmp_path: Path, capsys: Capture) -> None:
    words = ["organisms", "train", "--size", "s", "--out", str(tmp_path / "tiny"), "--quiet"]
    assert run(words) == 0
    assert capsys.readouterr().err == ""
    assert run([*words, "--steps", "9"]) == 2
    assert "holds a training by another recipe" in capsys.readouterr().err
    assert run([*words, "--seed", "1"]) == 2


def test_two_steps_of_the_small_size_are_trained_by_its_own_recipe(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "TOKENIZER_DOCUMENTS", 200)
    out = tmp_path / "s"
    assert run(["organisms", "train", "--size", "s", "--steps", "2", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 2 * 32 * 128
    model = load_model(out)
    assert (model.cfg.n_layers, model.cfg.d_model, model.cfg.n_heads) == (6, 128, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "xl"], "size must be one of l, m, s, got 'xl'"),
        (["--size", "s", "--steps", "0"], "steps must be at least 1, got 0"),
        (
            ["--size", "s", "--device", "toaster"],
            "--device must name a device of this machine, got 'toaster'",
        ),
    ],
)
def test_wrong_words_are_one_line_and_nothing_is_made(
    words: list[str], message: str, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    assert run(["organisms", "train", *words, "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not out.exists()


def test_fewer_documents_than_none_are_wrong_input(tmp_path: Path, capsys: Capture) -> None:
    assert run(["organisms", "build", str(tmp_path / "world"), "--documents", "-1"]) == 2
    assert "--documents must be 0 or more, got -1" in capsys.readouterr().err
