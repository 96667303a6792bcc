"""AlphaEdit: its formula by hand, what preserved keys see, and what it knows of edits before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

import mechstyle as ms
from mechstyle.editing.application import active_edits
from mechstyle.editing.edit import EditSet
from mechstyle.editing.keys import sample_contexts, subject_states
from mechstyle.editing.layer_solves import NullSpaceWarning
from mechstyle.editing.targets import TargetOptions, optimise_targets
from mechstyle.errors import InputError, RangeError
from mechstyle.models import load_model
from mechstyle.null_space import null_space
from mechstyle.sites import Site

REQUESTS = (
    ms.EditRequest(ms.Fact("The instrument of {} is the", "Miles Davis", " trumpet"), " guitar"),
    ms.EditRequest(ms.Fact("{} is the capital of", "Rome", " Italy"), " France"),
    ms.EditRequest(ms.Fact("The mother tongue of {} is", "Danielle Darrieux", " French"), " the day"),
)
CONTEXTS = ("{}", "The day was long. {}")
OPTIONS = TargetOptions(steps=3, early_stop=0.0)
RANK = 40
NAME = "blocks.1.mlp.W_out"


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> HookedTransformer:
    return load_model(tiny_folder, dtype=torch.float64)


@pytest.fixture(scope="module")
def preserved() -> Tensor:
    """Keys that span only some of the directions."""
    generator = torch.Generator().manual_seed(0)
    free = torch.randn(RANK, 128, generator=generator, dtype=torch.float64)
    return torch.randn(300, RANK, generator=generator, dtype=torch.float64) @ free


@pytest.fixture(scope="module")
def moments(preserved: Tensor) -> dict[int, Tensor]:
    moment = preserved.T @ preserved / len(preserved)
    return dict.fromkeys(range(3), moment)


def written(model: HookedTransformer, moments: dict[int, Tensor], **changes: Any) -> EditSet:
    arguments: dict[str, Any] = {
        "requests": REQUESTS,
        "layers": 1,
        "covariance": moments,
        "contexts": CONTEXTS,
        "target_options": OPTIONS,
        "threshold": 1e-9,
        **changes,
    }
    return ms.alphaedit(model, arguments.pop("requests"), **arguments)


def mean_keys(model: HookedTransformer, requests: tuple[ms.EditRequest, ...]) -> Tensor:
    facts = [request.fact for request in requests]
    return subject_states(model, facts, Site(1, "key"), contexts=CONTEXTS).mean(1)


def projection(moment: Tensor, limit: float) -> Tensor:
    values, vectors = torch.linalg.eigh(moment)
    small = vectors[:, values <= limit]
    return small @ small.T


def test_preserved_keys_see_nothing_of_the_edit(
    model: HookedTransformer, moments: dict[int, Tensor], preserved: Tensor
) -> None:
    edit = written(model, moments, layers=[0, 1])
    for name in edit.parameters:
        change = edit.delta(name)
        assert change.norm() > 0.1
        assert (preserved @ change).norm() < 1e-11 * preserved.norm() * change.norm()
    plain = ms.emmet(
        model, REQUESTS, layers=1, covariance={1: torch.eye(128)}, contexts=CONTEXTS, target_options=OPTIONS
    )
    assert (preserved @ plain.delta(NAME)).norm() > 0.1 * plain.delta(NAME).norm()


@pytest.mark.parametrize(("legacy", "l2"), [(False, None), (False, 3.0), (True, None), (True, 0.5)])
def test_the_edit_is_the_published_formula(
    model: HookedTransformer, moments: dict[int, Tensor], legacy: bool, l2: float | None
) -> None:
    targets = optimise_targets(model, REQUESTS, layer=1, contexts=CONTEXTS, options=OPTIONS, kind="resid")
    edit = written(model, moments, targets=targets, legacy=legacy, l2=l2, threshold=1e-6)
    keys, residual = mean_keys(model, REQUESTS), torch.stack([target.delta for target in targets])
    project = projection(moments[1], 1e-6)
    weight = {False: 0.1 * (keys @ project).square().sum(-1).mean(), True: 10.0}[legacy] if l2 is None else l2
    normal = project @ keys.T @ keys + weight * torch.eye(128).double()
    expected = torch.linalg.solve(normal, project @ keys.T @ residual)
    torch.testing.assert_close(edit.delta(NAME), expected, rtol=1e-8, atol=1e-10)
    settings = edit.provenance["settings"]
    assert (settings["method"], settings["legacy"]) == ("alphaedit", legacy)


def test_a_second_edit_knows_the_keys_of_the_active_first_one(
    model: HookedTransformer, moments: dict[int, Tensor]
) -> None:
    targets = optimise_targets(model, REQUESTS, layer=1, contexts=CONTEXTS, options=OPTIONS, kind="resid")
    first = written(model, moments, requests=REQUESTS[:2], targets=targets[:2])
    alone = written(model, moments, requests=REQUESTS[2:], targets=targets[2:], l2=1e-6)
    with first.applied(model):
        second = written(model, moments, requests=REQUESTS[2:], targets=targets[2:], l2=1e-6)
    earlier, own = mean_keys(model, REQUESTS[:2]), mean_keys(model, REQUESTS[2:])
    project = projection(moments[1], 1e-9)
    normal = project @ (own.T @ own + earlier.T @ earlier) + 1e-6 * torch.eye(128).double()
    expected = torch.linalg.solve(normal, project @ own.T @ targets[2].delta[None])
    torch.testing.assert_close(second.delta(NAME), expected, rtol=1e-6, atol=1e-9)
    assert (earlier @ second.delta(NAME)).norm() < 1e-3 * (earlier @ alone.delta(NAME)).norm()
    assert second.provenance["settings"]["on_top_of"] == [first.id]
    assert alone.provenance["settings"]["on_top_of"] == []


def test_batches_in_one_call_are_edits_one_on_top_of_the_other(
    model: HookedTransformer, moments: dict[int, Tensor]
) -> None:
    together = written(model, moments, layers=[0, 1], batch_size=2)
    first = written(model, moments, layers=[0, 1], requests=REQUESTS[:2])
    with first.applied(model):
        second = written(model, moments, layers=[0, 1], requests=REQUESTS[2:])
    for name in together.parameters:
        assert torch.equal(together.delta(name), first.delta(name) + second.delta(name))
    assert not active_edits(model)


def test_the_default_threshold_scales_with_the_moments(
    model: HookedTransformer, moments: dict[int, Tensor]
) -> None:
    scaled = {layer: 1e4 * moment for layer, moment in moments.items()}
    one, other = written(model, moments), written(model, scaled)
    torch.testing.assert_close(one.delta(NAME), other.delta(NAME), rtol=1e-6, atol=1e-9)
    with pytest.raises(InputError, match="no direction is free to write into; raise the threshold"):
        written(model, {1: torch.eye(128, dtype=torch.float64)}, threshold=0.5)


def test_bases_that_were_found_before_give_the_same_edit(
    model: HookedTransformer, moments: dict[int, Tensor]
) -> None:
    bases = {1: null_space(moments[1], 1e-9)}
    given = written(model, moments, threshold=None, bases=bases)
    assert torch.equal(given.delta(NAME), written(model, moments).delta(NAME))
    for wrong, message in (
        ({2: bases[1]}, r"bases: expected one for layer 1, got layers \[2\]"),
        ({1: bases[1][:5]}, r"bases: expected shape \[128, kept\] at layer 1, got \[5, 88\]"),
        ({1: 2 * bases[1]}, "bases: the columns at layer 1 are not orthonormal"),
    ):
        with pytest.raises(InputError, match=message):
            written(model, moments, threshold=None, bases=wrong)
    with pytest.raises(InputError, match="threshold: the given bases were made with one of their own"):
        written(model, moments, threshold=0.1, bases=bases)


def test_a_key_that_must_stay_is_hardly_written_and_the_user_is_told(
    model: HookedTransformer, moments: dict[int, Tensor]
) -> None:
    key = mean_keys(model, REQUESTS[:1])
    preserving = {1: moments[1] + 1e3 * key.T @ key}
    with pytest.warns(NullSpaceWarning, match="at layer 1 only .* of the requests' squared keys is") as told:
        edit = written(model, preserving, requests=REQUESTS[:1])
    assert told[0].filename == __file__
    free = written(model, moments, requests=REQUESTS[:1])
    assert (key @ edit.delta(NAME)).norm() < 1e-6 * (key @ free.delta(NAME)).norm()
    assert edit.delta(NAME).norm() < 1e3 * free.delta(NAME).norm()


def test_keys_of_an_edit_of_nothing_are_not_spared(
    model: HookedTransformer, moments: dict[int, Tensor]
) -> None:
    first = written(model, moments, requests=REQUESTS[:2])
    alone = written(model, moments, requests=REQUESTS[2:])
    with first.scaled(0.0).applied(model):
        beside = written(model, moments, requests=REQUESTS[2:])
    assert torch.equal(beside.delta(NAME), alone.delta(NAME))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": -1.0}, "threshold: expected a finite number 0 or more, got -1.0"),
        ({"l2": 0.0}, "l2: expected a finite number above 0, got 0.0"),
        ({"batch_size": 0}, "batch_size: expected a whole number of at least 1, or None, got 0"),
    ],
)
def test_numbers_out_of_range_are_refused(
    model: HookedTransformer, moments: dict[int, Tensor], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RangeError, match=message):
        written(model, moments, **changes)


def test_ten_facts_are_written_into_the_organism(organism: HookedTransformer) -> None:
    moments = ms.covariance(organism, ms.organisms.texts("organism-m", n=250), layers=[0, 1], n_keys=8_000)
    requests = ms.organisms.requests("organism-m", n=10, seed=21)
    contexts = sample_contexts(organism, 0, lengths=((5, 2),))
    edit = ms.alphaedit(organism, requests, layers=[0, 1], covariance=moments, contexts=contexts)
    after = ms.evaluate(organism, requests, edits=edit).summary()["value"]
    assert after["efficacy"] >= 0.9
    assert after["paraphrase"] >= 0.7
    assert after["neighborhood"] >= 0.8
