"""Texts come from files, folders and the hub, in order, in pieces, and as often as they are asked for."""

from __future__ import annotations

import re
import sys
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mechstyle import organisms
from mechstyle.documents import documents_for, read_documents, text_stream
from mechstyle.documents.files import LONGEST, paragraphs
from mechstyle.errors import FileError, InputError

Rows = list[dict[str, Any]]


@given(st.text(alphabet="ab \t\n\r\x0b\x85\u2003é", max_size=60))
@example("\n \n a\n b \n\t\n\r\nc")
def test_paragraphs_are_what_blank_lines_separate(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(text, encoding="utf-8", newline="")
    whole = path.read_text(encoding="utf-8")
    expected = [part.strip() for part in re.split(r"\n\s*\n", whole) if part.strip()]
    assert list(paragraphs(path)) == expected


def test_a_folder_gives_all_text_files_below_it_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/b/c.txt", "notes.md", "c.txt/d.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"first of {name}\n\nsecond of {name}\n", encoding="utf-8")
    found = text_stream(tmp_path)
    order = ("a/b/c.txt", "a/z.txt", "b.txt", "c.txt/d.txt")
    expected = [f"{number} of {name}" for name in order for number in ("first", "second")]
    assert list(found) == list(found) == expected == list(read_documents(tmp_path))


def test_a_large_file_is_never_held_whole_not_even_as_one_line(tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    n_characters = 12 * LONGEST
    path.write_text("word and word again " * (n_characters // 20), encoding="utf-8")
    tracemalloc.start()
    try:
        pieces = sum(1 for _ in text_stream(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert pieces == 12
    assert peak < n_characters / 2


def test_reading_goes_no_further_than_the_documents_that_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n\n", encoding="utf-8")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    stream = iter(text_stream(tmp_path))
    assert [next(stream), next(stream)] == ["one", "two"]
    with pytest.raises(FileError, match=r"cannot read .*b\.txt: .*Name a text file in UTF-8"):
        next(stream)


@pytest.mark.parametrize(
    ("n_texts", "n_kept"), [(1, 0), (9, 0), (10, 1), (25, 2), (199, 19), (200, 20), (450, 20)]
)
def test_the_last_tenth_of_a_file_is_kept_apart_but_no_more_than_twenty(
    tmp_path: Path, n_texts: int, n_kept: int
) -> None:
    path = tmp_path / "text.txt"
    texts = [f"document {index}" for index in range(n_texts)]
    path.write_text("\n\n".join(texts), encoding="utf-8")
    found = documents_for("any", path)
    assert list(found.texts) == list(found.texts) == texts[: n_texts - n_kept]
    assert found.held_out == tuple(texts[n_texts - n_kept :])
    assert found.source == str(path)


def test_an_organism_brings_its_own_texts() -> None:
    found = documents_for("organism-m", None, seed=3)
    assert found.texts == organisms.texts("organism-m", seed=3)
    assert len(found.held_out) == 20
    assert not set(found.held_out) & set(found.texts)


def test_places_without_text_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such file or folder"):
        documents_for("any", tmp_path / "missing")
    with pytest.raises(FileError, match=r"it holds no \*\.txt"):
        documents_for("any", tmp_path)
    (tmp_path / "empty.txt").write_text(" \n\n ")
    with pytest.raises(FileError, match="holds no text"):
        documents_for("any", tmp_path)
    with pytest.raises(InputError, match="'any' brings no texts of its own"):
        documents_for("any", None)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in for the library ``datasets``: it serves ``rows`` and notes what was asked."""
    fake = SimpleNamespace(rows=[], asked=[], served=0)

    def load_dataset(
        name: str, config: str | None, *, split: str, streaming: bool
    ) -> Iterator[dict[str, Any]]:
        assert streaming
        fake.asked.append((name, config, split))
        return served()

    def served() -> Iterator[dict[str, Any]]:
        for row in fake.rows:
            if isinstance(row, Exception):
                raise row
            fake.served += 1
            yield row

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return fake


@pytest.mark.parametrize(
    ("source", "asked", "texts"),
    [
        ("hub:owner/books", ("owner/books", None, "train"), ["one", "two"]),
        ("hub:owner/books:en", ("owner/books", "en", "train"), ["one", "two"]),
        ("hub:owner/books:en:test", ("owner/books", "en", "test"), ["one", "two"]),
        ("hub:owner/books:::title", ("owner/books", None, "train"), ["I", "II"]),
    ],
)
def test_a_data_set_of_the_hub_is_streamed(
    hub: SimpleNamespace, source: str, asked: tuple[str, str | None, str], texts: list[str]
) -> None:
    hub.rows = [{"title": "I", "text": " one "}, {"title": "", "text": "\n"}, {"title": "II", "text": "two"}]
    assert list(text_stream(source)) == texts
    assert set(hub.asked) == {asked}


def test_the_only_column_of_text_needs_no_name(hub: SimpleNamespace) -> None:
    hub.rows = [{"id": 1, "body": "one"}, {"id": 2, "body": "two"}]
    assert list(text_stream("hub:owner/books")) == ["one", "two"]


def test_no_more_of_a_data_set_is_fetched_than_is_read_and_the_first_texts_are_kept_apart(
    hub: SimpleNamespace,
) -> None:
    hub.rows = [{"text": f"document {index}"} for index in range(10_000)]
    found = documents_for("any", "hub:owner/books")
    hub.served = 0
    assert list(islice(found.texts, 300)) == [f"document {index}" for index in range(20, 320)]
    assert hub.served == 320
    assert found.held_out == tuple(f"document {index}" for index in range(20))


@pytest.mark.parametrize(
    ("source", "rows", "error", "message"),
    [
        (
            "hub:",
            [],
            InputError,
            r"text: expected hub:owner/name\[:config\[:split\[:column\]\]\], got 'hub:'",
        ),
        ("hub:a:b:c:d:e", [], InputError, "got 'hub:a:b:c:d:e'"),
        ("hub:a/b", [], FileError, "hub:a/b: it holds no text"),
        (
            "hub:a/b",
            [{"x": "one", "y": "two"}],
            InputError,
            "one column of text in 'a/b', got columns 'x', 'y'",
        ),
        (
            "hub:a/b:::z",
            [{"x": "one"}],
            InputError,
            "a column 'z' in 'a/b', got columns 'x'; name it as in hub:",
        ),
        (
            "hub:a/b",
            [ConnectionError("no route")],
            FileError,
            "cannot stream 'a/b'.*: no route. Check the name",
        ),
        ("hub:a/b:xx", [ValueError("unknown config")], FileError, r"\(config xx, split 'train'\)"),
    ],
)
def test_what_the_hub_cannot_give_is_said(
    hub: SimpleNamespace, source: str, rows: Rows, error: type[Exception], message: str
) -> None:
    hub.rows = rows
    with pytest.raises(error, match=message):
        documents_for("any", source)


def test_without_the_library_its_name_and_the_way_around_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'mechstyle\[hub\]', or name a text file or folder"):
        text_stream("hub:owner/books")
