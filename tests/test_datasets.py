from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mechstyle.datasets import (
    read_counterfact,
    read_edit_file,
    read_fact_file,
    read_known_facts,
    read_pairs,
    read_requests,
    read_zsre,
    write_requests,
)
from mechstyle.errors import FileError
from mechstyle.facts import EditRequest, Fact
from mechstyle.requests import change_relation, check_requests, with_keep

DATA = Path(__file__).parent / "data" / "facts"
SHARED = Path(__file__).parents[2] / "shared" / "data" / "facts"
WHOLE = pytest.mark.skipif(not SHARED.is_dir(), reason="the whole data sets are only in ../shared")


def test_counterfact_records_become_requests() -> None:
    requests = read_counterfact(DATA / "counterfact.json")
    assert len(requests) == 5
    first = requests[0]
    assert first.fact == Fact("The mother tongue of {} is", "Danielle Darrieux", " French", "P103")
    assert first.new_target == " English"
    assert len(first.paraphrases) == 2
    assert first.neighborhood[0] == ("The mother tongue of Léon Blum is", " French")
    assert {target for _, target in first.neighborhood} == {first.fact.target}


def test_known_facts_have_the_prompt_that_was_recorded_and_not_the_shorter_template() -> None:
    records = json.loads((DATA / "known_1000.json").read_text(encoding="utf-8"))
    facts = read_known_facts(DATA / "known_1000.json")
    assert [fact.prompt for fact in facts] == [record["prompt"] for record in records]
    assert facts[0].template == "{} is located in the continent of"
    assert (facts[0].target, facts[0].relation) == (" Antarctica", "P30")


def test_zsre_questions_become_requests() -> None:
    first = read_zsre(DATA / "zsre_eval.json")[0]
    assert first == EditRequest(
        Fact("Which instrument does {} play?", "Miles Davis", " trumpet"),
        " guitar",
        ("What is the instrument of Miles Davis?",),
        (("nq question: who wrote the opera fidelio", " Beethoven"),),
    )


def test_a_zsre_alternative_that_is_the_truth_replaces_the_wrong_prediction(tmp_path: Path) -> None:
    record = json.loads((DATA / "zsre_eval.json").read_text(encoding="utf-8"))[0]
    (tmp_path / "zsre.json").write_text(
        json.dumps([{**record, "pred": "oboe", "alt": "trumpet", "answers": ["trumpet"]}])
    )
    request = read_zsre(tmp_path / "zsre.json")[0]
    assert (request.fact.target, request.new_target) == (" oboe", " trumpet")


@WHOLE
def test_the_whole_collections_read_with_the_recorded_prompts() -> None:
    assert len(read_counterfact(SHARED / "counterfact" / "counterfact.json")) == 450
    assert len(read_zsre(SHARED / "zsre" / "zsre_eval.json")) == 300
    path = SHARED / "known_1000" / "known_1000.json"
    records = json.loads(path.read_text(encoding="utf-8"))
    assert [fact.prompt for fact in read_known_facts(path)] == [record["prompt"] for record in records]


def test_requests_written_and_read_are_the_same(tmp_path: Path) -> None:
    odd = EditRequest(Fact("In {} one\u2028says", "Zürich\n", " „Grüezi“"), " hello\x85", ("a\tb",))
    requests = [*read_counterfact(DATA / "counterfact.json"), odd]
    write_requests(tmp_path / "requests.jsonl", requests)
    assert read_requests(tmp_path / "requests.jsonl") == requests


