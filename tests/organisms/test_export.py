"""The world as files: whole, checked, read back into the same records; and what is counted of it."""

from __future__ import annotations

import hashlib
import itertools
import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from mechstyle.errors import FileError, RangeError
from mechstyle.organisms.counts import world_counts
from mechstyle.organisms.export import read_world, world_records, write_world
from mechstyle.organisms.mixing import documents
from mechstyle.organisms.world import read_prose, world
from tests.test_docs import ROOT, _run_page


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The world's folder and its manifest. Do not change it."""
    folder = tmp_path_factory.mktemp("world") / "files"
    return folder, write_world(folder, sample=7)


def lines(file: str) -> int:
    text = resources.files("mechstyle.organisms").joinpath("data", file).read_text(encoding="utf-8")
    return len(text.splitlines())


def test_what_is_written_is_read_back_into_the_same_records(written: tuple[Path, dict[str, Any]]) -> None:
    read = read_world(written[0])
    records = world_records(world())
    assert read.keys() == records.keys()
    for name, some in records.items():
        assert read[name] == tuple(some), name


def test_the_manifest_names_every_file_with_its_rows_and_sum(written: tuple[Path, dict[str, Any]]) -> None:
    folder, manifest = written
    assert json.loads((folder / "manifest.json").read_text(encoding="utf-8")) == manifest
    assert {path.name for path in folder.iterdir()} == {*manifest["files"], "manifest.json"}
    for name, entry in manifest["files"].items():
        data = (folder / name).read_bytes()
        assert entry == {"rows": data.count(b"\n"), "sha256": hashlib.sha256(data).hexdigest()}
    assert manifest["counts"] == world_counts(world())


def test_sampled_documents_are_the_first_that_models_read(written: tuple[Path, dict[str, Any]]) -> None:
    rows = (written[0] / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    stream = documents(world(), read_prose(), seed=1)
    assert [json.loads(row) for row in rows] == [{"text": text} for text in itertools.islice(stream, 7)]


def test_a_file_that_was_changed_or_is_missing_is_refused(
    written: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    for path in written[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    facts = tmp_path / "facts.jsonl"
    facts.write_bytes(facts.read_bytes().replace(b"actor", b"baker", 1))
    with pytest.raises(FileError, match="facts.jsonl: expected the file that manifest.json names"):
        read_world(tmp_path)
    facts.unlink()
    with pytest.raises(FileError, match="cannot read .*facts.jsonl: No such file"):
        read_world(tmp_path)
    (tmp_path / "manifest.json").write_text("[]", encoding="utf-8")
    with pytest.raises(FileError, match="expected the manifest of a world"):
        read_world(tmp_path)


def test_a_folder_that_holds_something_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileError, match="it exists and is not empty"):
        write_world(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(RangeError, match="sample must be 0 or more documents, got -1"):
        write_world(tmp_path / "new", sample=-1)


def test_counts_are_those_of_the_packaged_rows_and_sections_add_up() -> None:
    counts = world_counts(world())
    assert counts["facts"]["real"] == lines("facts.jsonl") == sum(counts["real facts by relation"].values())
    assert counts["facts"]["invented"] == lines("invented.jsonl")
    assert counts["facts"]["invented"] == sum(counts["invented facts by relation"].values())
    assert lines("future.jsonl") == sum(counts["future facts by relation"].values())
    assert counts["facts"]["subjects"] == len({fact.subject for fact in world().facts})
    for part in ("reversals by relation", "two-hops by kind"):
        assert sum(counts[part].values()) == sum(counts[part.split(" ")[0]].values())
    assert sum(counts["questions"].values()) == len(world().items())
    styles = counts["styles"]
    told = styles["taught (content, style) pairs"] + styles["held-out (content, style) pairs"]
    assert told == styles["styles"] * styles["contents"]
    pairs = [counts[f"pairs of {kind} categories"] for kind in ("real", "nonce")]
    assert sum(sum(section.values()) for section in pairs) == len(world().taxonomy.pairs)


def test_the_code_on_the_page_of_the_world_runs(capsys: pytest.CaptureFixture[str]) -> None:
    _run_page(ROOT / "docs/explanation/world.md")
    assert "person_trade" in capsys.readouterr().out
