from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mechstyle.cases import Case, Question, own_questions
from mechstyle.datasets import read_cases, read_taxi
from mechstyle.errors import FileError
from mechstyle.facts import EditRequest, Fact

DATA = Path(__file__).parent / "data" / "facts" / "taxi"
SHARED = Path(__file__).parents[2] / "shared" / "data" / "facts" / "taxi"
WHOLE = pytest.mark.skipif(not SHARED.is_dir(), reason="the whole data sets are only in ../shared")


def by_name(folder: Path) -> dict[str, Case]:
    return {case.name: case for case in read_taxi(folder)}


def test_an_edit_of_a_category_becomes_a_case() -> None:
    sparrow = by_name(DATA)["sparrow -> fish"]
    assert sparrow.request == EditRequest(
        Fact("A {} is a kind of", "sparrow", " bird", "kind of animal"),
        " fish",
        neighborhood=(("A canary is a kind of", " bird"),),
    )
    birds = (" Siamese", " bumblebee", " honeybee", " Tamworth", " Jersey", " Chihuahua", " Labrador")
    assert sparrow.questions == (
        Question(
            "category",
            "in",
            "a sparrow is a kind of",
            (" fish",),
            (" dog", " cat", " cow", " pig", " bird", " bee", " snake"),
        ),
        Question("property", "hard in", "sparrow can", (" swim",), (" run", " fly", " gallop")),
        Question(
            "property reversed",
            "hard in",
            "one animal that can swim is a",
            (" sparrow",),
            (*birds, " canary", " cobra", " python", " Hampshire", " Persian", " Holstein"),
        ),
        Question(
            "kept property",
            "near",
            "a baby sparrow is",
            (" hatched from an egg",),
            (" born in a litter", " born alone"),
        ),
        Question(
            "kept property reversed",
            "near",
            "one animal whose offspring is hatched from an egg is a",
            (" sparrow",),
            (*birds, " Hampshire", " Persian", " Holstein"),
        ),
    )


def test_queries_of_an_odd_form_are_asked_as_far_as_they_can_be() -> None:
    cases = by_name(DATA)
    comes_from = cases["Cheddar -> meat"].questions[1:]
    assert [(one.kind, one.prompt, one.answers) for one in comes_from] == [
        ("property", "Cheddar comes from", (" butchering an animal",))
    ]
    assert cases["scotch -> wine"].questions[-1].prompt == "a beverage made by fermentation is"
    assert cases["scotch -> wine"].questions[-1].answers == (" scotch",)


def test_spaces_around_a_name_are_not_read() -> None:
    soda = by_name(DATA)["Jarritos  -> beer"]
    assert (soda.request.fact.subject, soda.request.fact.target) == ("Jarritos", " soda")
    assert soda.questions[0].prompt == "a Jarritos is a kind of"


@pytest.mark.parametrize("given", [".", "edits.json", "edits-evaluation.json", ".."])
def test_taxi_is_recognised_by_its_folder_or_either_of_its_files(given: str, tmp_path: Path) -> None:
    home = tmp_path / "taxi" / "datasets"
    shutil.copytree(DATA, home)
    assert read_cases(home / given) == read_taxi(DATA)


@WHOLE
def test_every_query_of_the_whole_set_is_asked_or_accounted_for() -> None:
    cases = read_taxi(SHARED)
    assert len(cases) == len({case.name for case in cases}) == 976
    assert all(len(own_questions(case.request)) == 1 + 3 for case in cases)
    counts = Counter((one.kind, one.scope) for case in cases for one in case.questions)
    forward = {("category", "in"): 976, ("property", "hard in"): 3832, ("kept property", "near"): 752}
    assert sum(forward.values()) == 5560
    # Reversed, 976 questions of the category and 80 "<answer> is how you get <answer>" leave none to find.
    backward = {("property reversed", "hard in"): 3832 - 72, ("kept property reversed", "near"): 752 - 8}
    assert counts == forward | backward
    assert sum(backward.values()) == 5560 - 976 - 80


@WHOLE
def test_twenty_published_foils_are_true_of_the_new_category_too() -> None:
    twice = 0
    for case in read_taxi(SHARED):
        right: dict[str, set[str]] = {}
        for one in case.questions:
            right.setdefault(one.prompt, set()).update(one.answers)
        forward = [one for one in case.questions if not one.kind.endswith("reversed")]
        twice += sum(bool(right[one.prompt] & set(one.foils)) for one in forward)
    assert twice == 20


@WHOLE
def test_the_whole_set_agrees_with_the_published_columns() -> None:
    table = json.loads((SHARED / "datasets" / "edits-evaluation.json").read_text(encoding="utf-8"))
    expected: dict[str, list[tuple[str, set[str]]]] = {}
    for row in table["edit"]:
        answer, choices = table["answer_fwd"][row].strip(), table["fwd_choices"][row]
        expected.setdefault(table["edit"][row], []).append((answer, {one.strip() for one in choices}))
    for name, case in by_name(SHARED).items():
        asked = [one for one in case.questions if not one.kind.endswith("reversed")]
        assert [
            (one.answers[0].strip(), {text.strip() for text in (*one.answers, *one.foils)}) for one in asked
        ] == expected[name]


def changed(tmp_path: Path, file: str, change: Any) -> Path:
    for one in DATA.glob("*.json"):
        table = json.loads(one.read_text(encoding="utf-8"))
        if one.name == file:
            table = change(table) or table
        (tmp_path / one.name).write_text(json.dumps(table))
    return tmp_path


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "edits.json",
            lambda t: t.pop("orig_entity") and t,
            r"edits.json, row \d+: the key 'orig_entity' is",
        ),
        (
            "edits.json",
            lambda t: t["entity"].update({"46": None}),
            r"edits.json, row 46: .*has the wrong type",
        ),
        (
            "edits.json",
            lambda t: t["subj"].update({"46": " "}),
            "row 46: expected text that is not blank, got",
        ),
        ("edits.json", lambda t: t["edit"].update({"46": "canary -> dog"}), "5 edits have only 4 names"),
        (
            "edits.json",
            lambda t: [1],
            "edits.json: expected a JSON object of columns, each an object of rows",
        ),
        (
            "edits-evaluation.json",
            lambda t: t["edit"].update({"583": "x"}),
            "row 583: the edit 'x' is not in ed",
        ),
        (
            "edits-evaluation.json",
            lambda t: t["query_fwd"].update({"583": "<answer> can <subj>"}),
            r"evaluation.json, row 583: query_fwd: expected <subj> once and <answer> at its end, got",
        ),
        (
            "edits-evaluation.json",
            lambda t: t["fwd_choices"].pop("584") and t,
            "row 584: the key 'fwd_choices'",
        ),
    ],
)
def test_a_wrong_row_is_refused_with_its_place(file: str, change: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=message):
        read_taxi(changed(tmp_path, file, change))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    shutil.copy(DATA / "edits.json", tmp_path)
    with pytest.raises(FileError, match=r"cannot read .*edits-evaluation.json"):
        read_taxi(tmp_path)
