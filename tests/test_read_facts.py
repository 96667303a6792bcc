"""Facts to trace, read from a file of any kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mechstyle.datasets import read_facts, write_requests
from mechstyle.errors import FileError
from mechstyle.facts import EditRequest, Fact

FACT = Fact("{} plays the", "Miles Davis", " trumpet", "plays")
KNOWN = {"prompt": "Miles Davis plays the", "template": "{} plays", "subject": "Miles Davis",
         "attribute": "trumpet", "relation_id": "plays"}  # fmt: skip
COUNTERFACT = {
    "requested_rewrite": {"prompt": "{} plays the", "subject": "Miles Davis", "relation_id": "plays",
                          "target_true": {"str": "trumpet"}, "target_new": {"str": "guitar"}},
    "paraphrase_prompts": [], "neighborhood_prompts": [],
}  # fmt: skip


@pytest.mark.parametrize(
    "record", [FACT.to_dict(), EditRequest(FACT, " guitar").to_dict(), KNOWN, COUNTERFACT]
)
@pytest.mark.parametrize("form", ["list", "lines"])
def test_facts_are_read_from_files_of_facts_and_of_requests(record: Any, form: str, tmp_path: Path) -> None:
    path = tmp_path / "facts"
    path.write_text(json.dumps([record]) if form == "list" else json.dumps(record), encoding="utf-8")
    assert read_facts(path) == [FACT]


def test_a_table_of_pairs_and_a_file_of_requests_are_read_too(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("template,subject,target,new_target\n{} plays the,Miles Davis,trumpet,guitar\n")
    assert read_facts(table)[0].target == " trumpet"
    write_requests(tmp_path / "requests.jsonl", [EditRequest(FACT, " guitar")])
    assert read_facts(tmp_path / "requests.jsonl") == [FACT]


def test_a_file_of_another_kind_is_refused_with_all_that_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text('[{"question": "?"}]')
    with pytest.raises(FileError, match="not a kind that is understood; it has the keys question") as caught:
        read_facts(path)
    assert all(kind in str(caught.value) for kind in ("requests", "CounterFact", "known facts", "zsRE"))
