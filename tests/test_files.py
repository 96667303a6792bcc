from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from mechstyle.errors import FileError
from mechstyle.files import atomic_folder, atomic_write

WRITERS = [atomic_write, atomic_folder]
Writer = Callable[[Path], AbstractContextManager[Path]]


def fill(part: Path, text: str) -> None:
    (part / "a.txt" if part.is_dir() else part).write_text(text)


def test_a_file_appears_only_when_the_block_has_succeeded(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    with atomic_write(path) as part:
        part.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_only_when_the_block_has_succeeded(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with atomic_folder(path) as part:
        fill(part, "new")
        assert not path.exists()
    assert (path / "a.txt").read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_older_file_as_it_was(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("old")
    with pytest.raises(error), atomic_write(path) as part:
        part.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_failure_leaves_nothing_behind(writer: Writer, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), writer(tmp_path / "out") as part:
        fill(part, "half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("writer", WRITERS)
def test_a_missing_parent_folder_is_named(writer: Writer, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="the folder .*/nowhere does not exist. Create it first"):
        writer(tmp_path / "nowhere" / "out").__enter__()


@pytest.mark.parametrize("writer", WRITERS)
def test_a_folder_without_write_permission_is_an_error(
    writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)  # root may write everywhere, so the system is played here
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(FileError, match="Permission denied. Choose a place that can be written to"):
        writer(tmp_path / "out").__enter__()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("writer", WRITERS)
def test_what_the_system_says_while_writing_is_passed_on(writer: Writer, tmp_path: Path) -> None:
    with (
        pytest.raises(FileError, match=r"cannot write .*out: No space left on device"),
        writer(tmp_path / "out"),
    ):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_not_overwritten_by_a_file_nor_a_full_folder_by_another(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept.txt").write_text("kept")
    with pytest.raises(FileError, match="it is a folder. Name a file inside it"):
        atomic_write(tmp_path / "full").__enter__()
    with pytest.raises(FileError, match="it exists and is not empty. Name a new folder"):
        atomic_folder(tmp_path / "full").__enter__()
    with pytest.raises(FileError, match="it exists and is not empty"):
        atomic_folder(tmp_path / "full" / "kept.txt").__enter__()
    assert (tmp_path / "full" / "kept.txt").read_text() == "kept"
