"""Many facts with the same settings: who is left out, and what a folder keeps through a crash."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformer_lens import HookedTransformer

from mechstyle import organisms
from mechstyle.datasets import write_requests
from mechstyle.errors import FileError, InputError, TextError
from mechstyle.facts import EditRequest, Fact
from mechstyle.tracing import Trace, causal_trace
from mechstyle.tracing.aggregate import total_effects
from mechstyle.tracing.targets import Contrast
from mechstyle.tracing.trace_facts import trace_facts
from mechstyle.tracing.trace_set import TraceSet
from tests.tracing.written import written

LIMIT = 240.0


def quick(
    model: HookedTransformer, fact: Fact, *, seed: int = 0, samples: int = 2, answer: Any = None
) -> Trace:
    """Stands in for a tracing function: cheap, and its values belong to fact and seed."""
    values = np.random.default_rng(seed).normal(size=(4, 3))
    return written({"mlp": values}, samples=samples, fact=fact, seed=seed)


@pytest.fixture(scope="module")
def known() -> list[Fact]:
    """Facts that the organism knows: real ones, which version 2 recalls better than invented ones."""
    return [request.fact for request in organisms.requests("organism-m", n=6, seed=0, invented=False)]


def same(one: TraceSet, other: TraceSet) -> bool:
    return one.facts == other.facts and all(a == b for a, b in zip(one, other, strict=True))


def test_facts_are_traced_in_order_and_unknown_ones_are_left_out_and_counted(
    organism: HookedTransformer, known: list[Fact]
) -> None:
    wrong = known[1].with_target(" a trombone of snow")
    long = Fact("{} " + "and so on " * 200, known[0].subject, " x")
    straddling = Fact(known[0].template + known[0].target[:4], known[0].subject, known[0].target[4:])
    found = trace_facts(organism, [known[0], wrong, known[2], long, known[0], straddling], tracer=quick)
    assert found.facts == (known[0], known[2])
    assert [trace.settings["fact"] for trace in found] == [known[0].to_dict(), known[2].to_dict()]
    assert dict(zip(found.skipped["prompt"], found.skipped["reason"], strict=True)) == {
        wrong.prompt: "not known",
        long.prompt: "cannot be tokenised",
        known[0].prompt: "given twice",
        straddling.prompt: "cannot be tokenised",
    }
    details = found.skipped.set_index("reason")["detail"]
    assert "log-probability" in details["not known"]
    assert "too long" in details["cannot be tokenised"].iloc[0]
    assert "straddle" in details["cannot be tokenised"].iloc[1]
    kept = trace_facts(organism, [known[0], wrong], tracer=quick, skip_unknown=False)
    assert len(kept) == 2
    assert kept.skipped.empty


def test_what_must_be_known_is_what_the_tracer_asks_for(
    organism: HookedTransformer, known: list[Fact]
) -> None:
    wrong = [fact.with_target(" snow") for fact in known[:2]]
    for answer in ("predicted", Contrast(" snow", " rain")):
        assert len(trace_facts(organism, wrong, tracer=partial(quick, answer=answer))) == 2
    with pytest.raises(InputError, match="none of the 2 can be traced: 2 not known"):
        trace_facts(organism, known[:2], tracer=partial(quick, answer=" snow"))


def test_facts_that_the_tracer_cannot_corrupt_are_left_out_with_its_reason(
    organism: HookedTransformer, known: list[Fact], tmp_path: Path
) -> None:
    def picky(model: HookedTransformer, fact: Fact) -> Trace:
        if fact == known[1]:
            raise TextError("subject: no other subject has as many tokens.")
        return quick(model, fact)

    found = trace_facts(organism, known[:3], tracer=picky, folder=tmp_path)
    assert found.skipped[["reason", "detail"]].to_numpy().tolist() == [
        ["cannot be corrupted", "subject: no other subject has as many tokens."]
    ]
    again = TraceSet.load(tmp_path)
    assert again.skipped.equals(found.skipped)
    assert same(again, found)


def test_each_fact_has_draws_of_its_own_that_its_trace_names(
    organism: HookedTransformer, known: list[Fact]
) -> None:
    tracer = partial(causal_trace, kinds=("resid",), samples=2, seed=5)
    found = trace_facts(organism, known[:2], tracer=tracer)
    seeds = [trace.settings["seed"] for trace in found]
    assert len({5, *seeds}) == 3
    assert found[1] == causal_trace(organism, known[1], kinds=("resid",), samples=2, seed=seeds[1])
    alone = trace_facts(organism, known[1:2], tracer=tracer)
    assert alone[0] == found[1]  # whatever else is in the list
    other = trace_facts(organism, known[1:2], tracer=partial(tracer, seed=6))
    assert other[0].settings["seed"] != seeds[1]


def test_a_folder_keeps_traces_and_goes_on_with_the_same_bits(
    organism: HookedTransformer, known: list[Fact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trace_facts(organism, known, tracer=quick)
    made: list[Fact] = []

    def interrupted(*given: Any, fact: Fact, **options: Any) -> Trace:
        if len(made) == stop:
            raise KeyboardInterrupt
        made.append(fact)
        return make(*given, fact=fact, **options)

    make = written
    monkeypatch.setattr(sys.modules[__name__], "written", interrupted)
    for stop in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            trace_facts(organism, known, tracer=quick, folder=tmp_path)
        assert TraceSet.load(tmp_path).facts == tuple(known[:stop])
    stop = 99
    finished = trace_facts(organism, known, tracer=quick, folder=tmp_path)
    assert made == known  # nothing was traced twice
    assert same(finished, whole)
    assert same(TraceSet.load(tmp_path), whole)
    assert same(TraceSet.load(tmp_path)[1:3], whole[1:3])


def test_a_damaged_trace_is_made_again_and_other_facts_stay(
    organism: HookedTransformer, known: list[Fact], tmp_path: Path
) -> None:
    whole = trace_facts(organism, known[:3], tracer=quick, folder=tmp_path)
    first = next(iter(sorted(tmp_path.glob("*.nc"))))
    first.write_bytes(first.read_bytes()[:-100])
    with pytest.raises(FileError, match="cannot read a trace"):
        list(TraceSet.load(tmp_path))
    assert same(trace_facts(organism, known[:3], tracer=quick, folder=tmp_path), whole)
    more = trace_facts(organism, known[2:5], tracer=quick, folder=tmp_path)
    assert more.facts == tuple(known[2:5])
    assert set(TraceSet.load(tmp_path).facts) == set(known[:5])


def test_a_folder_of_other_settings_or_another_model_is_refused(
    organism: HookedTransformer, tiny_model: HookedTransformer, known: list[Fact], tmp_path: Path
) -> None:
    trace_facts(organism, known[:1], tracer=quick, folder=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match="has traces with samples 2, but 3 is wanted now"):
        trace_facts(organism, known[:1], tracer=partial(quick, samples=3), folder=tmp_path)
    with pytest.raises(InputError, match="has traces with fingerprint"):
        trace_facts(tiny_model, known[:1], tracer=quick, folder=tmp_path)
    with pytest.raises(InputError, match=r"has traces with tracer '.*quick', but '.*causal_trace' is wanted"):
        trace_facts(organism, known[:1], folder=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_manifest_names_model_version_tracer_and_options(
    organism: HookedTransformer, known: list[Fact], tmp_path: Path
) -> None:
    answer = Contrast(" snow", " rain")
    found = trace_facts(organism, known[:1], tracer=partial(quick, answer=answer), folder=tmp_path)
    settings = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))["settings"]
    assert settings == dict(found.settings) == dict(TraceSet.load(tmp_path).settings)
    assert settings["tracer"].endswith("test_trace_facts.quick")
    contrast = {"type": "Contrast", "wanted": " snow", "other": " rain", "per_token": False}
    assert (settings["answer"], settings["samples"]) == (contrast, 2)
    assert {"mechstyle", "fingerprint", "dtype", "edits"} <= set(settings)


def test_options_that_do_not_work_leave_no_folder_that_would_refuse_the_right_ones(
    organism: HookedTransformer, known: list[Fact], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="kinds"):
        trace_facts(organism, known[:1], tracer=partial(causal_trace, kinds=("none",)), folder=tmp_path)
    tracer = partial(causal_trace, kinds=("mlp",), samples=1)
    assert len(trace_facts(organism, known[:1], tracer=tracer, folder=tmp_path)) == 1


@pytest.mark.parametrize(
    ("facts", "tracer", "message"),
    [
        ([], quick, "facts: expected at least one fact, got none"),
        (Fact("{} is", "It", " x"), quick, r"facts: expected a list of facts, got one Fact; pass \[fact\]"),
        (["text"], quick, "facts: expected facts, got str at place 0"),
        ([Fact("{} is", "It", " x")], 3, "tracer: expected a function of a model and a fact, got int"),
        ([Fact("{} is", "It", " x")], lambda fact: None, "tracer: expected a function that is called with"),
        ([Fact("{} is", "It", " x")], partial(quick, answer=" "), "answer: expected the continuation"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(
    organism: HookedTransformer, facts: Any, tracer: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        trace_facts(organism, facts, tracer=tracer, folder=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_without_traces_is_refused_by_load(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="holds no traces that can be read"):
        TraceSet.load(tmp_path)
    (tmp_path / "manifest.json").write_text('{"kind": "something else"}')
    with pytest.raises(FileError, match="holds no traces that can be read"):
        TraceSet.load(tmp_path)
    (tmp_path / "manifest.json").write_text('{"kind": "mechstyle traces", "settings": {}, "facts": []}')
    with pytest.raises(FileError, match="holds no trace yet"):
        TraceSet.load(tmp_path)


def test_a_set_of_traces_made_one_by_one_is_averaged_like_any_other(known: list[Fact]) -> None:
    traces = [quick(None, fact, seed=seed) for seed, fact in enumerate(known)]  # type: ignore[arg-type]
    found = TraceSet.of(traces)
    assert found.facts == tuple(known)
    table = found.average().set_index(["role", "layer"])["mean"]
    last = np.mean([trace.indirect_effect("mlp").values[3] for trace in traces], axis=0)
    assert table["last subject token"].tolist() == pytest.approx(last.tolist())
    assert total_effects(found)["n_facts"].tolist() == [6, 6, 6]
    with pytest.raises(InputError, match="expected traces of facts, but number 1 is none"):
        TraceSet.of([traces[0], written({"mlp": [[0.0]] * 4})])


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_bits(known: list[Fact], tmp_path: Path) -> None:
    write_requests(tmp_path / "facts.jsonl", [EditRequest(fact, " snow") for fact in known])
    script = (
        "import functools, sys, mechstyle as ms\n"
        "from mechstyle.tracing.trace_facts import trace_facts\n"
        "facts = [one.fact for one in ms.datasets.read_requests(sys.argv[1])]\n"
        "tracer = functools.partial(ms.causal_trace, kinds=('mlp',), samples=2)\n"
        "trace_facts(ms.load_model('organism-m'), facts, tracer=tracer, folder=sys.argv[2])\n"
    )

    def words(folder: Path) -> list[str]:
        return [sys.executable, "-c", script, str(tmp_path / "facts.jsonl"), str(folder)]

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(words(killed))
    begun = time.monotonic()
    while len(list(killed.glob("[!.]*.nc"))) < 2:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() - begun < LIMIT
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 2 <= len(TraceSet.load(killed)) < len(known)
    for folder in (killed, whole):
        subprocess.run(words(folder), check=True, timeout=LIMIT)
    assert same(TraceSet.load(killed), TraceSet.load(whole))
    assert len(TraceSet.load(whole)) == len(known)
