"""The cases of a manifest: records as the published code reads them, and an organism's known facts."""

from __future__ import annotations

import json

from transformer_lens import HookedTransformer

from mechstyle import organisms
from mechstyle.cases import Case
from mechstyle.evaluation.scores import evaluate
from mechstyle.facts import EditRequest, Fact
from mechstyle.study.reproduce.data import known_cases, manifest_cases, true_answer_request
from mechstyle.study.reproduce.manifest import DataPart, read_manifest
from tests.study.reproduce.conftest import FACTS, MakeManifest


def test_a_record_of_zsre_is_written_with_its_first_true_answer() -> None:
    record = json.loads((FACTS / "zsre_eval.json").read_text(encoding="utf-8"))[0]
    assert true_answer_request(record) == EditRequest(
        Fact("Which instrument does {} play?", "Miles Davis", " unknown"),
        " trumpet",
        paraphrases=("What is the instrument of Miles Davis?",),
        neighborhood=(("nq question: who wrote the opera fidelio?", " Beethoven"),),
    )


def test_an_unrelated_question_with_the_answer_that_is_written_is_left_out() -> None:
    record = json.loads((FACTS / "zsre_eval.json").read_text(encoding="utf-8"))[0]
    assert true_answer_request({**record, "loc_ans": "trumpet"}).neighborhood == ()


def test_the_first_records_are_taken_in_the_order_of_the_file(manifest: MakeManifest) -> None:
    path = FACTS / "counterfact.json"
    subjects = [one["requested_rewrite"]["subject"] for one in json.loads(path.read_text(encoding="utf-8"))]
    cases = manifest_cases(manifest("records = 3\n"), path)
    assert [case.request.fact.subject for case in cases] == subjects[:3]
    assert len(cases[0].request.neighborhood) == 10
    assert cases[0].prompts


def test_known_facts_are_those_that_the_model_completes(organism: HookedTransformer) -> None:
    requests = organisms.requests("organism-m", n=20, seed=5)
    wrong = EditRequest(Fact(requests[0].fact.template, requests[0].fact.subject, " Zürich"), " Rome")
    cases = [Case(wrong), *map(Case, requests)]
    part = DataPart(organism="organism-m", records=4, drawn=20, known=True)
    found = known_cases(organism, part, cases, 4, prepend_bos=None)
    rows = evaluate(organism, requests).frame
    known = rows[rows["kind"] == "rewrite"]["exact_true"].tolist()
    wanted = [case for case, exact in zip(cases[1:], known, strict=True) if exact][:4]
    assert found == wanted
    unchecked = DataPart(organism="organism-m", records=4, drawn=20)
    assert known_cases(organism, unchecked, cases, 4, prepend_bos=None) == cases[:4]


def test_the_organism_brings_the_requests_of_its_card() -> None:
    cases = manifest_cases(read_manifest("organism-m-rome"), None)
    assert [case.request for case in cases] == organisms.requests("organism-m", n=66, seed=0, invented=False)
