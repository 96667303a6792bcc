"""Edits at every layer beside the traces: what the check holds, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import torch
from transformer_lens import HookedTransformer

from mechstyle.editing.edit import EditSet
from mechstyle.editing.methods import rome
from mechstyle.editing.target_options import TargetOptions
from mechstyle.errors import InputError
from mechstyle.evaluation.scores import evaluate
from mechstyle.facts import EditRequest, Fact
from mechstyle.study.editability import localisation_vs_editability
from mechstyle.study.localisation import LocalisationCheck
from mechstyle.tracing.causal_trace import causal_trace

SUBJECTS = ("Miles Davis", "Chet Baker", "Bill Evans")
SAMPLES = 2


ANSWER = " trumpet"
FEW = TargetOptions(steps=4)


@pytest.fixture
def knowing(tiny_model: HookedTransformer) -> HookedTransformer:
    """A tiny model that answers with one word whatever it is asked, so that it knows some facts."""
    (token,) = tiny_model.tokenizer(ANSWER)["input_ids"]
    with torch.no_grad():
        tiny_model.unembed.b_U[token] += 6.0
    return tiny_model


def _requests() -> list[EditRequest]:
    return [EditRequest(Fact("{} plays the", subject, ANSWER), " guitar") for subject in SUBJECTS]


def _moments(model: HookedTransformer) -> dict[int, torch.Tensor]:
    return {layer: torch.eye(model.cfg.d_mlp) for layer in range(model.cfg.n_layers)}


@pytest.fixture
def check(knowing: HookedTransformer) -> LocalisationCheck:
    return localisation_vs_editability(
        knowing,
        _requests(),
        covariance=_moments(knowing),
        samples=SAMPLES,
        contexts=["{}"],
        target_options=FEW,
    )


def test_the_frame_has_every_fact_at_every_layer_with_its_score_and_effects(
    knowing: HookedTransformer, check: LocalisationCheck
) -> None:
    requests = _requests()
    assert (check.n_facts, check.layers, check.kinds) == (3, (0, 1, 2), ("mlp", "resid"))
    for row in check.frame.itertuples():
        request = requests[row.fact]
        options = {"contexts": ["{}"], "target_options": FEW}
        edit = None
        if row.layer < 2:
            edit = rome(knowing, request, layer=row.layer, covariance=_moments(knowing), **options)
        if edit is None:
            # The same model, but in another batch: equal up to rounding.
            assert (row.success, row.p_after) == pytest.approx((0.0, row.p_before), rel=1e-5, abs=1e-8)
        else:
            with edit.applied(knowing):
                p_after = float(evaluate(knowing, [request]).frame["p_new"].iloc[0])
            assert row.p_after == pytest.approx(p_after, rel=0.02)
            assert row.success == pytest.approx((row.p_after - row.p_before) / (1 - row.p_before))
        trace = causal_trace(knowing, request.fact, samples=SAMPLES)
        for kind in check.kinds:
            effect = trace.indirect_effect(kind)[trace.token("last subject token"), row.layer]
            assert getattr(row, f"effect_{kind}") == pytest.approx(float(effect), abs=1e-9)


def test_the_model_is_as_before(knowing: HookedTransformer) -> None:
    before = {name: weight.detach().clone() for name, weight in knowing.named_parameters()}
    localisation_vs_editability(
        knowing, _requests()[:2], covariance=_moments(knowing), samples=1, contexts=["{}"], target_options=FEW
    )
    assert all(torch.equal(weight, before[name]) for name, weight in knowing.named_parameters())


def test_facts_that_the_model_does_not_know_are_left_out_and_counted(knowing: HookedTransformer) -> None:
    known = _requests()
    unknown = EditRequest(Fact("{} was born in", "Jimi Hendrix", " piano"), " guitar")
    found = localisation_vs_editability(
        knowing,
        [known[0], unknown, known[1]],
        covariance=_moments(knowing),
        samples=1,
        contexts=["{}"],
        target_options=FEW,
    )
    assert found.skipped == 1
    assert sorted(found.frame["fact"].unique()) == [0, 2]
    assert found.ranks().index.tolist() == [0, 2]


def test_an_editor_of_ones_own_is_called_once_a_layer(knowing: HookedTransformer) -> None:
    asked: list[tuple[int, int]] = []

    def editor(model: HookedTransformer, requests: Sequence[EditRequest], layer: int) -> list[EditSet]:
        asked.append((len(requests), layer))
        return [
            rome(model, one, layer=0, covariance=_moments(model), contexts=["{}"], target_options=FEW)
            for one in requests
        ]  # the same everywhere: the layer then explains nothing

    found = localisation_vs_editability(knowing, _requests(), layers=[0, 1], editor=editor, samples=1)
    assert asked == [(3, 0), (3, 1)]
    assert found.variance_explained().loc["layer", "r2"] == pytest.approx(0.0, abs=1e-9)


def test_given_traces_are_used_as_they_are(knowing: HookedTransformer) -> None:
    requests = _requests()
    traces = [causal_trace(knowing, one.fact, kinds=("attn",), samples=1) for one in requests]
    found = localisation_vs_editability(
        knowing,
        requests,
        covariance=_moments(knowing),
        layers=[0, 1],
        traces=traces,
        contexts=["{}"],
        target_options=FEW,
    )
    assert found.kinds == ("attn",)
    token = traces[1].token("last subject token")
    wanted = traces[1].indirect_effect("attn").values[token, :2]
    np.testing.assert_array_equal(found.frame[found.frame["fact"] == 1]["effect_attn"], wanted)


def test_wrong_traces_are_refused_before_any_work(knowing: HookedTransformer) -> None:
    requests, moments = _requests(), _moments(knowing)
    traces = [causal_trace(knowing, one.fact, kinds=("mlp",), samples=1) for one in requests]
    other = causal_trace(knowing, requests[2].fact, kinds=("attn",), samples=1)
    for wrong, message in (
        (traces[:2], "expected one a request, 3, got 2"),
        (traces[::-1], r"traces\[0\]: of another fact than requests\[0\], 'Miles Davis plays the'"),
        ([*traces[:2], other], r"traces\[2\]: expected the same kinds"),
    ):
        with pytest.raises(InputError, match=message):
            localisation_vs_editability(knowing, requests, covariance=moments, traces=wrong)
    with torch.no_grad():
        knowing.blocks[0].mlp.W_out.mul_(1.5)
    with pytest.raises(InputError, match=r"traces\[0\]: made with another model"):
        localisation_vs_editability(knowing, requests, covariance=moments, traces=traces)


def test_what_cannot_be_edited_is_said_at_once(knowing: HookedTransformer) -> None:
    requests, moments = _requests(), _moments(knowing)
    with pytest.raises(InputError, match="covariance: expected a mapping .* got NoneType. Or pass an editor"):
        localisation_vs_editability(knowing, requests)
    with pytest.raises(InputError, match=r"covariance: lacks layers \[2\]"):
        localisation_vs_editability(knowing, requests, covariance={0: moments[0]}, layers=[0, 2])
    with pytest.raises(InputError, match=r"layers: expected two or more to compare, got \[1\]"):
        localisation_vs_editability(knowing, requests, covariance=moments, layers=[1])
    unknown = [EditRequest(Fact("{} was born in", one, " piano"), " guitar") for one in SUBJECTS]
    with pytest.raises(InputError, match="two facts that the model knows, got 0 of 3"):
        localisation_vs_editability(knowing, unknown, covariance=moments, samples=1)


def _planted(success: np.ndarray, effect: np.ndarray) -> LocalisationCheck:
    facts, layers = np.indices(success.shape)
    frame = pd.DataFrame(
        {
            "fact": facts.ravel(),
            "layer": 2 * layers.ravel() + 1,
            "success": success.ravel(),
            "effect_mlp": effect.ravel(),
        }
    )
    return LocalisationCheck(frame.sample(frac=1, random_state=0), 0, {})


def test_the_order_of_the_rows_does_not_matter_and_layers_keep_their_numbers() -> None:
    success = np.array([[0.1, 0.9, 0.2], [0.1, 0.2, 0.8]])
    effect = np.array([[0.3, 0.2, 0.1], [0.0, 0.1, 0.2]])
    check = _planted(success, effect)
    assert check.ranks().to_dict("list") == {"best": [3, 5], "peak": [1, 5], "rank": [2.0, 1.0]}
    means = check.by_layer().set_index(["measure", "layer"])["mean"]
    assert means.loc[("success", 3)] == pytest.approx(0.55)
    assert means.loc[("mlp", 1)] == pytest.approx(0.15)
    assert check.without(5).layers == (1, 3)
    assert check.without(5).ranks()["best"].tolist() == [3, 3]


def test_a_check_refuses_a_frame_with_holes_and_unknown_names() -> None:
    check = _planted(np.random.default_rng(0).random((3, 3)), np.zeros((3, 3)))
    with pytest.raises(InputError, match="one row for every fact at every layer"):
        LocalisationCheck(check.frame.iloc[1:], 0, {})
    with pytest.raises(InputError, match="effect_<kind>"):
        LocalisationCheck(check.frame.drop(columns="effect_mlp"), 0, {})
    with pytest.raises(InputError, match="expected one of mlp, got 'attn'"):
        check.variance_explained("attn")
    with pytest.raises(InputError, match=r"expected some of \[1, 3, 5\], got \[2\]"):
        check.without(2)
