from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mechstyle.cases import Case, Question, own_questions
from mechstyle.datasets import (
    known_fact_cases,
    read_cases,
    read_counterfact,
    read_edit_file,
    read_fact_file,
    read_zsre,
    write_cases,
    write_requests,
)
from mechstyle.errors import FileError, InputError
from mechstyle.facts import EditRequest, Fact

DATA = Path(__file__).parent / "data" / "facts"
SHARED = Path(__file__).parents[2] / "shared" / "data" / "facts"
WHOLE = pytest.mark.skipif(not SHARED.is_dir(), reason="the whole data sets are only in ../shared")


def test_counterfact_has_attribute_questions_and_the_prompts_to_go_on_from() -> None:
    cases = read_cases(DATA / "counterfact.json")
    assert [case.request for case in cases] == read_counterfact(DATA / "counterfact.json")
    first = cases[0]
    assert first.name == "0"
    assert len(first.questions) == 10
    assert first.questions[0] == Question(
        "attribute", "near", "J.\xa0R.\xa0R. Tolkien is a native speaker of", (" English",), (" French",)
    )
    assert (
        len(first.prompts) == 10
    )  # as listed: each of three prompts is continued as often as it stands there
    assert Counter(first.prompts) == {
        "Danielle Darrieux's mother tongue is": 4,
        "Where Danielle Darrieux is from, people speak the language of": 2,
        "Danielle Darrieux was born in": 4,
    }
    assert (first.references, first.essence) == ((), ())


def test_zsre_asks_its_unrelated_question_once_and_as_a_far_one() -> None:
    davis, lake = read_cases(DATA / "zsre_eval.json")
    assert davis.questions == (
        Question(
            "unrelated", "far", "nq question: who wrote the opera fidelio", (" Beethoven",), (" guitar",)
        ),
    )
    assert davis.request.neighborhood == ()
    assert [one.prompt for one in own_questions(davis.request)] == [
        "Which instrument does Miles Davis play?",
        "What is the instrument of Miles Davis?",
    ]
    assert lake.questions[1] == Question(
        "two-hop", "hard in", "What is the capital of the country in which Lake Zürich lies?", (" Oslo",)
    )
    assert lake.request.fact == read_zsre(DATA / "zsre_eval.json")[1].fact


def test_a_portability_question_that_does_not_ask_about_the_new_target_is_no_two_hop_one(
    tmp_path: Path,
) -> None:
    record = json.loads((DATA / "zsre_eval.json").read_text(encoding="utf-8"))[1]
    record["portability"]["Recalled Relation"] = "(Lake Zürich, length, 40 km)"
    (tmp_path / "zsre.json").write_text(json.dumps([record]))
    assert read_cases(tmp_path / "zsre.json")[0].questions[1].kind == "portability"


def test_an_unrelated_question_whose_answer_is_the_new_target_has_no_foil(tmp_path: Path) -> None:
    record = json.loads((DATA / "zsre_eval.json").read_text(encoding="utf-8"))[0]
    (tmp_path / "zsre.json").write_text(json.dumps([{**record, "loc_ans": "guitar"}]))
    question = read_cases(tmp_path / "zsre.json")[0].questions[0]
    assert (question.answers, question.foils) == ((" guitar",), ())


def test_requests_and_pairs_become_cases_without_more(tmp_path: Path) -> None:
    requests = read_counterfact(DATA / "counterfact.json")
    write_requests(tmp_path / "requests", requests)
    assert read_cases(tmp_path / "requests") == [Case(request) for request in requests]
    (tmp_path / "pairs").write_text("template,subject,new_target\n{} plays the,Miles Davis,guitar\n")
    assert read_cases(tmp_path / "pairs") == [Case(read_edit_file(tmp_path / "pairs")[0])]


def test_cases_written_and_read_are_the_same(tmp_path: Path) -> None:
    odd = Case(
        EditRequest(Fact("In {} one\u2028says", "Zürich\n", " „Grüezi“"), " hello\x85", ("a\tb",)),
        name="ü",
        questions=(Question("two-hop", "hard in", "a\nb", (" c", " d"), (" e",), (("f", " g"),)),),
        prompts=("h", "h"),
        references=("i\u2029j",),
        essence=("k",),
    )
    cases = [*read_cases(DATA / "counterfact.json"), *read_cases(DATA / "zsre_eval.json"), odd]
    write_cases(tmp_path / "cases.jsonl", cases)
    assert read_cases(tmp_path / "cases.jsonl") == cases


