"""Traces on top of each other: what may be averaged, and resamples of facts and draws."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mechstyle.errors import InputError
from mechstyle.metrics import bootstrap_means
from mechstyle.tracing import average_by_role
from mechstyle.tracing.aligned import align, resampled_jointly, resampled_means
from tests.tracing.written import written

ONE = written({"mlp": [[0.1, 0.2], [0.3, 0.0], [0.5, 0.2], [0.2, 0.6]]})
TWO = written({"mlp": [[0.3, 0.0], [0.4, 0.8]]}, roles=("first subject token", "last subject token"))


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ({"neuron_layer": 1}, {"neuron_layer": 5}, "neuron_layer 5, the first one 1"),
        ({"noise": {"multiple": 1.0}}, {"noise": {"multiple": 5.0}}, "noise multiple 5.0, the first one 1.0"),
        ({"noise": {"sigma": 0.1}}, {"noise": {"sigma": 0.2}}, "noise sigma 0.2, the first one 0.1"),
        ({"noise": {"width": 0.1}}, {"noise": {"width": 0.2}}, "noise width 0.2, the first one 0.1"),
        ({"noise": {"rule": "a"}}, {}, "noise rule None, the first one 'a'"),
        (
            {"noise": {"reference": {"list": "given"}}},
            {"noise": {"reference": {"list": "packaged"}}},
            "noise reference {'list': 'packaged'}, the first one {'list': 'given'}",
        ),
        ({"active_edits": []}, {"active_edits": ["w"]}, "active_edits ['w'], the first one []"),
        (
            {"edited_weights": {"w": "1f"}},
            {"edited_weights": {"w": "2a"}},
            "edited_weights {'w': '2a'}, the first one {'w': '1f'}",
        ),
        ({"answer_limit": 1}, {"answer_limit": None}, "answer_limit None, the first one 1"),
        ({"hooks": []}, {"hooks": ["hook_embed"]}, "hooks ['hook_embed'], the first one []"),
        ({"receivers": ["logits"]}, {"receivers": ["q"]}, "receivers ['q'], the first one ['logits']"),
        ({"through_mlps": True}, {"through_mlps": False}, "through_mlps False, the first one True"),
        ({"answer_source": "target"}, {}, "answer_source None, the first one 'target'"),
        ({"direction": "denoising"}, {"direction": "noising"}, "direction 'noising', the first one 'denoi"),
        (
            {"contrast": {"per_token": True, "other": " a"}},
            {"contrast": {"per_token": False, "other": " b"}},
            "contrast per_token False, the first one True",
        ),
        ({"tokens": {"a": [0]}}, {"tokens": {"b": [0]}}, "token sets ['b'], the first one ['a']"),
    ],
)
def test_settings_that_change_what_the_numbers_mean_must_agree(
    one: dict[str, object], other: dict[str, object], message: str
) -> None:
    effects = {"mlp": [[0.0, 0.0]] * 4}
    with pytest.raises(InputError, match=re.escape(f"traces: trace 1 has {message}")):
        average_by_role([written(effects, **one), written(effects, **other)])  # type: ignore[arg-type]


def test_what_belongs_to_each_fact_may_differ() -> None:
    effects = {"mlp": [[0.0, 0.0]] * 4}
    traces = [
        written(
            effects,
            noise={"rule": "token replacement", "subjects": [name], "tokens": [[index]]},
            tokens={"set": [index]},
            contrast={"per_token": True, "wanted": name, "other": name},
            answer=name,
            seed=index,
        )
        for index, name in enumerate(("Ann", "Bob"))
    ]
    assert average_by_role(traces)["n_facts"].max() == 2


def test_the_mean_of_resamples_is_the_mean_and_their_spread_that_of_facts_and_draws() -> None:
    # Davison and Hinkley 1997, 3.8: variance of a two-stage resample of means.
    rng = np.random.default_rng(0)
    facts, draws = 6, 5
    values = rng.normal(size=(facts, 1)) + rng.normal(size=(facts, draws))
    means = resampled_means(list(values[..., None]), resamples=40_000, seed=1)[:, 0]
    between, within = values.mean(1).var() / facts, values.var(1).mean() / (facts * draws)
    assert means.mean() == pytest.approx(values.mean(), abs=4 * means.std() / 200)
    assert means.var() == pytest.approx(between + within, rel=0.03)
    of_facts = resampled_means(list(values.mean(1)[:, None, None]), resamples=40_000, seed=1)[:, 0]
    assert of_facts.var() == pytest.approx(between, rel=0.03)
    oracle = bootstrap_means(values.mean(1), resamples=40_000, seed=2)
    assert np.quantile(of_facts, [0.1, 0.9]) == pytest.approx(np.quantile(oracle, [0.1, 0.9]), abs=0.02)


def test_groups_are_means_of_the_same_resamples() -> None:
    rng = np.random.default_rng(0)
    draws = [rng.normal(size=(size, 2)) for size in (3, 1, 4)]
    whole, same, some, single = resampled_jointly(
        [(range(3), draws), (range(3), [2 * one for one in draws]), ((0, 2), [draws[0], draws[2]]),
         ((1,), [draws[1]])],
        resamples=400, seed=0,
    )  # fmt: skip
    np.testing.assert_array_equal(whole, resampled_means(draws, resamples=400, seed=0))
    np.testing.assert_allclose(same, 2 * whole)
    assert np.isnan(single).all()
    absent = np.isnan(some).all(1)
    assert absent.mean() == pytest.approx(1 / 27, abs=0.03)  # all three picks are the second fact
    np.testing.assert_allclose(whole[absent], np.broadcast_to(draws[1], (int(absent.sum()), 2)))
    spread = np.nanmax(some, axis=0) - np.nanmin(some, axis=0)
    assert (spread > 0).all()


def test_resampling_in_chunks_leaves_every_resample_whole() -> None:
    means = resampled_means([np.ones((10, 2))] * 400, resamples=600, seed=0)  # more than one chunk
    assert means == pytest.approx(np.ones((600, 2)))


def test_one_pass_keeps_what_was_asked_for_only() -> None:
    aligned = align([ONE, TWO], kinds=("mlp",), roles=("middle subject tokens",))
    assert list(aligned.effects) == ["middle subject tokens"]
    assert aligned.members == {"middle subject tokens": (0,)}
    assert [one.shape for one in aligned.effects["middle subject tokens"]] == [(4, 2)]
    averaged = align([ONE, TWO], average=True).effects["last subject token"]
    assert [one.shape for one in averaged] == [(1, 2), (1, 2)]
    assert [one[0, 1] for one in averaged] == pytest.approx([0.6, 0.8])
