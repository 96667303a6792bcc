"""What every editor promises: model unchanged, declared changes only, exact undo, files, seeds, floors."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

import mechstyle as ms
from mechstyle.editing import application
from mechstyle.editing.application import active_edits
from mechstyle.errors import ModelError, WorkError
from mechstyle.models import load_model
from tests.contracts.editors import EDITORS, REQUESTS, WEIGHT_EDITORS
from tests.contracts.state import differences, everything

DTYPES = (torch.float32, torch.bfloat16)

every_editor = pytest.mark.parametrize("name", EDITORS)
every_weight_editor = pytest.mark.parametrize("name", WEIGHT_EDITORS)


def requests_of(name: str) -> tuple[ms.EditRequest, ...]:
    return REQUESTS if EDITORS[name].many else REQUESTS[:1]


def computed(model: HookedTransformer, name: str) -> Any:
    return EDITORS[name].editor(model, requests_of(name))


def weights_of(model: HookedTransformer) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def changed(model: HookedTransformer, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}


@pytest.fixture(scope="module")
def edit_of(tiny_folder: Path) -> Any:
    """A function (editor's name) -> its edit of the tiny model, made once."""

    @cache
    def made(name: str) -> Any:
        return computed(load_model(tiny_folder), name)

    return made


@every_editor
@pytest.mark.parametrize("dtype", DTYPES)
def test_computing_leaves_the_model_and_the_process_alone(
    tiny_model: HookedTransformer, name: str, dtype: torch.dtype
) -> None:
    model = tiny_model.to(dtype)
    before = everything(model)
    computed(model, name)
    assert differences(before, everything(model)) == []


@every_editor
@pytest.mark.parametrize("dtype", DTYPES)
def test_only_what_is_declared_changes_and_comes_back_bit_for_bit_after_an_exception(
    tiny_model: HookedTransformer, edit_of: Any, name: str, dtype: torch.dtype
) -> None:
    model, edit = tiny_model.to(dtype), edit_of(name)
    assert edit.parameters == EDITORS[name].parameters
    before = weights_of(model)
    with pytest.raises(KeyboardInterrupt), edit.applied(model):
        assert changed(model, before) == set(EDITORS[name].parameters)
        raise KeyboardInterrupt
    assert changed(model, before) == set()
    assert not active_edits(model)


@every_weight_editor
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_failure_at_any_write_leaves_every_weight_as_it_was(
    tiny_model: HookedTransformer,
    monkeypatch: pytest.MonkeyPatch,
    edit_of: Any,
    name: str,
    dtype: torch.dtype,
    at: int,
) -> None:
    """The first writes of applying fail, in turn, then those of undoing; afterwards undo works again."""
    model, edit, real = tiny_model.to(dtype), edit_of(name), application._write
    before, count = weights_of(model), []

    def failing(tensor: torch.Tensor, value: torch.Tensor) -> None:
        count.append(1)
        if len(count) == at + 1:
            raise WorkError("injected")
        real(tensor, value)

    monkeypatch.setattr(application, "_write", failing)
    if at < len(edit.parameters):
        with pytest.raises(WorkError, match="injected"):
            edit.apply_(model)
        assert changed(model, before) == set()
        assert not active_edits(model)
    count[:] = [1] * 100
    handle = edit.apply_(model)
    edited = weights_of(model)
    count[:] = []
    if at < len(edit.parameters):
        with pytest.raises(WorkError, match="injected"):
            handle.undo()
        assert changed(model, edited) == set()
        assert handle.active
    count[:] = [1] * 100
    handle.undo()
    assert changed(model, before) == set()


@every_editor
def test_a_saved_edit_is_the_edit(edit_of: Any, name: str, tmp_path: Path) -> None:
    edit = edit_of(name)
    found = ms.load_edit(edit.save(tmp_path / "edit.safetensors"))
    assert type(found) is type(edit)
    assert (found.id, found.parameters, found.requests) == (edit.id, edit.parameters, edit.requests)
    assert found.fingerprint == edit.fingerprint
    assert found.provenance == json.loads(json.dumps(edit.provenance))
    for parameter in edit.parameters:
        assert torch.equal(found.delta(parameter), edit.delta(parameter))


@every_editor
def test_another_model_is_refused_untouched(tiny_model: HookedTransformer, edit_of: Any, name: str) -> None:
    with torch.no_grad():
        tiny_model.blocks[2].attn.W_Q[0, 0, 0] += 1.0
    before = weights_of(tiny_model)
    with pytest.raises(ModelError, match=r"model: expected the one"), edit_of(name).applied(tiny_model):
        pass
    with pytest.raises(ModelError, match="another model"):
        ms.evaluate(tiny_model, requests_of(name), edits=edit_of(name))
    assert changed(tiny_model, before) == set()


@every_editor
def test_the_same_call_gives_the_same_edit_whatever_the_global_seed(
    tiny_model: HookedTransformer, edit_of: Any, name: str
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        again = computed(tiny_model, name)
    assert again.id == edit_of(name).id
    assert again.provenance == edit_of(name).provenance


@every_editor
def test_an_edit_says_how_it_was_made(edit_of: Any, name: str) -> None:
    edit = edit_of(name)
    settings = edit.provenance["settings"]
    assert {"method", "prepend_bos", "on_top_of"} <= set(settings)
    assert {"model", "fingerprint", "dtype", "device", "versions"} <= set(edit.provenance)
    assert edit.requests == requests_of(name)
    json.dumps(edit.provenance, allow_nan=False)


@every_editor
def test_an_edit_on_top_of_another_says_so_and_leaves_it_active(
    tiny_model: HookedTransformer, edit_of: Any, name: str
) -> None:
    below = edit_of("emmet")
    with below.applied(tiny_model) as handle:
        edited = weights_of(tiny_model)
        edit = computed(tiny_model, name)
        assert changed(tiny_model, edited) == set()
        assert active_edits(tiny_model) == (handle,)
    assert edit.provenance["settings"]["on_top_of"] == [below.id]
    assert edit.fingerprint == below.fingerprint


@every_weight_editor
def test_a_processed_model_is_refused(tiny_model: HookedTransformer, name: str) -> None:
    model = copy.deepcopy(tiny_model)
    model.cfg.normalization_type = "LNPre"
    with pytest.raises(ModelError, match="processed weights"):
        computed(model, name)


@every_weight_editor
def test_an_edit_by_any_editor_can_lie_in_a_ledger(
    tiny_model: HookedTransformer, edit_of: Any, name: str
) -> None:
    before = weights_of(tiny_model)
    with ms.Ledger(tiny_model) as ledger:
        entry = ledger.add(edit_of(name))
        assert changed(tiny_model, before) == set(EDITORS[name].parameters)
        ledger.toggle(entry.number)
        assert changed(tiny_model, before) == set()
    assert not active_edits(tiny_model)


@pytest.fixture(scope="module")
def moments(organism: HookedTransformer) -> ms.Covariance:
    return ms.covariance(organism, ms.organisms.texts("organism-m", n=250), layers=[2], n_keys=8_000)


@pytest.mark.parametrize("name", [name for name, one in EDITORS.items() if one.floor is not None])
def test_single_edits_of_the_organism_reach_their_floor(
    organism: HookedTransformer, moments: ms.Covariance, name: str
) -> None:
    """Five facts are few: floors that a broken editor does not reach, not rates."""
    contract, requests = EDITORS[name], ms.organisms.requests("organism-m", n=5, seed=21)
    contexts = ms.sample_contexts(organism, 0, lengths=((5, 2),))
    editor = contract.on_organism(moments, contexts)
    edits = [editor(organism, [request]) for request in requests]
    scores = ms.evaluate(organism, requests, edits=edits)
    assert scores.summary(stage="before")["value"]["efficacy"] == 0.0
    assert scores.summary()["value"]["efficacy"] >= contract.floor
