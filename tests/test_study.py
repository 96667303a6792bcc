"""A study runs from a model to a report, says no before it works, and takes up what it finds."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformer_lens import HookedTransformer

from mechstyle import organisms
from mechstyle.documents import documents_for, read_documents
from mechstyle.editing.edit import load_edit
from mechstyle.errors import FileError, InputError, RangeError, TextError
from mechstyle.facts import EditRequest, Fact
from mechstyle.models import load_model
from mechstyle.outputs import output_folder, require_writable
from mechstyle.report import Report
from mechstyle.study import StudyConfig, run_study
from mechstyle.study.config import command_line
from mechstyle.study.layer import choose_layer
from mechstyle.threads import few_threads
from mechstyle.tracing.trace import Trace

PROSE = "Miles Davis plays the trumpet. Paris is the capital of France. The day was long.\n\n"
REQUEST = EditRequest(
    Fact("{} plays the", "Miles Davis", " trumpet"),
    " guitar",
    paraphrases=("The instrument of Miles Davis is the",),
    neighborhood=(("Bill Evans plays the", " piano"),),
)


@pytest.fixture(scope="module")
def config(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    folder = tmp_path_factory.mktemp("study")
    (folder / "prose.txt").write_text(PROSE * 30, encoding="utf-8")
    return StudyConfig(
        out=folder / "out",
        model=str(tiny_folder),
        requests=(REQUEST,),
        samples=2,
        text=folder / "prose.txt",
        n_keys=300,
    )


@pytest.fixture(scope="module")
def report(config: StudyConfig) -> Report:
    return run_study(config)


def test_a_study_leaves_the_promised_files(report: Report) -> None:
    names = {path.name for path in report.folder.iterdir()}
    assert names == {"report.html", "results.json", "edit.safetensors", "trace.nc", "requests.jsonl"}


def test_the_saved_edit_gives_the_completions_of_the_report(report: Report, tiny_folder: Path) -> None:
    from mechstyle.evaluation.generation import complete

    model = load_model(str(tiny_folder))
    prompts = [completion.prompt for completion in report.facts[0].completions]
    assert prompts == [REQUEST.fact.prompt, *REQUEST.paraphrases]
    assert complete(model, prompts, n_tokens=10) == [found.before for found in report.facts[0].completions]
    with load_edit(report.folder / "edit.safetensors").applied(model):
        assert complete(model, prompts, n_tokens=10) == [found.after for found in report.facts[0].completions]


def test_a_second_run_takes_up_the_trace_and_gives_the_same_results(
    config: StudyConfig, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> Trace:
        pytest.fail("traced again")

    monkeypatch.setattr("mechstyle.study.run.causal_trace", refuse)
    again = run_study(config)
    assert again.facts[0].trace == report.facts[0].trace
    pd.testing.assert_frame_equal(again.scores.rows, report.scores.rows)
    assert torch.equal(
        again.facts[0].edit.delta(again.facts[0].edit.parameters[0]),
        report.facts[0].edit.delta(report.facts[0].edit.parameters[0]),
    )


@pytest.mark.parametrize("change", [{"samples": 3}, {"seed": 1}, {"noise": 2.0}, {"window": 3}])
def test_a_trace_with_other_settings_is_not_taken_up(
    config: StudyConfig, report: Report, tmp_path: Path, change: dict
) -> None:
    from mechstyle.study.run import reusable

    assert reusable(
        report.facts[0].trace, REQUEST.fact, config, bos=False, fingerprint=fingerprint_of(report)
    )
    other = replace(config, **change)
    assert not reusable(
        report.facts[0].trace, REQUEST.fact, other, bos=False, fingerprint=fingerprint_of(report)
    )


def test_a_trace_of_another_model_or_fact_is_not_taken_up(config: StudyConfig, report: Report) -> None:
    from mechstyle.study.run import reusable

    trace = report.facts[0].trace
    assert not reusable(trace, REQUEST.fact, config, bos=False, fingerprint="another")
    other = REQUEST.fact.with_target(" piano")
    assert not reusable(trace, other, config, bos=False, fingerprint=fingerprint_of(report))


def fingerprint_of(report: Report) -> str:
    return str(report.provenance["fingerprint"])


def test_an_unwritable_folder_is_refused_before_any_work(
    config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mechstyle.study.run.load_model", lambda *_: pytest.fail("worked before it checked"))
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot make the folder"):
        run_study(replace(config, out=tmp_path / "file" / "out"))


def test_a_model_without_own_facts_needs_requests(config: StudyConfig) -> None:
    with pytest.raises(InputError, match="brings no facts of its own"):
        run_study(replace(config, requests=()))


def test_a_model_without_own_texts_needs_a_text_file(config: StudyConfig) -> None:
    with pytest.raises(InputError, match="--text FILE"):
        run_study(replace(config, text=None))


def test_a_layer_out_of_range_is_refused_before_tracing(
    config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mechstyle.study.run.causal_trace", lambda *_, **__: pytest.fail("traced"))
    with pytest.raises(RangeError, match="from 0 to 2"):
        run_study(replace(config, out=tmp_path, layer=3))


def test_a_prompt_that_is_too_long_is_refused_before_tracing(
    config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mechstyle.study.run.causal_trace", lambda *_, **__: pytest.fail("traced"))
    long = EditRequest(Fact("{} " + "and the day was long " * 30, "Miles Davis", " trumpet"), " guitar")
    with pytest.raises(TextError, match="too long"):
        run_study(replace(config, out=tmp_path, requests=(REQUEST, long)))


@pytest.mark.parametrize("name", ["n_facts", "samples", "n_keys"])
@pytest.mark.parametrize("value", [0, -1, True, 2.5])
def test_numbers_out_of_range_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(RangeError, match=f"{name}: expected a whole number"):
        StudyConfig(out=Path("out"), **{name: value})


def test_the_best_measured_layer_wins_over_the_trace(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = pd.DataFrame(
        {
            "layer": [0, 1, 2],
            "efficacy": [1.0, 1.0, 0.0],
            "paraphrase": [0.2, 0.9, 1.0],
            "neighborhood": [1.0, 0.9, 1.0],
            "score": [0.43, 0.93, 0.0],
            "n": [100, 100, 100],
        }
    )
    traces = [report.facts[0].trace]
    monkeypatch.setattr("mechstyle.study.layer.shipped_sweep", lambda _: sweep)
    choice = choose_layer("any", traces)
    assert (choice.layer, choice.by) == (1, "sweep")
    assert "over 100 edits" in choice.reason
    assert "Hase et al. 2023" in choice.suggestion.caveat
    assert choose_layer("any", traces, given=2).layer == 2


def test_traces_that_single_out_nothing_leave_the_middle(report: Report) -> None:
    data = copy.deepcopy(report.facts[0].trace.data)
    data["mlp"][:] = data["corrupted"].values[:, None, None]
    choice = choose_layer("none", [Trace(data)])
    assert (choice.layer, choice.by) == (1, "middle")
    assert "is a guess" in choice.reason


def test_the_command_line_says_the_whole_configuration(config: StudyConfig) -> None:
    words = command_line(replace(config, layer=1, prepend_bos=True), requests=Path("a b.jsonl"))
    assert words.startswith("mechstyle study --model ")
    for part in ("--layer 1", "--prepend-bos", "--requests 'a b.jsonl'", "--samples 2", "--text"):
        assert part in words


def test_a_small_model_works_on_one_thread_and_gives_the_others_back(tiny_model: HookedTransformer) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with few_threads(tiny_model):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_documents_are_paragraphs_and_the_last_tenth_is_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"document {index}\nmore" for index in range(20)), encoding="utf-8")
    found = documents_for("any", path)
    assert (len(list(found.texts)), len(found.held_out)) == (18, 2)
    assert found.held_out[-1] == "document 19\nmore"


def test_a_text_file_that_is_missing_empty_or_binary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot read"):
        read_documents(tmp_path / "missing.txt")
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(FileError, match="holds no text"):
        read_documents(tmp_path / "empty.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileError, match="UTF-8"):
        read_documents(tmp_path / "binary")


def test_asking_whether_a_file_can_be_written_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text("old")
    require_writable(path)
    require_writable(tmp_path / "new.json")
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["old.json"]
    with pytest.raises(FileError, match="does not exist"):
        require_writable(tmp_path / "nowhere" / "new.json")
    assert output_folder(tmp_path / "a" / "b").is_dir()


def test_the_organism_is_studied_from_end_to_end(organism: object, tmp_path: Path) -> None:
    (request,) = organisms.requests("organism-m", n=1, seed=0)
    short = replace(request, paraphrases=request.paraphrases[:2], neighborhood=request.neighborhood[:3])
    report = run_study(StudyConfig(out=tmp_path, requests=(short,), samples=2, n_keys=8_000))
    assert report.html.stat().st_size > 1_000_000
    assert report.facts[0].relative_norm > 0
    assert report.scores.perplexity is not None