def test_a_subject_that_occurs_twice_is_cut_where_the_template_has_it(tmp_path: Path) -> None:
    record = {
        "prompt": "Rome and Rome is in",
        "subject": "Rome",
        "template": "Rome and {} is",
        "attribute": "Italy",
    }
    path = tmp_path / "known.json"
    path.write_text(json.dumps([record]))
    assert read_known_facts(path)[0].template == "Rome and {} is in"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "is not JSON: .* Is it truncated"),
        ('{"a": 1}', "must hold a JSON list of records, not dict"),
        ("[3]", "record 0: expected a JSON object, not int"),
        ("[{}]", "record 0: the key 'requested_rewrite' is missing; is this the right reader"),
        ('[{"requested_rewrite": 3}]', "record 0: a part has the wrong type"),
    ],
)
def test_a_file_that_is_not_the_collection_is_refused_with_the_place(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "data.json"
    path.write_text(text)
    with pytest.raises(FileError, match=message):
        read_counterfact(path)


def test_a_record_whose_texts_do_not_fit_together_is_refused(tmp_path: Path) -> None:
    record = {"prompt": "Rome is in", "subject": "Paris", "template": "{} is in", "attribute": "Italy"}
    path = tmp_path / "known.json"
    path.write_text(json.dumps([record]))
    with pytest.raises(
        FileError, match="record 0: the subject 'Paris' does not occur in the prompt 'Rome is in'"
    ):
        read_known_facts(path)


def test_a_bad_line_of_requests_is_named(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    good: Any = read_counterfact(DATA / "counterfact.json")[0].to_dict()
    path.write_text(json.dumps(good) + "\n\n{\n")
    with pytest.raises(FileError, match=r"requests.jsonl, line 3 is not JSON"):
        read_requests(path)
    path.write_text(json.dumps(good) + "\n" + json.dumps({**good, "new_target": ""}))
    with pytest.raises(FileError, match="line 2: EditRequest.new_target must not be empty"):
        read_requests(path)


def test_missing_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"cannot read .*nowhere.json: No such file or directory"):
        read_zsre(tmp_path / "nowhere.json")
    (tmp_path / "binary.json").write_bytes(b"[\xff")
    with pytest.raises(FileError, match=r"is not UTF-8 text \(byte 1\)"):
        read_zsre(tmp_path / "binary.json")


def test_writing_to_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="does not exist. Create it first"):
        write_requests(tmp_path / "nowhere" / "requests.jsonl", [])


PAIRS = [
    EditRequest(Fact("{} plays the", "Miles Davis", " trumpet"), " guitar"),
    EditRequest(Fact("{}, the one, is in", "Rome", " unknown"), " Spain"),
]
LINES = [
    {"template": "{} plays the", "subject": "Miles Davis", "target": "trumpet", "new_target": "guitar"},
    {"template": "{}, the one, is in", "subject": "Rome", "new_target": " Spain"},
]
COMMAS = (
    "template,subject,new_target,target\n{} plays the,Miles Davis,guitar,trumpet\n"
    '"{}, the one, is in",Rome,Spain,'
)


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(map(json.dumps, LINES)),
        json.dumps(LINES, indent=1),
        COMMAS,
        "\ufeff" + COMMAS.replace("\n", "\r\n") + "\r\n,,,\r\n",
        "subject\ttemplate\tnew_target\ttarget\nMiles Davis\t{} plays the\tguitar\ttrumpet\n"
        "\nRome\t{}, the one, is in\tSpain\t\n",
        '"template"; subject;new_target;target\n{} plays the;Miles Davis;"guitar";trumpet\n'
        "{}, the one, is in;Rome;Spain;",
    ],
    ids=["json lines", "json list", "commas", "as Excel writes it", "tabs", "semicolons"],
)
@pytest.mark.parametrize("read", [read_pairs, read_edit_file])
def test_a_plain_table_of_pairs_is_read_in_every_form(text: str, read: Any, tmp_path: Path) -> None:
    path = tmp_path / "a file without a telling name"
    path.write_bytes(text.encode())
    assert read(path) == PAIRS


