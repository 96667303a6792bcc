"""What the tests of the commands share: a model that is loaded once, requests and second moments on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformer_lens import HookedTransformer

import mechstyle.models
from mechstyle.cli import run
from mechstyle.datasets import write_requests
from mechstyle.editing.covariance import covariance
from mechstyle.facts import EditRequest, Fact
from mechstyle.models import fingerprint, load_model

REQUESTS = [
    EditRequest(Fact("{} plays the", "Miles Davis", " trumpet"), " guitar", phrasings=("{} plays",)),
    EditRequest(Fact("{} is the capital of", "Paris", " France"), " Italy"),
    EditRequest(Fact("The instrument of {} is the", "Bill Evans", " piano"), " trumpet"),
]
PROSE = "Chet Baker plays the trumpet too. Zürich is a city. The day was long.\n\n"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def _shared(tiny_folder: Path) -> HookedTransformer:
    return load_model(tiny_folder)


@pytest.fixture(autouse=True)
def model(
    _shared: HookedTransformer, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HookedTransformer]:
    """The tiny model, which commands get for its folder; each test leaves it as it was."""
    real, before = mechstyle.models.load_model, fingerprint(_shared)
    monkeypatch.setattr(
        mechstyle.models,
        "load_model",
        lambda name: _shared if name == str(tiny_folder) else real(name),
    )
    monkeypatch.setenv("MECHSTYLE_CACHE", str(tmp_path / "cache"))
    yield _shared
    assert fingerprint(_shared) == before


@pytest.fixture(scope="session")
def moments(_shared: HookedTransformer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Second moments of layers 0 and 1, as a file."""
    return covariance(_shared, [PROSE] * 40, layers=[0, 1], n_keys=400).save(
        tmp_path_factory.mktemp("moments") / "c.safetensors"
    )


@pytest.fixture
def prose(tmp_path: Path) -> Path:
    path = tmp_path / "prose.txt"
    path.write_text(PROSE * 40, encoding="utf-8")
    return path


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    """Three requests, as a file."""
    path = tmp_path / "requests.jsonl"
    write_requests(path, REQUESTS)
    return path


@pytest.fixture
def mechstyle_run(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """A function (words) -> exit code, stdout and stderr; on the tiny model, without progress."""

    def call(*words: Any) -> tuple[int, str, str]:
        code = run([*map(str, words), "--model", str(tiny_folder), "--quiet"])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call
