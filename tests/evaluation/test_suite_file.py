"""Suite files: what they ask for is measured, and what they cannot mean is told with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from mechstyle.cases import Case, Question
from mechstyle.errors import FileError, InputError
from mechstyle.evaluation.questions import Questions
from mechstyle.evaluation.suite_file import packaged_suites, read_suite
from mechstyle.evaluation.suite_sections import SECTIONS
from tests.evaluation.measures import CASES, MILES, PARIS


def written(folder: Path, text: str) -> Path:
    path = folder / "suite.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_packaged_suite_builds_its_measures_for_the_organism() -> None:
    assert packaged_suites() == ["full", "quick", "scores"]
    for name in packaged_suites():
        suite = read_suite(name)
        cases = suite.own_cases("organism-m")[:3]
        prepared, measures = suite.prepared(cases, "organism-m")
        assert [measure.name for measure in measures] == list(suite.sections)
        assert [case.request for case in prepared] == [case.request for case in cases]
    assert set(read_suite("full").sections) == set(SECTIONS) - {"harness"}


def test_a_section_adds_its_questions_once(tmp_path: Path) -> None:
    suite = read_suite(
        written(
            tmp_path,
            "[questions]\ntrue_false = 1\nedit_in_front = true\nrobustness = ['capitalisation']\n",
        )
    )
    once, (measure,) = suite.prepared([Case(MILES), Case(PARIS)], None)
    assert isinstance(measure, Questions)
    assert set(measure.kinds) == {"true/false", "capitalisation", "neighborhood+"}
    twice, _ = suite.prepared(once, None)
    assert [len(case.questions) for case in twice] == [len(case.questions) for case in once]


def test_what_another_case_changes_is_not_asked_to_stay(tmp_path: Path) -> None:
    kept = Question("unrelated", "far", "The capital of Italy is", (" Rome",), (" Paris",))
    names_paris = Question("unrelated", "far", "Paris is in the country of", (" France",), (" Italy",))
    answers_paris = Question("who", "near", "The capital of France is", (" Paris",), (" Rome",))
    follows = Question("reversal", "hard in", "Paris is the home of", (" Miles Davis",))
    own = Case(MILES, questions=(kept, names_paris, answers_paris, follows))
    suite = read_suite(written(tmp_path, "[questions]\n"))
    (first, second), _ = suite.prepared([own, Case(PARIS, questions=(names_paris,))], None)
    assert first.questions == (kept, follows)
    assert second.questions == (names_paris,)


def test_paths_start_at_the_suite_file_and_numbers_arrive(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("One two three four.\n\nFive.\n\nSix.\n", encoding="utf-8")
    (tmp_path / "task.jsonl").write_text(
        '{"prompt": "It was", "choices": [" good", " bad"], "answer": 0}\n', encoding="utf-8"
    )
    suite = read_suite(
        written(
            tmp_path,
            "[run]\nseed = 7\n[perplexity]\ntext = 'text.txt'\nn_texts = 2\nmax_positions = 9\n"
            "[divergence]\ntext = 'text.txt'\nwords = 2\n[tasks]\nfiles = ['task.jsonl']\n",
        )
    )
    _, (perplexity, divergence, tasks) = suite.prepared(CASES, None)
    assert suite.run.seed == 7
    assert perplexity.texts == ("One two three four.", "Five.")
    assert perplexity.max_positions == 9
    assert divergence.prompts == ("One two", "Five.", "Six.")
    assert [task.name for task in tasks.tasks] == ["task"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[scores", "is not TOML"),
        ("[run]\nseed = 1\n", "measures nothing; give it one or more of scores, questions"),
        ("[sores]\n", r"no section is called \[sores\]; there are run, cases, scores"),
        ("[scores]\ngenerat = true\n", r"\[scores\]: does not know 'generat'; it knows reduce, generate"),
        ("[scores]\nreduce = 'max'\n", r"\[scores\] reduce: .*got 'max'"),
        ("[scores]\ngenerate = 1\n", r"\[scores\] generate: .*got 1"),
        ("[scores]\n[run]\nat_once = 0\n", r"\[run\] at_once: .*got 0"),
        ("scores = 3\n", r"\[scores\] .*got 3"),
        ("[questions]\nrobustness = ['shouting']\n", r"robustness.0: .*got 'shouting'"),
    ],
)
def test_a_wrong_file_is_told_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FileError, match=message):
        read_suite(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[perplexity]\n", r"\[perplexity\] text: the model brings no texts of its own"),
        ("[questions]\nripples = true\n", r"\[questions\] ripples: they are built from the world"),
        ("[tasks]\nnames = ['organism']\n", r"\[tasks\] names: \"organism\" asks an embedded model"),
        ("[tasks]\n", r"\[tasks\] expected names"),
        ("[questions]\n", "expected questions, but none of the cases holds any"),
    ],
)
def test_what_a_model_does_not_bring_is_asked_for(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_suite(written(tmp_path, text)).prepared([Case(MILES)], None)


def test_a_model_without_a_world_needs_requests(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name them by --requests FILE"):
        read_suite("quick").own_cases(None)
    with pytest.raises(FileError, match=r"packaged suites: full, quick, scores"):
        read_suite(tmp_path / "none.toml")
