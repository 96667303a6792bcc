"""ROME against a textbook loop, its two identities, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

from mechstyle import organisms
from mechstyle.editing.covariance import Covariance, CovarianceWarning, covariance
from mechstyle.editing.edit import load_edit
from mechstyle.editing.keys import sample_contexts, subject_keys
from mechstyle.editing.methods import rome
from mechstyle.editing.targets import TargetOptions, optimise_target
from mechstyle.errors import InputError, ModelError, RangeError, TextError
from mechstyle.evaluation import evaluate
from mechstyle.facts import EditRequest, Fact
from mechstyle.models import fingerprint, load_model
from tests.oracles.rome_loop import rome_loop

FACT = Fact("The instrument of {} is the", "Miles Davis", " trumpet")
REQUEST = EditRequest(FACT, " guitar of Paris")
CONTEXTS = ("{}", "The day was long. {}", "Rome is the capital of Italy. {}")
W_OUT = "blocks.1.mlp.W_out"


@pytest.fixture(scope="module")
def double_model(tiny_folder: Path) -> HookedTransformer:
    return load_model(tiny_folder, dtype=torch.float64)


@pytest.fixture(scope="module")
def moments(double_model: HookedTransformer) -> Covariance:
    words = ("Miles Davis", "Paris", "the day", "London", "French", "capital", "was born in", "guitar")
    texts = [f"{a} {b} of {c}. {b} and {a}" for a in words for b in words for c in words]
    return covariance(double_model, texts, layers=[1], n_keys=2000)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(("bos", "at_end"), [(False, False), (True, True)])
def test_rome_is_the_textbook_loop(
    double_model: HookedTransformer, moments: Covariance, legacy: bool, bos: bool, at_end: bool
) -> None:
    options = TargetOptions(steps=6, clamp_norm=0.7, kl_position="end" if at_end else "subject")
    matrices = dict(moments)  # a plain mapping, which carries no BOS setting to warn about
    edit = rome(
        double_model,
        REQUEST,
        layer=1,
        covariance=matrices,
        contexts=CONTEXTS,
        target_options=options,
        legacy=legacy,
        prepend_bos=bos,
    )
    delta, _, losses = rome_loop(
        double_model,
        template=FACT.template,
        subject=FACT.subject,
        target=REQUEST.new_target,
        contexts=list(CONTEXTS),
        covariance=moments[1],
        layer=1,
        legacy=legacy,
        bos=bos,
        steps=6,
        clamp_norm=0.7,
        kl_at_end=at_end,
    )
    assert edit.provenance["settings"]["losses"] == pytest.approx(losses, rel=1e-8)
    torch.testing.assert_close(edit.delta(W_OUT), delta, rtol=1e-6, atol=1e-8)


def test_the_averaged_key_then_changes_by_exactly_delta(
    double_model: HookedTransformer, moments: Covariance
) -> None:
    options = TargetOptions(steps=4)
    edit = rome(double_model, REQUEST, layer=1, covariance=moments, contexts=CONTEXTS, target_options=options)
    target = optimise_target(double_model, REQUEST, layer=1, contexts=CONTEXTS, options=options)
    key = subject_keys(double_model, FACT, layer=1, contexts=CONTEXTS).mean(0)
    torch.testing.assert_close(key @ edit.delta(W_OUT), target.delta, rtol=1e-9, atol=1e-11)


def test_as_published_the_bare_key_then_gives_exactly_the_wanted_value(
    double_model: HookedTransformer, moments: Covariance
) -> None:
    options = TargetOptions(steps=4)
    edit = rome(
        double_model,
        REQUEST,
        layer=1,
        covariance=moments,
        contexts=CONTEXTS,
        target_options=options,
        legacy=True,
    )
    target = optimise_target(double_model, REQUEST, layer=1, contexts=CONTEXTS, options=options)
    bare = subject_keys(double_model, FACT, layer=1)[0]
    with edit.applied(double_model), torch.no_grad():
        mlp = double_model.blocks[1].mlp
        value = bare @ mlp.W_out + mlp.b_out
    torch.testing.assert_close(value, target.output + target.delta, rtol=1e-9, atol=1e-11)


def test_with_the_bare_context_alone_consistent_and_published_rome_agree(
    double_model: HookedTransformer, moments: Covariance
) -> None:
    both = [
        rome(double_model, REQUEST, layer=1, covariance=moments, contexts=("{}",), legacy=legacy).delta(W_OUT)
        for legacy in (False, True)
    ]
    torch.testing.assert_close(*both, rtol=1e-8, atol=1e-10)


def test_the_edit_brings_the_new_target_about_and_leaves_the_model_unchanged(
    double_model: HookedTransformer, moments: Covariance
) -> None:
    before = {name: weight.detach().clone() for name, weight in double_model.named_parameters()}
    options = TargetOptions(steps=25, clamp_norm=20.0, weight_decay=0.0, kl_factor=0.0)
    request = EditRequest(Fact("The instrument of {}", "Miles Davis", " trumpet"), " guitar")
    edit = rome(
        double_model,
        request,
        layer=1,
        covariance=moments,
        contexts=("{}",),
        target_options=options,
        legacy=True,
    )
    assert all(torch.equal(weight, before[name]) for name, weight in double_model.named_parameters())
    with edit.applied(double_model):
        after = optimise_target(double_model, request, layer=1, options=TargetOptions(steps=1))
    # The written weights act at the other tokens too, so the promised value is met only nearly.
    first, *_, promised = edit.provenance["settings"]["answer_nll"]
    assert abs(after.answer_nll[0] - promised) < 0.1 * (first - promised)


def test_the_same_seed_gives_the_same_edit_and_its_provenance_survives_saving(
    tiny_model: HookedTransformer, moments: Covariance, tmp_path: Path
) -> None:
    options = TargetOptions(steps=2)
    first, again, other = (
        rome(tiny_model, [REQUEST], layer=1, covariance=moments, target_options=options, seed=seed)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first.delta(W_OUT), again.delta(W_OUT))
    assert not torch.equal(first.delta(W_OUT), other.delta(W_OUT))
    loaded = load_edit(first.save(tmp_path / "edit.safetensors"))
    settings = loaded.provenance["settings"]
    assert loaded.requests == (REQUEST,)
    assert (settings["method"], settings["layer"], settings["prepend_bos"]) == ("rome", 1, False)
    assert settings["covariance"]["settings"]["count"] == 2000
    assert loaded.fingerprint == fingerprint(tiny_model)
    assert json.loads(json.dumps(loaded.provenance)) == first.provenance


def test_an_edit_may_be_computed_on_top_of_an_active_one(
    tiny_model: HookedTransformer, moments: Covariance
) -> None:
    options = TargetOptions(steps=2)
    first = rome(tiny_model, REQUEST, layer=1, covariance=moments, contexts=("{}",), target_options=options)
    with first.applied(tiny_model):
        second = rome(
            tiny_model, REQUEST, layer=1, covariance=moments, contexts=("{}",), target_options=options
        )
    assert second.fingerprint == first.fingerprint
    assert not torch.equal(second.delta(W_OUT), first.delta(W_OUT))


def test_a_covariance_with_another_bos_setting_warns(
    tiny_model: HookedTransformer, moments: Covariance
) -> None:
    options = TargetOptions(steps=1)
    with pytest.warns(CovarianceWarning, match="prepend_bos=False, but the edit uses prepend_bos=True"):
        rome(
            tiny_model,
            REQUEST,
            layer=1,
            covariance=moments,
            contexts=("{}",),
            target_options=options,
            prepend_bos=True,
        )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"request": [REQUEST, REQUEST]}, InputError, "ROME writes one EditRequest at a time, got 2"),
        ({"request": REQUEST.fact}, InputError, "ROME writes one EditRequest at a time, got a Fact"),
        ({"covariance": None}, InputError, "covariance: expected a mapping layer -> matrix"),
        ({"layer": 3}, RangeError, "layer must be an integer from 0 to 2"),
        ({"layer": -1}, RangeError, "layer must be an integer from 0 to 2"),
        ({"layer": 2}, InputError, r"covariance: expected layer 2 in it, got layers \[1\]"),
        (
            {"covariance": {1: torch.eye(3)}},
            InputError,
            r"expected shape \[128, 128\] at layer 1, got \[3, 3\]",
        ),
        ({"contexts": ("The day. {}",)}, TextError, "the bare '{}' exactly once"),
        ({"request": EditRequest(FACT, " a" * 70)}, TextError, "too long"),
    ],
)
def test_bad_input_is_refused(
    tiny_model: HookedTransformer, moments: Covariance, changes: dict[str, Any], error: type, message: str
) -> None:
    arguments = {"request": REQUEST, "layer": 1, "covariance": moments, "contexts": ("{}",), **changes}
    with pytest.raises(error, match=message):
        rome(tiny_model, **arguments)


def test_a_covariance_of_another_model_is_refused(tiny_model: HookedTransformer, moments: Covariance) -> None:
    foreign = dataclasses.replace(
        moments, provenance={**moments.provenance, "fingerprint": "0123456789abcdef"}
    )
    with pytest.raises(InputError, match="got one of another \\(0123456789ab\\)"):
        rome(tiny_model, REQUEST, layer=1, covariance=foreign, contexts=("{}",))


def test_processed_and_broken_models_are_refused(tiny_model: HookedTransformer, moments: Covariance) -> None:
    with torch.no_grad():
        tiny_model.blocks[0].mlp.W_in[0, 0] = torch.nan
    with pytest.raises(ModelError, match="NaN or infinite"):
        rome(tiny_model, REQUEST, layer=1, covariance=moments)
    tiny_model.cfg.normalization_type = "LNPre"
    with pytest.raises(ModelError, match="processed weights"):
        rome(tiny_model, REQUEST, layer=1, covariance=moments)


def test_rome_rewrites_facts_of_the_trained_organism_and_spares_their_neighbours(
    organism: HookedTransformer,
) -> None:
    """Of real subjects; neighbours of invented ones, whose names share parts, suffer more (see the card)."""
    requests = organisms.requests("organism-m", n=4, seed=11, invented=False)
    moments = covariance(organism, organisms.texts("organism-m", n=250), layers=[2], n_keys=8_000)
    contexts = sample_contexts(organism, seed=0)
    edits = [rome(organism, one, layer=2, covariance=moments, contexts=contexts) for one in requests]
    scores = evaluate(organism, requests, edits=edits)
    assert scores.summary(stage="before")["value"]["efficacy"] == 0.0
    after = scores.summary()["value"]
    # Four facts are few (one search ends unfinished after 20 steps): rates over 100 are in the model card.
    assert after["efficacy"] >= 0.75
    assert after["paraphrase"] >= 0.5
    assert after["neighborhood"] >= 0.8
