"""``mechstyle covariance``: what it says and keeps, how it goes on after Ctrl-C, and its sources of text."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import mechstyle.documents
import mechstyle.editing.covariance
from mechstyle.cli import run
from mechstyle.cli.interrupts import stopped_between
from mechstyle.editing.covariance import Covariance
from mechstyle.editing.edit import load_edit

PARAGRAPHS = [f"Miles Davis plays the trumpet, and take {number} was long.\n\n" for number in range(60)]
FACT = ["--prompt", "{} plays the", "--subject", "Miles Davis", "--target", " trumpet", "--new", " guitar"]

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """As in a terminal: a run of the tests in the background may have been told to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_work_that_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stopped_between(["one", "two"]) as texts:
        os.kill(os.getpid(), signal.SIGINT)
        assert list(texts) == ["one", "two"]
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MECHSTYLE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "covariance"


@pytest.fixture
def prose(tmp_path: Path) -> Path:
    folder = tmp_path / "prose"
    folder.mkdir()
    for name in ("b.txt", "a.txt"):
        (folder / name).write_text("".join(PARAGRAPHS).replace("take", f"take {name}"), encoding="utf-8")
    return folder


@pytest.fixture
def words(tiny_folder: Path, prose: Path, tmp_path: Path) -> list[str]:
    return [
        "covariance", "--model", str(tiny_folder), "--text", str(prose), "--layers", "0,1",
        "--n-keys", "1200", "--out", str(tmp_path / "c.safetensors"),
    ]  # fmt: skip


