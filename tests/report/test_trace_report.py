"""The report of traces is one safe file that shows every fact and says what was found, and what not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from transformer_lens import HookedTransformer

from mechstyle.errors import FileError, InputError
from mechstyle.facts import Fact
from mechstyle.report.trace_findings import prompts_finding, settings_rows, trace_findings
from mechstyle.report.traces import write_trace_report
from mechstyle.study.localisation import LocalisationCheck
from mechstyle.tracing.aggregate import average_by_role, total_effects
from mechstyle.tracing.causal_trace import causal_trace
from mechstyle.tracing.compare_models import compare_models
from mechstyle.tracing.compare_prompts import PromptComparison, compare_prompts
from mechstyle.tracing.logit_lens import logit_lens
from mechstyle.tracing.saliency import saliency
from mechstyle.tracing.trace import Trace
from mechstyle.tracing.trace_facts import trace_facts
from tests.plot.planted import grid, planted_trace
from tests.report.test_html import LOADING, Page

HOSTILE = Fact("{} <img src=x>", "</script><b>M", " <i>")
PLAIN = Fact("{} plays the", "Miles Davis", " trumpet")


def _write(folder: Path, *given: object, **options: object) -> tuple[str, Page]:
    write_trace_report(folder / "traces.html", *given, **options)
    source = (folder / "traces.html").read_text(encoding="utf-8")
    return source, Page(source)


def _facts(n: int) -> list[Fact]:
    return [PLAIN, HOSTILE, *(Fact("{} is", f"Subject {number}", " x") for number in range(n - 2))]


@pytest.fixture(scope="module")
def everything(_loaded_tiny: HookedTransformer, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    model = _loaded_tiny
    traces = [causal_trace(model, fact, samples=2, kinds=("resid", "mlp", "heads")) for fact in _facts(14)]
    frame = pd.DataFrame(
        {
            "fact": np.repeat(range(3), 2),
            "layer": [0, 1] * 3,
            "success": [1.0, 0.0] * 3,
            "effect_mlp": grid(6),
        }
    )
    return _write(
        tmp_path_factory.mktemp("report"),
        traces,
        lens=logit_lens(model, HOSTILE),
        saliency=saliency(model, HOSTILE, baseline=("mean", "zero"), steps=4),
        comparison=compare_prompts(traces, permutations=19),
        localisation=LocalisationCheck(frame, 2, {}),
    )


def test_no_element_and_no_script_of_the_page_loads_anything(everything: tuple[str, Page]) -> None:
    _, page = everything
    assert [(tag, name) for tag, attrs in page.elements for name in attrs if name in LOADING] == []
    assert not any(tag in ("link", "iframe", "object", "embed", "base") for tag, _ in page.elements)
    own = [script for script in page.scripts if len(script) < 1_000_000]
    assert len(own) == len(page.scripts) - 2  # plotly and circuitsvis, once each
    assert not any(re.search(r"https?://|\bfetch\s*\(|XMLHttpRequest", script) for script in own)


def test_hostile_texts_stay_texts(everything: tuple[str, Page]) -> None:
    source, page = everything
    assert not {tag for tag, _ in page.elements} & {"img", "u"}
    assert all(text.startswith(("Figure", "Table")) for text in page.bold)
    assert source.count("</script") == len(page.scripts)
    assert HOSTILE.prompt in "".join(page.text)


def test_every_part_that_was_given_is_drawn_once(everything: tuple[str, Page]) -> None:
    _, page = everything
    names = [str(attrs["id"]) for tag, attrs in page.elements if tag == "div" and "id" in attrs]
    assert names == [
        "average", "average-map", "average-heads", "facts-mlp", "facts-resid", "lens", "saliency-1",
        "saliency-2", "prompts", "localisation-mlp",
    ]  # fmt: skip
    drawn = [script for script in page.scripts if "Plotly.newPlot(" in script and len(script) < 1_000_000]
    assert len(drawn) == 8


def test_figures_and_tables_are_numbered_in_order(everything: tuple[str, Page]) -> None:
    text = "".join(everything[1].text)
    for word in ("Figure", "Table"):
        numbers = [int(found) for found in re.findall(rf"{word} (\d+)\.", text)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert numbers


def test_twelve_facts_have_maps_and_all_stand_in_the_table(everything: tuple[str, Page]) -> None:
    _, page = everything
    text = "".join(page.text)
    assert "The first 12 of 14 facts" in text
    for fact in _facts(14):
        assert fact.prompt in text
    (grid_script,) = [script for script in page.scripts if 'newPlot("facts-mlp"' in script]
    assert grid_script.count('"type":"heatmap"') == 12


def test_the_caveat_the_model_and_the_check_are_said(everything: tuple[str, Page]) -> None:
    text = "".join(everything[1].text)
    assert "does not predict where an edit works best (Hase et al. 2023)" in text
    assert "14 facts traced" in text
    assert "The layer alone explains 100.0%" in text
    assert "2 facts that the model does not know were left out" in text
    assert '"fingerprint"' in text


def test_facts_that_were_left_out_are_counted_by_reason(
    tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    (token,) = tiny_model.tokenizer(PLAIN.target)["input_ids"]
    tiny_model.unembed.b_U.data[token] += 20  # so that it knows this one answer
    unknown = Fact(PLAIN.template, PLAIN.subject, " piano")
    traces = trace_facts(tiny_model, [PLAIN, PLAIN, unknown, HOSTILE])
    _, page = _write(tmp_path, traces)
    text = "".join(page.text)
    assert "One fact traced in" in text
    assert re.search(r"not known\s*2", text)
    assert re.search(r"given twice\s*1", text)


def test_one_trace_is_shown_whole(tiny_model: HookedTransformer, tmp_path: Path) -> None:
    _, page = _write(tmp_path, [causal_trace(tiny_model, HOSTILE, samples=2)], title="<b>mine")
    text, names = "".join(page.text), {attrs.get("id") for _, attrs in page.elements}
    assert "<b>mine" in text
    assert {"trace", "tokens"} <= names
    assert not any(str(name).startswith("facts") for name in names)


def test_one_draw_of_one_fact_is_reported_without_intervals(
    tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    _, page = _write(tmp_path, [causal_trace(tiny_model, HOSTILE, samples=1)])
    text = "".join(page.text)
    assert "[–, –]" not in text
    assert "nan" not in text.lower().split()


def test_a_comparison_of_models_has_a_figure_and_a_table_of_peaks(tmp_path: Path) -> None:
    small = [planted_trace({"mlp": grid(4, 3, seed=seed)}) for seed in range(3)]
    large = [planted_trace({"mlp": grid(4, 6, seed=seed)}) for seed in range(3)]
    found = compare_models({"small": small, "<b>large": large}, resamples=20)
    _, page = _write(tmp_path, small, comparison=found)
    text = re.sub(r"\s+", " ", "".join(page.text))
    peak = found.peaks.query("model == '<b>large' and role == 'last subject token'").iloc[0]
    assert f"<b>large MLP last subject token {peak['layer']} of 6".replace(" ", "") in text.replace(" ", "")


def test_nothing_to_report_and_nowhere_to_write_are_errors(tmp_path: Path) -> None:
    trace = planted_trace({"mlp": grid(4, 3)})
    with pytest.raises(InputError, match="one trace or more"):
        write_trace_report(tmp_path / "x.html", [])
    with pytest.raises(InputError, match="one trace or more"):
        write_trace_report(tmp_path / "x.html", trace)  # type: ignore[arg-type]
    with pytest.raises(FileError):
        write_trace_report(tmp_path / "none" / "x.html", [trace])


def test_losses_are_not_reported_as_what_comes_back(tmp_path: Path) -> None:
    lost = planted_trace({"mlp": grid(4, 3)}, direction="noising")
    with pytest.raises(InputError, match="traces: expected states put back .* got direction='noising'"):
        write_trace_report(tmp_path / "x.html", [lost])
    assert not (tmp_path / "x.html").exists()


def _findings(*effects: dict[str, np.ndarray], **settings: object) -> list[str]:
    traces = [planted_trace(effect, **settings) for effect in effects]
    return trace_findings(average_by_role(traces), total_effects(traces), traces[0].settings, len(traces))


def test_the_headline_names_total_effect_peak_role_layer_and_share() -> None:
    effect = np.full((4, 5), 0.01)
    effect[1, 2] = 0.4
    found = _findings({"mlp": effect}, {"mlp": effect})
    assert "from 0.900 to 0.100, averaged over 2 facts: a total effect of 0.800 [0.800, 0.800]" in found[0]
    assert found[1].startswith("MLP: the largest average effect is 0.400 [")
    assert found[1].endswith("50% of the total effect, at the last subject token, layer 2.")


def test_a_peak_elsewhere_does_not_hide_the_site_that_the_paper_names() -> None:
    effect = np.full((4, 5), 0.0)
    effect[3, 4], effect[1, 1] = 0.6, 0.2
    found = _findings({"mlp": effect})
    assert "at the last prompt token, layer 4" in found[1]
    assert found[2].startswith("At the last subject token: at most 0.200")
    assert "holds the answer itself" in _findings({"resid": effect})[1]


def test_small_effects_are_called_so_and_heads_are_named() -> None:
    effect = np.full((4, 5, 3), 0.001)
    effect[2, 3, 1] = 0.03
    (sentence,) = [one for one in _findings({"heads": effect}) if one.startswith("Heads")]
    assert "at the first subsequent token, layer 3, head 1: next to nothing." in sentence


def test_without_an_interval_a_peak_may_be_chance() -> None:
    one = planted_trace({"mlp": grid(4, 3, seed=0)})
    one = Trace(one.data.isel(sample=[0]))
    found = trace_findings(average_by_role([one]), total_effects([one]), one.settings, 1)
    assert "it has no interval" in found[1]
    assert not [sentence for sentence in found if "holds 0" in sentence or "[" in sentence]


def test_without_a_total_effect_nothing_is_to_be_read() -> None:
    totals = pd.DataFrame(
        {"mean": [0.5, 0.49, 0.01], "low": [0.5, 0.4, -0.1], "high": [0.5, 0.6, 0.1], "n_facts": 2},
        index=["clean", "corrupted", "total effect"],
    )
    trace = planted_trace({"mlp": grid(4, 3)})
    found = trace_findings(average_by_role([trace]), totals, trace.settings, 2)
    assert "That interval holds 0" in found[1]


def test_settings_are_rows_without_records() -> None:
    trace = planted_trace(
        {"mlp": grid(4, 3)},
        kinds=["mlp"],
        noise={"rule": "gaussian, added", "multiple": 3.0, "sigma": 0.0679859, "reference": {"n": 3}},
    )
    rows = dict(settings_rows(trace.settings))
    assert rows["corruption"] == "gaussian, added; multiple 3; sigma 0.06799"
    assert rows["kinds of state"] == "MLP"
    assert "direction" not in rows


def _mantel(p: float) -> PromptComparison:
    table = pd.DataFrame({"r": [0.5, 0.0], "p": [p, 0.9]}, index=["relation", "length"])
    facts = (PLAIN,) * 5
    return PromptComparison(facts, np.zeros((5, 5)), {}, table, pd.DataFrame(), (0, 1, 2, 3, 4))


def test_a_distance_counts_only_beyond_the_chance_of_all_tests() -> None:
    assert "No distance between prompts" in prompts_finding(_mantel(0.03))  # 0.05 / 2 tests
    assert "by: relation (rank correlation 0.500, p = 0.010)" in prompts_finding(_mantel(0.01))


def test_the_record_in_the_page_is_json(tmp_path: Path) -> None:
    source, _ = _write(tmp_path, [planted_trace({"mlp": grid(4, 3)})])
    record = re.search(r"<pre>(\{.*?\})</pre>", source, re.DOTALL).group(1).replace("&#34;", '"')
    assert json.loads(record)["model"] == "planted"
