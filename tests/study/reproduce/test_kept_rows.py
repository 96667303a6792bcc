"""Rows that were kept are taken again only where a fresh run would give the same."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformer_lens import HookedTransformer

from mechstyle.cases import Case
from mechstyle.datasets import read_counterfact
from mechstyle.editing.finetune import finetune
from mechstyle.editing.finetune_options import FinetuneOptions
from mechstyle.errors import InputError
from mechstyle.evaluation.generations import Generations
from mechstyle.evaluation.measure import Measure
from mechstyle.evaluation.request_scores import RequestScores
from mechstyle.models import HookedModel
from mechstyle.study.reproduce import loop
from mechstyle.study.reproduce.loop import Loop
from mechstyle.study.reproduce.run import reproduce
from tests.study.reproduce.conftest import FACTS, MakeManifest

COUNTERFACT = FACTS / "counterfact.json"
SCORES = RequestScores()


def cases(n: int = 2) -> list[Case]:
    """With nothing to ask but their own prompts."""
    whole = [replace(one, paraphrases=(), neighborhood=()) for one in read_counterfact(COUNTERFACT)[:n]]
    return [Case(one, prompts=(one.fact.prompt,)) for one in whole]


def rows(
    model: HookedModel, asked: list[Case], folder: Path | None, measure: Measure = SCORES
) -> pd.DataFrame:
    tables, _ = Loop(model, asked, [measure], None, False, 0, folder, False).run()
    return tables[measure.name]


def written(folder: Path) -> set[int]:
    """When each file was written."""
    return {path.stat().st_mtime_ns for path in (folder / "requests").iterdir()}


def test_a_run_in_the_same_state_takes_what_is_there(
    roomy: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = rows(roomy, cases(), tmp_path)
    monkeypatch.setattr(Loop, "_readers", lambda _: pytest.fail("measured anew"))
    pd.testing.assert_frame_equal(rows(roomy, cases(), tmp_path), first)


def test_a_longer_run_weighs_words_by_all_of_its_references(roomy: HookedTransformer, tmp_path: Path) -> None:
    references = ("the capital of the guitar", "the guitar of Paris is the capital of Rome")
    asked = [replace(one, references=(text,)) for one, text in zip(cases(), references, strict=True)]
    measure = Generations(max_length=40)
    short = rows(roomy, asked[:1], tmp_path, measure)["consistency"].dropna()
    found = rows(roomy, asked, tmp_path, measure)
    pd.testing.assert_frame_equal(found, rows(roomy, asked, None, measure))
    assert found["consistency"].dropna().iloc[0] != short.iloc[0], "the space of words shows"


def test_another_number_format_is_measured_anew(roomy: HookedTransformer, tmp_path: Path) -> None:
    first = rows(roomy, cases(), tmp_path)
    rounded = deepcopy(roomy).to(torch.bfloat16)
    found = rows(rounded, cases(), tmp_path)
    assert list(found["logp_new"]) != list(first["logp_new"])
    pd.testing.assert_frame_equal(found, rows(rounded, cases(), None))


def test_other_active_edits_of_the_same_weights_are_measured_anew(
    roomy: HookedTransformer, tmp_path: Path
) -> None:
    requests = read_counterfact(COUNTERFACT)[:2]
    options = FinetuneOptions(steps=2, lr=0.01)
    one, other = (finetune(roomy, [request], layers=[1], options=options) for request in requests)
    with one.applied(roomy):
        first = rows(roomy, cases(), tmp_path)
    with other.applied(roomy):
        found = rows(roomy, cases(), tmp_path)
        pd.testing.assert_frame_equal(found, rows(roomy, cases(), None))
    assert list(found["logp_new"]) != list(first["logp_new"])


def test_another_version_measures_anew(
    roomy: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows(roomy, cases(), tmp_path)
    before = written(tmp_path)
    monkeypatch.setattr("mechstyle.evaluation.units.__version__", "0.0.0")
    rows(roomy, cases(), tmp_path)
    assert not before & written(tmp_path)


def test_a_model_with_hooks_has_no_folder(
    roomy: HookedTransformer, manifest: MakeManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mechstyle.study.reproduce.run.known_cases", lambda *_, **__: pytest.fail("ran"))
    monkeypatch.setattr(loop.Loop, "run", lambda _: pytest.fail("ran"))
    roomy.add_hook("blocks.0.hook_mlp_out", lambda state, hook: state * 0, is_permanent=True)
    try:
        with pytest.raises(
            InputError, match="folder: the model carries hooks.* take them off.* or leave the folder out"
        ):
            reproduce(manifest(table="rome-zsre"), model=roomy, data=COUNTERFACT, limit=1, folder=tmp_path)
    finally:
        roomy.reset_hooks(including_permanent=True)


def test_a_model_with_hooks_is_measured_with_them_without_a_folder(roomy: HookedTransformer) -> None:
    plain = rows(roomy, cases(1), None)
    roomy.add_hook("blocks.0.hook_mlp_out", lambda state, hook: state * 0, is_permanent=True)
    try:
        assert list(rows(roomy, cases(1), None)["logp_new"]) != list(plain["logp_new"])
    finally:
        roomy.reset_hooks(including_permanent=True)