def test_a_cell_may_hold_line_breaks_and_quotes(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text('template,subject,new_target\n"He said ""{}""\nand",Rome,Spain\n{} is,x,\n')
    with pytest.raises(FileError, match="line 4: a pair wants .*missing or empty: new_target"):
        read_pairs(path)
    path.write_text('template,subject,new_target\n"He said ""{}""\nand",Rome,Spain\n')
    assert read_pairs(path)[0].fact.prompt == 'He said "Rome"\nand'


def test_the_content_tells_what_kind_of_edits_a_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "edits.txt"
    for name, read in (("counterfact.json", read_counterfact), ("zsre_eval.json", read_zsre)):
        records = json.loads((DATA / name).read_text(encoding="utf-8"))
        for text in (json.dumps(records), "\n".join(map(json.dumps, records))):
            path.write_text(text)
            assert read_edit_file(path) == read(DATA / name)
    moved = change_relation(PAIRS[0].fact, "{} is afraid of the", remove_old=True)
    requests = [*read_counterfact(DATA / "counterfact.json"), *moved, *with_keep(PAIRS, [moved[0].fact])]
    write_requests(path, requests)
    assert read_edit_file(path) == requests
    path.write_text(json.dumps(requests[0].to_dict(), indent=2))
    assert read_edit_file(path) == requests[:1]


@WHOLE
def test_the_whole_collections_are_recognised() -> None:
    # They are batches that can be written, too: no wish comes twice, and none contradicts another.
    assert len(check_requests(read_edit_file(SHARED / "counterfact" / "counterfact.json"))) == 450
    assert len(check_requests(read_edit_file(SHARED / "zsre" / "zsre_eval.json"))) == 300
    assert len(read_fact_file(SHARED / "known_1000" / "known_1000.json")) == 700
    with pytest.raises(FileError, match=r"record 0: not a kind .* it has the keys name, prompt_templates"):
        read_edit_file(SHARED / "relations_lre" / "factual" / "city_in_country.json")


def test_facts_to_keep_and_removals_are_read_from_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    fact, stay = PAIRS[0].fact.to_dict(), {"template": "{} plays the", "subject": "Chet", "target": " horn"}
    path.write_text(f"{json.dumps({'fact': fact, 'remove': True, 'keep': [stay]})}\n\n")
    expected = EditRequest.removal(PAIRS[0].fact, keep=(Fact("{} plays the", "Chet", " horn"),))
    assert read_requests(path) == read_edit_file(path) == [expected]
    path.write_text(f"{json.dumps(fact)}\n{json.dumps(stay)}\n")
    assert read_fact_file(path) == [PAIRS[0].fact, *expected.keep]
    assert read_fact_file(DATA / "known_1000.json") == read_known_facts(DATA / "known_1000.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no records"),
        (" \n\n", "holds no records"),
        ("[]", "holds no records"),
        ("template,subject,new_target\n", "holds no records"),
        ("[3]", "record 0: not a kind that is understood; it has no keys: 3"),
        ('[{"question": 1, "answer": 2}]', "it has the keys answer, question. Understood are requests"),
        ('{"subject": "x"}\n', "line 1: not a kind that is understood; it has the keys subject"),
        ("template,subject,new\n{},a,b", "line 2: not a kind .* it has the keys new, subject, template"),
        ("one,two\n1,2", "neither JSON nor a table that names the columns template in .* line is 'one,two'"),
        ("template,subject,new_target,subject\n{},a,b,c", "line 1: a column is named twice in template, "),
        ("template,subject,new_target\n{} is,a,b,c", "line 2: has 4 cells, but the first line names 3 "),
        ('template,subject,new_target\n{} is,a,"b', "is not a table: unexpected end of data. Is a quote"),
        ('{"template": "{} is", "new_target": "b", "x": 1}', "missing or empty: subject; unknown: x"),
        ('{"fact": 1}\n', "line 1: EditRequest wants the keys fact, new_target .* missing: new_target"),
        ('[{"template": "{} is", "new_target": "b"}, 3]', "record 0: a pair wants"),
        ('[{"requested_rewrite": 3}]', "record 0: a part has the wrong type"),
        ('{\n"fact": }', "is not JSON: .* line 2 column 9"),
        ('{"fact": 1}\n{"fact', "line 2 is not JSON"),
        ('{"fact": 1,\n"new_target": 2}\n{"fact": 3,\n"new', "edits is not JSON: .* line 4 column 1 "),
        ('{"fact": 1\n{"fact": 2}\n', "line 1 is not JSON"),
        ("\n\ntemplate,subject,new_target\n{} is,a,b,c", "line 4: has 4 cells, but the first line names 3 "),
        ("\ntemplate,subject,subject\n{},a,b,c", "line 2: a column is named twice in template, "),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_file_of_no_known_kind_says_what_was_seen(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "edits"
    path.write_text(text)
    with pytest.raises(FileError, match=message):
        read_edit_file(path)


def test_unknown_fields_of_a_request_are_refused_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    good: Any = PAIRS[0].to_dict()
    path.write_text(json.dumps(good) + "\n" + json.dumps({**good, "negatives": []}))
    with pytest.raises(FileError, match="line 2: EditRequest wants .* unknown: negatives"):
        read_edit_file(path)


def test_a_file_of_edits_is_no_file_of_facts() -> None:
    with pytest.raises(FileError, match=r"not a kind .* Understood are known facts .*; facts \(template"):
        read_fact_file(DATA / "counterfact.json")


def test_objects_over_several_lines_are_read_wherever_their_first_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "edits"
    whole = [json.dumps(one.to_dict(), indent=1) for one in PAIRS]
    path.write_text("\n" + "\n".join(whole) + "\n")
    assert read_edit_file(path) == list(PAIRS)
    path.write_text('{"template": "{} plays the",\n "subject": "Miles", "new_target": "harp"}')
    assert read_edit_file(path)[0].new_target == " harp"


def test_facts_are_not_read_from_a_table(tmp_path: Path) -> None:
    path = tmp_path / "facts.csv"
    path.write_text("template,subject,target\n{} plays the,Miles Davis,trumpet\n")
    with pytest.raises(FileError, match="holds neither JSON lines nor a JSON list; it begins with 'template"):
        read_fact_file(path)
