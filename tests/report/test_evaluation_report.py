"""The report of a suite is one safe file that says every number with its interval, and what failed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from transformer_lens import HookedTransformer

from mechstyle.cases import Case, Question
from mechstyle.evaluation.questions import Questions
from mechstyle.evaluation.request_scores import RequestScores
from mechstyle.evaluation.suite import run_suite
from mechstyle.evaluation.suite_result import SuiteResult
from mechstyle.evaluation.text_perplexity import HeldOutPerplexity
from mechstyle.facts import EditRequest
from mechstyle.report.evaluation import write_evaluation_report
from mechstyle.report.evaluation_findings import _moved, bounded, differs, evaluation_findings
from tests.evaluation.measures import MILES, PARIS, random_edit, unigram, unigram_edit
from tests.report.test_html import LOADING, Page

NAME = "<b>rome</b>"


@pytest.fixture
def found(tiny_model: HookedTransformer, hostile: EditRequest) -> SuiteResult:
    question = Question("<i>kind", "far", "Rome </script> is", (" Italy",), (" France",))
    cases = [Case(hostile, questions=(question,)), Case(MILES), Case(PARIS)]
    measures = [
        RequestScores(generate=True),
        Questions.of(cases),
        HeldOutPerplexity(("Rome is a city.",) * 3),
    ]
    own = [random_edit(tiny_model, seed) for seed in range(3)]
    edits = {NAME: own, "other": random_edit(tiny_model, 5)}
    return run_suite(tiny_model, cases, measures, edits=edits)


def write(folder: Path, found: SuiteResult) -> tuple[str, Page]:
    write_evaluation_report(folder / "report.html", found)
    source = (folder / "report.html").read_text(encoding="utf-8")
    return source, Page(source)


def test_nothing_is_loaded_and_no_text_becomes_a_tag(found: SuiteResult, tmp_path: Path) -> None:
    _, page = write(tmp_path, found)
    assert not [tag for tag, attributes in page.elements if set(LOADING) & set(attributes)]
    assert not {"img", "i", "u", "link", "iframe"} & {tag for tag, _ in page.elements}
    assert not [text for text in page.bold if "rome" in text]
    assert "<b>rome</b>: efficacy" in "".join(page.text)
    for script in page.scripts:
        assert "Rome </script>" not in script


def test_every_metric_is_there_with_its_interval_and_kind(found: SuiteResult, tmp_path: Path) -> None:
    source, _ = write(tmp_path, found)
    summary = found.summary()
    for _, row in summary[(summary["edit"] == "other") & summary["value"].notna()].iterrows():
        assert f"<td>{row['metric']}</td>".replace("<i>kind", "&lt;i&gt;kind") in source
        assert bounded(row["value"], row["low"], row["high"]) in source
    for measure in ("probability comparison", "exact match (teacher-forced)", "free generation"):
        assert measure in source
    assert found.provenance["fingerprint"][:12] in source
    assert "3 items, 3 requests" in source  # one model for all texts; and an edit for each request


def test_findings_say_what_moved_and_what_cannot_be_told(tiny_model: HookedTransformer) -> None:
    model = unigram(tiny_model, {" trumpet": 6, " guitar": 3, " France": 6, " Italy": 3})
    good = unigram_edit(model, {" guitar": 9, " Italy": 9})
    nothing = unigram_edit(model, {})
    texts = HeldOutPerplexity(("Rome is a city.", "The day was long."))
    found = run_suite(
        model, [MILES, PARIS], [RequestScores(), texts], edits={"good": good, "nothing": nothing}
    )
    summary, compared, pairs = found.summary(), found.compare(), found.compare("good")
    first, second, apart = evaluation_findings(found, summary, compared, pairs)
    assert first.startswith("good: efficacy 1.000 [1.000, 1.000]")
    assert "neighbourhood 0.000" in first
    assert "It moves perplexity by" in first
    assert second.startswith("nothing: efficacy 0.000")
    assert "A change of perplexity cannot be told from none (0.000 [0.000, 0.000])" in second
    assert "no edit can be told from good" in apart  # two requests are too few, whatever they say
    rows = compared[(compared["edit"] == "good") & (compared["metric"] == "efficacy")]
    assert rows["difference_low"].iloc[0] > 0
    assert not differs(rows).iloc[0]  # p is 1/2


def test_a_destroyed_measure_is_called_destroyed_and_one_without_interval_is_said() -> None:
    nan, inf = float("nan"), float("inf")

    def sentence(value: float, difference: float, low: float, high: float) -> str:
        bounds = {"difference_low": low, "difference_high": high, "p_holm": nan}
        return _moved("perplexity", pd.Series({"value": value, "difference": difference, **bounds}))

    assert sentence(inf, inf, nan, nan).startswith("It destroys perplexity")
    assert (
        sentence(9.0, 4.0, nan, nan) == "It moves perplexity by 4.000, to 9.000; of one there is no interval."
    )
    assert sentence(nan, nan, nan, nan) == "Nothing is known of perplexity under it."
    assert sentence(9.0, 4.0, 3.0, 5.0) == "It moves perplexity by 4.000 [3.000, 5.000], to 9.000."
    assert "cannot be told from none" in sentence(9.0, 4.0, -3.0, 5.0)


def test_failures_are_said_and_counted(found: SuiteResult, tmp_path: Path) -> None:
    lost = pd.DataFrame([{"edit": "other", "table": "scores", "request": 1, "reason": "logits are nan"}])
    broken = replace(found, failures=lost)
    source, _ = write(tmp_path, broken)
    assert "What failed" in source
    assert "logits are nan" in source
    assert "Under other the model gave no finite numbers for 1 of 3 requests" in source
    assert "What failed" not in write(tmp_path, found)[0]


def test_a_model_without_edits_has_a_report_too(tiny_model: HookedTransformer, tmp_path: Path) -> None:
    source, _ = write(tmp_path, run_suite(tiny_model, [MILES], [RequestScores()]))
    assert "The model as it is: efficacy" in source
    assert "What the edits changed" not in source