@WHOLE
def test_the_whole_collections_have_these_questions() -> None:
    def kinds(cases: list[Case]) -> Counter[tuple[str, str]]:
        return Counter((one.kind, one.scope) for case in cases for one in case.questions)

    counterfact = read_cases(SHARED / "counterfact" / "counterfact.json")
    assert len(counterfact) == len({case.name for case in counterfact}) == 450
    assert kinds(counterfact) == {("attribute", "near"): 4500}
    assert sum(len(case.prompts) for case in counterfact) == 4500
    own = Counter(one.kind for case in counterfact for one in own_questions(case.request))
    assert own == {"rewrite": 450, "paraphrase": 900, "neighborhood": 4500}
    zsre = read_cases(SHARED / "zsre" / "zsre_eval.json")
    assert len(zsre) == 300
    assert kinds(zsre) == {
        ("unrelated", "far"): 300,
        ("two-hop", "hard in"): 254,
        ("portability", "hard in"): 46,
    }
    facts = read_fact_file(SHARED / "known_1000" / "known_1000.json")
    drawn = known_fact_cases(facts, seed=0)
    assert [case.request.fact for case in drawn] == facts
    assert len(facts) == 700


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"request": {"fact": 1}}', "line 1: EditRequest wants the keys fact, new_target"),
        ('{"request": 3}', "line 1: Case.request: expected a JSON object, got int 3"),
        ('{"request": 3, "scope": ""}', "line 1: Case wants the keys request .* unknown: scope"),
        (
            '[{"question": 1}]',
            "record 0: not a kind .* has the keys question. Understood are cases .request.; Co",
        ),
        ('[{"requested_rewrite": 3}]', "record 0: a part has the wrong type"),
        ("[3]", "record 0: not a kind that is understood; it has no keys: 3"),
        ("", "holds no records"),
    ],
)
def test_a_file_that_holds_no_cases_says_what_was_seen(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "cases"
    path.write_text(text)
    with pytest.raises(FileError, match=message):
        read_cases(path)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "counterfact.json",
            {"attribute_prompts": [""]},
            r"record 1: Question.prompt: expected text that is not",
        ),
        ("counterfact.json", {"attribute_prompts": 3}, "record 1: a part has the wrong type"),
        ("counterfact.json", {"generation_prompts": ["a", 3]}, r"record 1: Case.prompts\[1\]: expected text"),
        (
            "zsre_eval.json",
            {"portability": {"New Question": "a"}},
            "record 1: the key 'Recalled Relation' is",
        ),
        ("zsre_eval.json", {"portability": 3}, "record 1: a part has the wrong type"),
    ],
)
def test_a_wrong_part_of_a_record_is_named_with_its_place(
    file: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    records = json.loads((DATA / file).read_text(encoding="utf-8"))
    records[1].update(change)
    (tmp_path / "data").write_text(json.dumps(records))
    with pytest.raises(FileError, match=message):
        read_cases(tmp_path / "data")


def test_facts_are_no_cases_but_can_be_made_some() -> None:
    with pytest.raises(
        FileError, match=r"holds facts, which ask for no change; known_fact_cases\(read_fact_f"
    ):
        read_cases(DATA / "known_1000.json")


def plays(subject: str, target: str, relation: str | None = "plays") -> Fact:
    return Fact("{} plays the", subject, f" {target}", relation)


BAND = [
    plays("Miles", "trumpet"),
    plays("Chet", "trumpet"),
    plays("Bill", "piano"),
    plays("Both", "trumpet"),
    plays("Both", "piano"),
    Fact("{} was born in", "Miles", " Alton", "born"),
    Fact("{} was born in", "Bill", " Plainfield", "born"),
]


def test_a_known_fact_gets_the_only_other_target_of_its_relation() -> None:
    miles = known_fact_cases([fact for fact in BAND if fact.subject != "Both"], seed=3)[0]
    assert miles == Case(
        EditRequest(BAND[0], " piano", neighborhood=(("Chet plays the", " trumpet"),)),
        questions=(Question("attribute", "near", "Bill plays the", (" piano",), (" trumpet",)),),
    )


def test_who_has_both_targets_is_neither_neighbour_nor_attribute() -> None:
    third = [plays("Edmar", "harp"), plays("Chet", "harp")]
    for seed in range(20):
        miles = known_fact_cases([*BAND, *third], seed=seed)[0]
        asked = {one.prompt for one in (*own_questions(miles.request), *miles.questions)}
        expected = {
            " piano": {"Chet plays the", "Bill plays the"},  # Both plays both: asked in neither part
            " harp": {"Both plays the", "Edmar plays the"},  # so does Chet now
        }
        assert asked - {"Miles plays the"} == expected[miles.request.new_target]


def test_new_targets_are_never_told_of_the_subject_and_depend_on_the_seed_alone() -> None:
    facts = [plays(f"S{i}", f"t{i % 5}") for i in range(60)] + [plays("S0", "t1"), plays("S0", "t2")]
    drawn = known_fact_cases(facts, seed=1)
    assert {case.request.new_target for case in drawn if case.request.fact.subject == "S0"} <= {" t3", " t4"}
    for case in drawn:
        assert all(own == case.request.fact.target for _, own in case.request.neighborhood)
        prompts = [prompt for prompt, _ in case.request.neighborhood] + [one.prompt for one in case.questions]
        assert case.request.fact.prompt not in prompts
        assert len(case.request.neighborhood) <= 10
        assert len(case.questions) <= 10
    again = known_fact_cases(facts[::-1], seed=1)
    assert again[::-1] == drawn
    assert known_fact_cases(facts, seed=2) != drawn
    # Of 59 subjects with one target, each new one is drawn about as often: 59/5 = 12.
    often = Counter(case.request.new_target for case in drawn)
    assert len(often) == 5
    assert max(often.values()) < 25


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ([], "facts: expected at least one, got none"),
        (
            [BAND[0], plays("Solo", "x", None)],
            r"facts\[0\]: expected a relation with other targets .* 'plays' for",
        ),
        (
            [BAND[0], BAND[2], plays("Solo", "x", None)],
            r"facts\[2\]: expected a relation .* got None for 'Solo pl",
        ),
    ],
)
def test_facts_without_another_target_are_refused(facts: list[Fact], message: str) -> None:
    with pytest.raises(InputError, match=message):
        known_fact_cases(facts)