def spoken(words: list[str], capsys: Capture) -> dict[str, Any]:
    assert run([*words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def contents(path: Path) -> tuple[dict[int, list[float]], int, Any]:
    """All that a file of moments holds; its bytes may stand in another order."""
    found = Covariance.load(path)
    return {layer: found[layer].flatten().tolist() for layer in found}, found.count, found.provenance


def test_condition_and_ridge_of_each_layer_are_said_and_stored(
    words: list[str], tmp_path: Path, capsys: Capture
) -> None:
    said = spoken(words, capsys)
    moments = Covariance.load(tmp_path / "c.safetensors")
    for layer in moments:
        number, jitter = moments.condition_number(layer), moments.jitter(layer)
        # The processor's rounding decides whether the least eigenvalue is above 0; JSON has no infinity.
        told = None if math.isinf(number) else number
        assert said["condition_numbers"][str(layer)] == (None if told is None else pytest.approx(number))
        assert said["jitters"][str(layer)] == jitter
        stored = moments.provenance["condition"][str(layer)]
        assert stored == {"condition_number": said["condition_numbers"][str(layer)], "jitter": jitter}
    settings = moments.provenance["settings"]
    assert (said["count"], said["n_texts"]) == (1200, settings["n_texts"])
    assert said["text_sha256"] == settings["text_sha256"]
    assert run([*words, "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"1200 keys of {settings['n_texts']} texts"
    assert [line.startswith(f"layer {layer}: condition number ") for layer, line in enumerate(lines[1:3])]
    assert lines[-1] == str(tmp_path / "c.safetensors")


@pytest.mark.filterwarnings("default::mechstyle.editing.covariance.CovarianceWarning")
def test_the_ridge_that_a_singular_moment_needs_is_said(words: list[str], capsys: Capture) -> None:
    said = spoken([*words, "--n-keys", "60"], capsys)
    # Jitters grow tenfold until one works; which one that is depends on the processor's rounding.
    assert all(0 < jitter < 1e-5 for jitter in said["jitters"].values())
    assert run([*words, "--n-keys", "60"]) == 0
    heard = capsys.readouterr()
    assert "inverted with a ridge of " in heard.out
    assert "60 keys cannot fill a matrix of rank d_mlp = 128" in heard.err


def test_a_second_time_nothing_is_measured_unless_the_cache_is_refused(
    words: list[str], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    first = spoken(words, capsys)
    content = contents(tmp_path / "c.safetensors")
    runs: list[int] = []
    capture = mechstyle.editing.covariance.capture

    def counting(*given: Any, **named: Any) -> Any:
        runs.append(1)
        return capture(*given, **named)

    monkeypatch.setattr(mechstyle.editing.covariance, "capture", counting)
    assert spoken(words, capsys) == first
    assert runs == []
    assert contents(tmp_path / "c.safetensors") == content
    assert len(list(cache.iterdir())) == 2
    assert spoken([*words, "--no-cache"], capsys) == first
    assert runs
    assert len(list(cache.iterdir())) == 2
    # An edit of one of the layers finds what the command measured.
    runs.clear()
    edit = ["edit", *words[1:5], *FACT, "--layer", "1", "--n-keys", "1200", "--out", str(tmp_path / "e")]
    spoken(edit, capsys)
    assert runs == []
    spoken([*edit, "--no-cache"], capsys)
    assert runs
    assert load_edit(tmp_path / "e").provenance["settings"]["covariance"]["settings"]["layers"] == [1]


def test_after_ctrl_c_the_same_command_goes_on_and_ends_with_the_same_file(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    out, checkpoint = tmp_path / "c.safetensors", tmp_path / "c.safetensors.checkpoint"
    assert run([*words, "--no-cache", "--quiet"]) == 0
    whole = contents(out)
    out.unlink()
    capsys.readouterr()

    n_batches = -(-whole[2]["settings"]["n_texts"] // 16)
    add, batches = mechstyle.editing.covariance._add_keys, [0]

    def pressed(*given: Any) -> None:
        batches[0] += 1
        if batches[0] == 2:
            os.kill(os.getpid(), signal.SIGINT)  # in the middle of the second batch
        add(*given)

    monkeypatch.setattr(mechstyle.editing.covariance, "_add_keys", pressed)
    assert run([*words, "--no-cache", "--quiet"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert f"interrupted; {checkpoint} keeps what was measured: run the same command to go on" in said.err
    assert checkpoint.exists()
    assert not out.exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    assert run([*words, "--no-cache", "--n-keys", "1100"]) == 2
    assert "was written with another n_keys" in capsys.readouterr().err
    before = batches[0]
    assert run([*words, "--no-cache", "--quiet"]) == 0
    assert batches[0] - before == n_batches - 2  # the interrupted batch was finished, and kept
    assert contents(out) == whole
    assert not checkpoint.exists()


def test_ctrl_c_before_anything_was_measured_leaves_nothing(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    paragraphs = mechstyle.documents.paragraphs

    def pressed(path: Path) -> Iterator[str]:
        for number, text in enumerate(paragraphs(path)):
            if number == 25:
                os.kill(os.getpid(), signal.SIGINT)
            yield text

    monkeypatch.setattr(mechstyle.documents, "paragraphs", pressed)
    assert run([*words, "--quiet"]) == 1
    assert "interrupted before anything was measured; run the same command" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prose"]


def test_a_second_ctrl_c_is_not_held_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), stopped_between(["one"]):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second one was held back")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_data_set_of_the_hub_may_be_named(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    rows = [{"text": text} for text in PARAGRAPHS * 2]
    asked: list[tuple[Any, ...]] = []

    def load_dataset(*given: Any, **named: Any) -> list[dict[str, str]]:
        asked.append((*given, named["split"]))
        return rows

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    place = words.index("--text") + 1
    spoken([*words[:place], "hub:owner/books:en:test", *words[place + 1 :]], capsys)
    assert set(asked) == {("owner/books", "en", "test")}
    settings = Covariance.load(tmp_path / "c.safetensors").provenance["settings"]
    assert settings["n_texts"] < len(rows)


def test_a_progress_bar_is_shown_unless_it_is_quiet(words: list[str], capsys: Capture) -> None:
    assert run([*words, "--no-cache"]) == 0
    assert "second moments" in capsys.readouterr().err
    assert run([*words, "--no-cache", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_moments_of_a_folder_are_those_of_its_files_in_order(
    words: list[str], prose: Path, tmp_path: Path, capsys: Capture
) -> None:
    said = spoken(words, capsys)
    found = Covariance.load(tmp_path / "c.safetensors")
    one = tmp_path / "one.txt"
    one.write_text("".join((prose / name).read_text() for name in ("a.txt", "b.txt")), encoding="utf-8")
    place = words.index("--text") + 1
    assert spoken([*words[:place], str(one), *words[place + 1 :], "--no-cache"], capsys) == said
    again = Covariance.load(tmp_path / "c.safetensors")
    assert all(torch.equal(again[layer], found[layer]) for layer in found)


def test_a_study_is_the_same_with_and_without_the_cache(
    words: list[str], tmp_path: Path, cache: Path, capsys: Capture
) -> None:
    study = ["study", *words[1:5], *FACT, "--layer", "1", "--samples", "1", "--n-keys", "300"]
    spoken([*study, "--out", str(tmp_path / "plain"), "--no-cache"], capsys)
    assert not cache.exists()
    spoken([*words, "--layers", "1", "--n-keys", "300"], capsys)
    (measured,) = cache.iterdir()
    spoken([*study, "--out", str(tmp_path / "cached")], capsys)
    assert list(cache.iterdir()) == [measured]
    plain, cached = (load_edit(tmp_path / name / "edit.safetensors") for name in ("plain", "cached"))
    assert torch.equal(plain.delta("blocks.1.mlp.W_out"), cached.delta("blocks.1.mlp.W_out"))
    assert plain.provenance == cached.provenance
