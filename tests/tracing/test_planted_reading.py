"""Logit lens and saliency where the truth is known: which layer says the answer, which tokens it hangs on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mechstyle.tracing.logit_lens import logit_lens
from mechstyle.tracing.saliency import saliency
from mechstyle.tracing.targets import Contrast
from tests.planted import FACTS, attention_fact, both_tokens, mlp_fact, query_hop

LAST, END = 1, 3
FORMS: list[dict[str, Any]] = [{}, {"norm": "LN"}, {"norm": "RMS", "grouped": True}]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("make", [mlp_fact, attention_fact])
def test_the_lens_sees_the_answer_from_the_layer_that_writes_it(make: Any, form: dict[str, Any]) -> None:
    planted = make(**form)
    found = logit_lens(planted.model, planted.fact).data
    known = np.zeros((4, 7), dtype=bool)
    known[LAST, planted.write + 1 :] = True
    known[END, planted.read + 1 :] = True
    np.testing.assert_array_equal(found["answer_prob"].values > 0.9, known)
    np.testing.assert_array_equal(found["answer_prob"].values < 0.01, ~known)
    assert (found["answer_rank"].values[known] == 0).all()
    assert (found["top_token"].isel(rank=0).values[known] == planted.fact.target).all()


def test_the_lens_of_what_a_part_adds_sees_the_part_that_writes() -> None:
    planted = mlp_fact()
    found = logit_lens(planted.model, planted.fact, states=("mlp", "attn")).data["answer_prob"]
    for state, token, layer in (("mlp", LAST, planted.write), ("attn", END, planted.read)):
        shown = found.sel(state=state, layer=range(6)).values > 0.9
        assert np.argwhere(shown).tolist() == [[token, layer]]


def test_the_lens_asks_for_the_answer_that_was_named() -> None:
    planted = mlp_fact()
    found = logit_lens(planted.model, planted.fact, answer=FACTS[1].target).data
    assert float(found["answer_prob"].max()) < 0.01
    assert (found["top_token"].isel(token=END, rank=0, layer=-1).item()) == planted.fact.target


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("make", [mlp_fact, attention_fact])
def test_saliency_points_to_the_last_subject_token_and_to_no_other(make: Any, form: dict[str, Any]) -> None:
    planted = make(**form)
    for settings in (
        {"baseline": ("zero", "bos"), "steps": 20},
        {"method": "gradient_x_input"},
        {"answer": Contrast(planted.fact.target, FACTS[1].target), "steps": 20},
    ):
        scores = saliency(planted.model, planted.fact, **settings).data["score"].values
        assert (scores[:, LAST] > 0.02).all()
        assert (np.abs(np.delete(scores, LAST, axis=1)) < 1e-3 * scores[:, [LAST]]).all()


def test_saliency_shares_the_answer_between_two_needed_tokens() -> None:
    planted = both_tokens()
    scores = saliency(planted.model, planted.fact, baseline="zero", steps=200).data
    first, last = scores["score"].values[0, :2]
    assert first == pytest.approx(last)
    lost = float(scores["value"] - scores["at_baseline"][0])
    assert first + last == pytest.approx(lost, rel=0.03)
    np.testing.assert_allclose(scores["score"].values[0, 2:], 0, atol=1e-6)


def test_saliency_counts_the_token_that_is_read_and_the_one_that_says_where() -> None:
    planted = query_hop()
    found = saliency(planted.model, planted.fact, baseline="zero", steps=200).data
    strings = found["token_str"].values.tolist()
    large = {strings[token] for token in np.flatnonzero(found["score"].values[0] > 1)}
    assert large == {" red", " Davis"}
    np.testing.assert_allclose(np.sort(np.abs(found["score"].values[0]))[:-2], 0, atol=1e-4)
