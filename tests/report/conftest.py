"""One small finished study of a hostile fact, shared by the tests of the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from mechstyle.facts import EditRequest, Fact
from mechstyle.report import Report
from mechstyle.study import StudyConfig, run_study

PROSE = "Miles Davis plays the trumpet. Paris is the capital of France. The day was long.\n\n"


@pytest.fixture(scope="session")
def hostile() -> EditRequest:
    """A request whose every text would break out of carelessly written HTML."""
    return EditRequest(
        Fact("{} <img src=x>", "</script><b>M", " <i>"),
        " </script>",
        paraphrases=("I: </script><b>M is",),
        neighborhood=(("A <u>B", " <i>"), ("B & E", " piano")),
    )


@pytest.fixture(scope="session")
def report(tiny_folder: Path, hostile: EditRequest, tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("study")
    (folder / "prose.txt").write_text(PROSE * 30, encoding="utf-8")
    plain = EditRequest(Fact("{} plays the", "Miles Davis", " trumpet"), " guitar")
    config = StudyConfig(
        out=folder / "out",
        model=str(tiny_folder),
        requests=(hostile, plain),
        samples=2,
        text=folder / "prose.txt",
        n_keys=300,
    )
    return run_study(config)
