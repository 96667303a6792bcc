"""``mechstyle trace``: one fact in many ways, and many facts into a folder that goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from mechstyle import organisms
from mechstyle.cli import run
from mechstyle.facts import Fact
from mechstyle.tracing import Trace
from mechstyle.tracing.trace_set import TraceSet
from tests.cli.conftest import Run

FACT = ["--prompt", "{} plays the", "--subject", "Miles Davis", "--target", " trumpet"]
FACTS = (
    Fact("{} plays the", "Miles Davis", " trumpet", "plays"),
    Fact("{} plays the", "Chet Baker", " trumpet", "plays"),
    Fact("{} is the capital of", "Paris", " France", "capital"),
    Fact("{} is the capital of", "Rome", " Italy", "capital"),
)
QUICK = ["--samples", "2", "--kinds", "mlp"]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Facts, none of which the random model knows."""
    path = tmp_path / "facts.jsonl"
    path.write_text("".join(json.dumps(fact.to_dict()) + "\n" for fact in FACTS), encoding="utf-8")
    return path


def test_a_dataset_is_traced_into_a_folder_with_its_average(
    mechstyle_run: Run, dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "traces"
    code, said, _ = mechstyle_run(
        "trace", "--dataset", dataset, "--limit", 3, "--all", *QUICK, "--out", out, "--json"
    )
    assert code == 0
    summary = json.loads(said)
    assert summary == json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert (summary["facts"], summary["traced"], summary["skipped"]) == (3, 3, {})
    traces = TraceSet.load(out)
    assert traces.facts == FACTS[:3]
    average = pd.read_csv(out / "average.csv")
    assert average["mean"].tolist() == pytest.approx(traces.average()["mean"].tolist())
    peak = average.loc[average["mean"].idxmax()]
    assert (summary["peaks"][0]["role"], summary["peaks"][0]["layer"]) == (peak["role"], peak["layer"])
    totals = pd.read_csv(out / "totals.csv", index_col="quantity")
    assert summary["totals"]["total effect"]["mean"] == pytest.approx(totals["mean"]["total effect"])
    assert summary["suggested_layer"] in range(3)


def test_a_dataset_goes_on_where_it_stopped_and_refuses_other_settings(
    mechstyle_run: Run, dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "traces"
    words = ["trace", "--dataset", dataset, "--all", *QUICK, "--out", out]
    assert mechstyle_run(*words, "--limit", 2)[0] == 0
    first = {path.name: path.stat().st_mtime_ns for path in out.glob("*.nc")}
    code, said, _ = mechstyle_run(*words)
    assert code == 0
    assert said.startswith("4 of 4 facts traced; average total effect ")
    assert said.splitlines()[-1] == str(out / "report.html")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert all(fact.subject in page for fact in FACTS)
    now = {path.name: path.stat().st_mtime_ns for path in out.glob("*.nc")}
    assert len(now) == 4
    assert first.items() <= now.items()
    code, said, err = mechstyle_run(*words, "--noise", "1")
    assert (code, said, err.count("\n")) == (2, "", 1)
    assert "has traces with corruption" in err


def test_peaks_over_a_dataset_name_the_head(mechstyle_run: Run, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "traces"
    words = ["trace", "--dataset", dataset, "--all", "--samples", "2", "--kinds", "mlp,heads,v", "--out", out]
    code, said, err = mechstyle_run(*words)
    assert code == 0, err
    peaks = {peak["kind"]: peak for peak in json.loads((out / "summary.json").read_text("utf-8"))["peaks"]}
    assert [set(peak) & {"head", "kv_head"} for peak in peaks.values()] == [set(), {"head"}, {"kv_head"}]
    average = TraceSet.load(out).average()
    for kind, axis in (("heads", "head"), ("v", "kv_head")):
        wanted = average.loc[average[average["kind"] == kind]["mean"].idxmax()]
        place = {name: peaks[kind][name] for name in ("role", "layer", axis)}
        assert place == {"role": wanted["role"], "layer": wanted["layer"], axis: wanted[axis]}
        assert f"peaks at the {place['role']}, layer {place['layer']}, {axis} {place[axis]}: +" in said


def test_one_draw_of_one_fact_is_told_without_an_interval(
    mechstyle_run: Run, dataset: Path, tmp_path: Path
) -> None:
    words = ["--all", "--limit", "1", "--samples", "1", "--kinds", "mlp", "--out", tmp_path / "traces"]
    code, said, err = mechstyle_run("trace", "--dataset", dataset, *words)
    assert code == 0, err
    assert "[" not in said


def test_facts_that_the_model_does_not_know_are_left_out_and_told(
    mechstyle_run: Run, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said, err = mechstyle_run("trace", "--dataset", dataset, *QUICK, "--out", tmp_path / "none")
    assert (code, said) == (2, "")
    assert "none of the 4 can be traced: 4 not known" in err
    facts = [request.fact for request in organisms.requests("organism-m", n=2, seed=0, invented=False)]
    facts.append(facts[0].with_target(" snow"))
    dataset.write_text("".join(json.dumps(fact.to_dict()) + "\n" for fact in facts), encoding="utf-8")
    out = tmp_path / "some"
    words = ["trace", "--dataset", dataset, *QUICK, "--out", out, "--json", "--quiet"]
    assert run([str(word) for word in words]) == 0
    summary, told = capsys.readouterr()
    assert json.loads(summary)["traced"] == 2
    assert json.loads(summary)["skipped"] == {"not known": 1}
    assert "1 of 3 facts left out: not known" in told
    assert pd.read_csv(out / "skipped.csv")["target"].tolist() == [" snow"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "facts.jsonl", *FACT], "give either --dataset FILE or --prompt"),
        (["--limit", "3", *FACT], "--limit and --all belong to --dataset FILE"),
        (["--dataset", "facts.jsonl", "--limit", "0"], "--limit: expected a whole number of at least 1"),
        (["--dataset", "nowhere.json"], "cannot read nowhere.json"),
        (
            ["--noise", "2", "--corruption", "mean", *FACT],
            "--noise belongs to gaussian and uniform, not to mean",
        ),
        (["--counterpart", "Chet Baker", *FACT], "--counterpart belongs to --corruption replacement"),
        (["--tokens", "end", *FACT], "--tokens: expected NAME=ROLE or NAME=INDEX,INDEX"),
        (["--dataset", "facts.jsonl", "--contrast", " x"], "--contrast: name the continuation"),
        (["--metric", "accuracy", *FACT], "--metric"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_the_model_is_loaded(
    words: list[str],
    message: str,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mechstyle_run: Run,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mechstyle.models.load_model", lambda *_: pytest.fail("loaded"))
    code, out, err = mechstyle_run("trace", *words, "--out", "out.nc")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not (tmp_path / "out.nc").exists()


def test_options_say_what_is_scored_corrupted_and_restored(mechstyle_run: Run, tmp_path: Path) -> None:
    def traced(*words: str) -> Trace:
        code, _, err = mechstyle_run("trace", *FACT, "--samples", "2", *words, "--out", tmp_path / "t.nc")
        assert code == 0, err
        return Trace.load(tmp_path / "t.nc")

    contrast = traced("--kinds", "resid", "--metric", "logprob", "--contrast", " guitar")
    assert contrast.settings["contrast"]["wanted"] == " trumpet"
    assert contrast.settings["contrast"]["other"] == " guitar"
    assert traced("--kinds", "mlp", "--answer", "predicted").knows
    assert traced("--kinds", "mlp", "--answer", "piano").settings["answer"] == " piano"
    replaced = traced("--kinds", "mlp", "--corruption", "replacement", "--counterpart", "Paris Davis")
    assert "Paris Davis" in json.dumps(replaced.settings["noise"])
    assert traced("--kinds", "mlp", "--corruption", "mean").data.sizes["sample"] == 1
    assert traced("--kinds", "mlp", "--metric", "neg_kl").settings["metric"] == "neg_kl"
    sets = traced("--kinds", "attn", "--tokens", "both=0,1", "--tokens", "end=last prompt token")
    assert sets.data["role"].values.tolist() == ["both", "end"]


@pytest.mark.parametrize("kind", ["heads", "neurons"])
def test_the_peak_of_a_kind_with_further_axes_names_its_place(
    mechstyle_run: Run, tmp_path: Path, kind: str
) -> None:
    words = ["--kinds", kind, "--samples", "1", *(["--neuron-layer", "1"] if kind == "neurons" else [])]
    code, out, err = mechstyle_run("trace", *FACT, *words, "--out", tmp_path / "t.nc", "--json")
    assert code == 0, err
    peak = json.loads(out)["peaks"][kind]
    effect = Trace.load(tmp_path / "t.nc").indirect_effect(kind)
    assert peak["effect"] == pytest.approx(float(effect.max()))
    assert (
        float(effect.isel({axis: peak[axis] for axis in effect.dims if axis != "layer"}).max())
        == peak["effect"]
    )
    assert peak["layer"] in ([1] if kind == "neurons" else range(3))
