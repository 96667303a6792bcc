"""What all closed-form editors share: batches, given targets, phrasings, facts to keep, spreads."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

import mechstyle as ms
from mechstyle.editing.application import active_edits
from mechstyle.editing.edit import EditSet
from mechstyle.editing.keys import subject_keys, subject_states
from mechstyle.editing.targets import TargetOptions, optimise_target, optimise_targets, search_targets
from mechstyle.editing.writing import KeepWarning
from mechstyle.errors import InputError, WorkError
from mechstyle.models import load_model
from mechstyle.sites import Site
from tests.oracles.memit_loop import memit_loop

REQUESTS = (
    ms.EditRequest(ms.Fact("The instrument of {} is the", "Miles Davis", " trumpet"), " guitar"),
    ms.EditRequest(ms.Fact("{} is the capital of", "Rome", " Italy"), " France"),
    ms.EditRequest(ms.Fact("The mother tongue of {} is", "Danielle Darrieux", " French"), " the day"),
)
CONTEXTS = ("{}", "The day was long. {}")
OPTIONS = TargetOptions(steps=3, early_stop=0.0)
METHODS = (ms.memit, ms.emmet, ms.alphaedit)


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> HookedTransformer:
    return load_model(tiny_folder, dtype=torch.float64)


def moments_of(model: HookedTransformer) -> dict[int, Tensor]:
    generator, width = torch.Generator().manual_seed(5), model.cfg.d_mlp
    scale = torch.logspace(0, -3, width, dtype=torch.float64)
    found = {}
    for layer in range(model.cfg.n_layers):
        keys = scale * torch.randn(4 * width, width, generator=generator, dtype=torch.float64)
        found[layer] = keys.T @ keys / len(keys)
    return found


def write(model: HookedTransformer, call: Callable[..., EditSet], *requests: Any, **changes: Any) -> EditSet:
    arguments: dict[str, Any] = {
        "layer" if call is ms.rome else "layers": [0, 1],
        "covariance": moments_of(model),
        "contexts": CONTEXTS,
        "target_options": OPTIONS,
        **changes,
    }
    return call(model, list(requests), **arguments)


@pytest.mark.parametrize("call", METHODS)
@pytest.mark.parametrize("batch_size", [1, 2, 3, 10, None])
def test_batches_are_solves_one_on_top_of_the_other(
    model: HookedTransformer, call: Callable[..., EditSet], batch_size: int | None
) -> None:
    edit = write(model, call, *REQUESTS, batch_size=batch_size)
    size = min(batch_size or 3, 3)
    handles, parts = [], []
    for first in range(0, 3, size):
        parts.append(write(model, call, *REQUESTS[first : first + size]))
        handles.append(parts[-1].apply_(model))
    for handle in handles[::-1]:
        handle.undo()
    assert [one.parameter for one in edit.edits] == [one.parameter for part in parts for one in part.edits]
    for found, expected in zip(edit.edits, (one for part in parts for one in part.edits), strict=True):
        assert torch.equal(found.delta(), expected.delta())
    losses = [loss for part in parts for loss in part.provenance["settings"]["losses"]]
    assert edit.provenance["settings"]["losses"] == losses
    assert not active_edits(model)


@pytest.mark.parametrize("call", METHODS)
def test_targets_that_were_searched_before_give_the_same_edit(
    model: HookedTransformer, call: Callable[..., EditSet]
) -> None:
    targets = optimise_targets(model, REQUESTS, layer=1, contexts=CONTEXTS, options=OPTIONS, kind="resid")
    given, searched = write(model, call, *REQUESTS, targets=targets), write(model, call, *REQUESTS)
    for name in searched.parameters:
        assert torch.equal(given.delta(name), searched.delta(name))
    one = optimise_target(model, REQUESTS[0], layer=1, contexts=CONTEXTS, options=OPTIONS, kind="mlp")
    rome = write(model, ms.rome, REQUESTS[0])
    assert torch.equal(write(model, ms.rome, REQUESTS[0], targets=[one]).delta(rome.parameters[0]),
                       rome.delta(rome.parameters[0]))  # fmt: skip


def test_emmet_of_one_request_is_rome_given_the_same_target_over_one_layer_and_over_several(
    model: HookedTransformer,
) -> None:
    target = optimise_target(model, REQUESTS[0], layer=1, contexts=CONTEXTS, options=OPTIONS)
    for layers in ([1], [0, 1]):
        one = write(model, ms.emmet, REQUESTS[0], layers=layers, targets=[target])
        other = write(model, ms.rome, REQUESTS[0], layer=layers, targets=[target])
        assert one.parameters == other.parameters
        for name in one.parameters:
            assert torch.equal(one.delta(name), other.delta(name))


def test_a_spread_of_rome_is_the_textbook_loop_without_a_ridge(model: HookedTransformer) -> None:
    target = optimise_target(model, REQUESTS[0], layer=1, contexts=CONTEXTS, options=OPTIONS)
    edit = write(model, ms.rome, REQUESTS[0], targets=[target])
    fact = REQUESTS[0].fact
    now = subject_states(model, [fact], Site(1, "resid"))[:, 0]
    changes, _ = memit_loop(
        copy.deepcopy(model),
        facts=[(fact.template, fact.subject)],
        wanted=now + target.delta,
        contexts=list(CONTEXTS),
        covariances=moments_of(model),
        layers=[0, 1],
        ridge=0.0,
    )
    for layer, change in changes.items():
        found = edit.delta(f"blocks.{layer}.mlp.W_out")
        assert (found - change).norm() < 1e-7 * change.norm()


PHRASED = ms.EditRequest(
    REQUESTS[0].fact, " guitar", phrasings=("{} plays the", "They say that {} became famous for the")
)


def test_a_key_is_the_mean_over_phrasings_and_a_target_serves_them_all(model: HookedTransformer) -> None:
    edit = write(model, ms.emmet, PHRASED, layers=1)
    keys = [subject_keys(model, fact, layer=1, contexts=CONTEXTS).mean(0) for fact in PHRASED.phrased]
    key = torch.stack(keys).mean(0, keepdim=True)
    target = optimise_target(model, PHRASED, layer=1, contexts=CONTEXTS, options=OPTIONS, kind="resid")
    torch.testing.assert_close(edit.edits[0].keys, key, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(key @ edit.edits[0].delta(), target.delta[None], rtol=1e-8, atol=1e-10)
    first = TargetOptions(steps=1)
    each = [
        optimise_target(model, ms.EditRequest(fact, " guitar"), layer=1, contexts=CONTEXTS, options=first)
        for fact in PHRASED.phrased
    ]
    nll = sum(one.answer_nll[0] for one in each) / 3
    assert target.answer_nll[0] == pytest.approx(nll, rel=1e-9)


def test_requests_with_phrasings_share_batches_with_others(model: HookedTransformer) -> None:
    mixed = optimise_targets(
        model, [PHRASED, *REQUESTS[1:]], layer=1, contexts=CONTEXTS, options=OPTIONS, batch_size=3
    )
    for request, target in zip([PHRASED, *REQUESTS[1:]], mixed, strict=True):
        alone = optimise_target(model, request, layer=1, contexts=CONTEXTS, options=OPTIONS)
        torch.testing.assert_close(target.delta, alone.delta, rtol=1e-9, atol=1e-11)


KEPT = ms.Fact("The instrument of {} is the", "Chet Baker", " trumpet")


@pytest.mark.parametrize("call", [ms.rome, ms.emmet])
@pytest.mark.parametrize("layers", [[1], [0, 1]])
def test_what_is_to_stay_gives_exactly_what_it_gave(
    model: HookedTransformer, call: Callable[..., EditSet], layers: list[int]
) -> None:
    asked = ms.EditRequest(REQUESTS[0].fact, " guitar", keep=(KEPT, KEPT.with_target(" guitar")))
    name, site = "layer" if call is ms.rome else "layers", Site(layers[-1], "resid")
    edit, free = (write(model, call, one, contexts=("{}",), **{name: layers}) for one in (asked, REQUESTS[0]))
    before = subject_states(model, [KEPT], site)
    with free.applied(model):
        moved = (subject_states(model, [KEPT], site) - before).norm()
    with edit.applied(model):
        stayed = (subject_states(model, [KEPT], site) - before).norm()
    assert stayed < 1e-8 * moved
    assert len(edit.edits[0].keys) == 2  # the request's and one of the fact that is named twice


def test_a_fact_to_keep_that_shares_its_key_with_a_request_is_named_and_left_out(
    model: HookedTransformer,
) -> None:
    same = ms.Fact("The instrument of {} was made of", "Miles Davis", " brass")
    asked = ms.EditRequest(REQUESTS[0].fact, " guitar", keep=(same,))
    with pytest.warns(KeepWarning, match="'The instrument of Miles Davis was made of' begins like a prompt"):
        edit = write(model, ms.emmet, asked)
    assert torch.equal(edit.edits[0].delta(), write(model, ms.emmet, REQUESTS[0]).edits[0].delta())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_failure_in_a_later_batch_leaves_the_model_as_it_was(
    tiny_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    model = tiny_model.to(dtype)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    calls: list[int] = []

    def second_search_fails(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            assert not torch.equal(model.blocks[0].mlp.W_out, before["blocks.0.mlp.W_out"])
            raise WorkError("injected")
        return search_targets(*args, **kwargs)

    monkeypatch.setattr("mechstyle.editing.writing.search_targets", second_search_fails)
    with pytest.raises(WorkError, match="injected"):
        write(model, ms.emmet, *REQUESTS, batch_size=1)
    assert not active_edits(model)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_what_was_given_is_named_by_a_hash(model: HookedTransformer) -> None:
    targets = optimise_targets(model, REQUESTS, layer=1, contexts=CONTEXTS, options=OPTIONS, kind="resid")
    given, searched = (write(model, ms.emmet, *REQUESTS, targets=one) for one in (targets, None))
    settings = given.provenance["settings"]
    assert len(settings["targets_sha256"]) == 64
    assert searched.provenance["settings"]["targets_sha256"] is None
    assert settings["covariance"] == searched.provenance["settings"]["covariance"]
    other = {layer: 2 * moment for layer, moment in moments_of(model).items()}
    changed = write(model, ms.emmet, *REQUESTS, targets=targets, covariance=other).provenance["settings"]
    assert changed["covariance"] != settings["covariance"]
    assert changed["targets_sha256"] == settings["targets_sha256"]


def test_targets_of_another_model_or_number_are_refused(model: HookedTransformer) -> None:
    (target,) = optimise_targets(model, REQUESTS[:1], layer=1, contexts=CONTEXTS, options=OPTIONS)
    with pytest.raises(InputError, match="targets: expected one for each of the 3 requests, got 1"):
        write(model, ms.emmet, *REQUESTS, targets=[target])
    with pytest.raises(InputError, match=r"targets\[0\]: expected a Target, got a Tensor"):
        write(model, ms.emmet, REQUESTS[0], targets=[target.delta])
    narrow = type(target)(target.delta[:5], target.output, (), ())
    with pytest.raises(InputError, match=r"targets\[0\]: expected 32 finite numbers, got shape \[5\]"):
        write(model, ms.emmet, REQUESTS[0], targets=[narrow])
