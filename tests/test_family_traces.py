"""Which facts experiment 10 traces, what it puts in a subject's place, and how it sums effects up."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

import mechstyle as ms
from mechstyle.organisms.world import world
from mechstyle.tokens import encode_fact

FOLDER = Path(__file__).parents[1] / "experiments" / "10_family_traces"


@pytest.fixture
def subjects(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("subjects")


@pytest.fixture
def splits(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("splits")


@pytest.mark.parametrize("same_end", [False, True])
def test_a_counterpart_has_as_many_tokens_the_same_relation_and_another_object(
    subjects: ModuleType, same_end: bool
) -> None:
    model = ms.load_model("organism-m")
    objects = {(one.subject, one.relation): one.object for one in world().facts}
    found = 0
    for one in [fact for fact in world().facts if fact.relation == "firm_emblem"][:6]:
        fact = ms.Fact(one.taught[0], one.subject, f" {one.object}", one.relation)
        own = model.tokenizer(fact.prompt)["input_ids"]
        for name in subjects.counterparts(model, fact, n=5, seed=0, same_end=same_end):
            other = model.tokenizer(fact.template.replace("{}", name))["input_ids"]
            differ = [i for i, pair in enumerate(zip(own, other, strict=True)) if pair[0] != pair[1]]
            last = encode_fact(model, fact, prepend_bos=False).subject[-1]
            assert objects[name, one.relation] != one.object
            assert differ
            assert max(differ) <= last
            assert not (same_end and last in differ)
            found += 1
    assert found > 6


def test_names_that_end_alike_leave_nothing_corrupted_at_the_last_subject_token(subjects: ModuleType) -> None:
    model = ms.load_model("organism-m")
    fact = ms.Fact("The emblem of {} is a", "Brask Works", " lion", "firm_emblem")
    trace = subjects.replaced(model, fact, sets=True, same_end=True, kinds=("mlp",), samples=2)
    assert list(trace.data["role"].values) == [subjects.ALL, subjects.REST, subjects.LAST, subjects.END]
    encoded = encode_fact(model, fact)
    own = encoded.ids[list(encoded.subject)].tolist()
    for other in trace.settings["noise"]["tokens"]:
        assert other != own
        assert other[-1] == own[-1]


def _frame(effects: np.ndarray, total: float, **about: object) -> pd.DataFrame:
    rows = [
        {"prompt": str(fact), "layer": layer, "effect": effect, "total": total, **about}
        for fact, row in enumerate(effects)
        for layer, effect in enumerate(row)
    ]
    return pd.DataFrame(rows)


def test_a_peak_is_the_layer_of_the_largest_mean_and_its_share_is_of_the_total(splits: ModuleType) -> None:
    effects = np.tile([0.1, 0.4, 0.2], (8, 1))
    found = splits.peak(_frame(effects, 0.8), seed=0)
    assert (found["n"], found["layer"], found["depth"]) == (8, 1, 0.5)
    assert found["effect"] == pytest.approx(0.4)
    for name in ("share", "share_low", "share_high"):  # facts that are all alike leave no doubt
        assert found[name] == pytest.approx(0.5)


def test_the_regression_finds_the_explanation_that_was_put_in(splits: ModuleType) -> None:
    rng = np.random.default_rng(0)
    after, tokens, total = rng.integers(1, 9, 200), rng.integers(2, 6, 200), rng.uniform(0.5, 1, 200)
    frame = pd.DataFrame(
        {
            "after": after, "tokens": tokens, "total": total, "effect": 0.3 + 0.05 * after,
            "first_shared": 1, "last_shared": rng.integers(1, 30, 200), "kind": "resid", "layer": 3,
            "place": "last subject token", "name": "firm", "group": "invented, 5-6 facts",
        }
    )  # fmt: skip
    found = splits.explained(frame).set_index("explained by")
    assert found["coefficient"]["tokens after the subject"] == pytest.approx(0.05)
    others = found.drop("tokens after the subject")
    assert len(others) == 3
    assert others["coefficient"].abs().max() < 1e-9


def test_every_fact_is_in_one_part_of_each_split_that_it_belongs_to(splits: ModuleType) -> None:
    frame = pd.DataFrame(
        {"after": [1, 2, 3, 5, 6], "tokens": [2, 2, 3, 4, 9], "first_shared": [0, 1, 4, 5, 15],
         "last_shared": [1, 4, 5, 19, 24], "name": ["real", "person", "firm", "firm", "firm"]}
    )  # fmt: skip
    table = splits.parts(frame)
    assert table["tokens after"].tolist() == ["1-2", "1-2", "3-5", "3-5", "6+"]
    assert table["tokens of the subject"].tolist() == ["2", "2", "3", "4+", "4+"]
    assert table["names with its last token"].tolist()[1:] == ["1-4", "5-19", "5-19", "20+"]
    assert table["names with its first word"].isna().tolist() == [True, False, False, False, False]
