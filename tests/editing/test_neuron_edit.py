"""Edits of knowledge neurons: the rows of W_out that change, and by how much, known by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from mechstyle.editing.edit import EditSet
from mechstyle.editing.neuron_edit import NeuronWarning, neuron_edit
from mechstyle.editing.neurons import knowledge_neurons
from mechstyle.editing.writing import KeepWarning
from mechstyle.errors import InputError, ModelError, RangeError, TextError
from mechstyle.facts import EditRequest, Fact
from mechstyle.models import fingerprint, load_model
from tests.editing.test_neurons import FACT, planted

REQUEST = EditRequest(FACT, " guitar")
OTHER = EditRequest(Fact("{} is the capital of", "Paris", " France"), " Italy")
NAMES = [f"blocks.{layer}.mlp.W_out" for layer in range(3)]


def column(model: HookedTransformer, text: str) -> Tensor:
    return model.unembed.W_U[:, model.tokenizer(text)["input_ids"][0]].detach().double()


def row(model: HookedTransformer, layer: int, index: int) -> Tensor:
    return model.blocks[layer].mlp.W_out[index].detach().double()


def rows_changed(edit: EditSet) -> dict[tuple[int, int], Tensor]:
    found = {}
    for name in edit.parameters:
        delta = edit.delta(name)
        for index in delta.any(-1).nonzero()[:, 0].tolist():
            found[int(name.split(".")[1]), index] = delta[index]
    return found


@pytest.mark.parametrize("factors", [(1.0, 8.0), (0.5, 0.0)])
def test_write_takes_the_old_answer_out_of_each_row_and_puts_the_new_one_in(
    tiny_model: HookedTransformer, factors: tuple[float, float]
) -> None:
    old, new = factors
    places = [(2, 7), (0, 3), (2, 1)]
    plain = neuron_edit(tiny_model, REQUEST, neurons=places, old_factor=old, new_factor=new, relative=False)
    lengths = neuron_edit(tiny_model, REQUEST, neurons=places, old_factor=old, new_factor=new)
    e_old, e_new = column(tiny_model, " trumpet"), column(tiny_model, " guitar")
    assert set(rows_changed(plain)) == set(rows_changed(lengths)) == set(places)
    for place in places:
        assert torch.allclose(rows_changed(plain)[place], new * e_new - old * e_old, atol=1e-12)
        size = row(tiny_model, *place).norm()
        wanted = size * (new * e_new / e_new.norm() - old * e_old / e_old.norm())
        assert torch.allclose(rows_changed(lengths)[place], wanted, atol=1e-12)
    assert plain.parameters == (NAMES[0], NAMES[2])
    assert [edit.left.shape[1] for edit in plain.edits] == [1, 2]


def test_published_factors_are_the_default(tiny_model: HookedTransformer) -> None:
    default = neuron_edit(tiny_model, REQUEST, neurons=[(1, 1)])
    assert default.id == neuron_edit(tiny_model, REQUEST, neurons=[(1, 1)], old_factor=1, new_factor=8).id


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_suppress_makes_rows_zero_and_amplify_doubles_them_bit_for_bit(
    tiny_folder: Path, dtype: torch.dtype
) -> None:
    model = load_model(tiny_folder, dtype=dtype)
    before = copy.deepcopy(model.state_dict())
    places = [(0, 3), (1, 127), (1, 0)]
    for mode, factor in (("suppress", 0), ("amplify", 2)):
        edit = neuron_edit(model, [REQUEST, OTHER], neurons=places, mode=mode)  # type: ignore[arg-type]
        with edit.applied(model):
            for layer, name in enumerate(NAMES):
                wanted = before[name].clone()
                chosen = [index for own, index in places if own == layer]
                wanted[chosen] *= factor
                assert torch.equal(model.state_dict()[name], wanted)
        assert all(torch.equal(model.state_dict()[name], weight) for name, weight in before.items())


def test_requests_that_share_a_neuron_add_up(tiny_model: HookedTransformer) -> None:
    both = neuron_edit(tiny_model, [REQUEST, OTHER], neurons=[(1, 4)])
    alone = [neuron_edit(tiny_model, one, neurons=[(1, 4)]) for one in (REQUEST, OTHER)]
    total = alone[0].delta(NAMES[1]) + alone[1].delta(NAMES[1])
    assert torch.allclose(both.delta(NAMES[1]), total, atol=1e-12)


def test_a_planted_neuron_is_found_and_its_edit_changes_the_answer(tiny_model: HookedTransformer) -> None:
    model = planted(tiny_model, 1, 9)
    ids = torch.tensor([model.tokenizer(FACT.prompt)["input_ids"]])
    old, new = (model.tokenizer(text)["input_ids"][0] for text in (" trumpet", " guitar"))

    def chances() -> tuple[float, float]:
        with torch.no_grad():
            found = model(ids)[0, -1].softmax(-1)
        return float(found[old]), float(found[new])

    before = chances()
    edit = neuron_edit(model, REQUEST)
    assert edit.provenance["settings"]["neurons"] == [[[1, 9]]]
    with edit.applied(model):
        after = chances()
    assert before[0] > before[1]
    assert after[1] > 5 * before[1]
    assert after[1] > after[0]
    with neuron_edit(model, REQUEST, mode="suppress").applied(model):
        assert chances()[0] < before[0]
    with neuron_edit(model, REQUEST, mode="amplify").applied(model):
        assert chances()[0] > before[0]


def test_neurons_found_before_are_those_found_now(tiny_model: HookedTransformer) -> None:
    found = [knowledge_neurons(tiny_model, one, steps=3) for one in (REQUEST, OTHER)]
    now = neuron_edit(tiny_model, [REQUEST, OTHER], steps=3)
    assert neuron_edit(tiny_model, [REQUEST, OTHER], neurons=found).id == now.id
    assert neuron_edit(tiny_model, REQUEST, neurons=found[0]).requests == (REQUEST,)
    listed = list(found[0].neurons)
    first = neuron_edit(tiny_model, REQUEST, neurons=found[0])
    assert neuron_edit(tiny_model, REQUEST, neurons=listed).id == first.id
    settings = now.provenance["settings"]
    assert (settings["method"], settings["on_top_of"]) == ("neuron_edit", [])
    assert settings["neurons"][0] == [[one.layer, one.index] for one in listed]


def test_settings_are_those_that_the_neurons_were_found_with(tiny_model: HookedTransformer) -> None:
    found = knowledge_neurons(tiny_model, REQUEST, steps=2, rule="paper", threshold=0.5)
    settings = neuron_edit(tiny_model, REQUEST, neurons=found).provenance["settings"]
    assert settings["searches"] == [found.provenance["settings"]]
    (search,) = neuron_edit(tiny_model, REQUEST, steps=2).provenance["settings"]["searches"]
    assert (search["steps"], search["rule"], search["prompts"]) == (2, "middle", [FACT.prompt])
    assert neuron_edit(tiny_model, REQUEST, neurons=[(0, 1)]).provenance["settings"]["searches"] is None
    assert "steps" not in settings


def test_facts_to_keep_are_not_heeded_and_a_warning_says_so(tiny_model: HookedTransformer) -> None:
    asked = EditRequest(FACT, " guitar", keep=(Fact("{} is in", "Rome", " Italy"),))
    with pytest.warns(KeepWarning, match=r"neuron_edit does not heed the 1 fact\(s\) to keep") as caught:
        edit = neuron_edit(tiny_model, asked, neurons=[(0, 1)])
    assert [warning.filename for warning in caught] == [__file__]
    assert edit.id == neuron_edit(tiny_model, REQUEST, neurons=[(0, 1)]).id


def test_edits_under_the_edit_are_named(tiny_model: HookedTransformer) -> None:
    first = neuron_edit(tiny_model, OTHER, neurons=[(0, 1)])
    with first.applied(tiny_model):
        second = neuron_edit(tiny_model, REQUEST, neurons=[(0, 1)], mode="suppress")
        assert second.provenance["settings"]["on_top_of"] == [first.id]
        with second.applied(tiny_model):
            assert float(row(tiny_model, 0, 1).abs().max()) < 1e-6


def test_a_fact_without_neurons_is_a_warning_and_a_zero_edit(tiny_model: HookedTransformer) -> None:
    model = planted(tiny_model, 1, 7)
    with torch.no_grad():
        model.blocks[1].mlp.W_out[7] *= -1
    with pytest.warns(NeuronWarning, match="'Miles Davis plays the' has no knowledge neurons") as caught:
        edit = neuron_edit(model, REQUEST)
    assert [warning.filename for warning in caught] == [__file__]
    assert edit.parameters == ()
    with edit.applied(model):
        pass


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"requests": []}, InputError, "requests: expected at least one EditRequest, got none"),
        ({"mode": "erase"}, InputError, "mode: expected one of write, suppress, amplify, got 'erase'"),
        ({"old_factor": float("nan")}, RangeError, "old_factor: expected a finite number, got nan"),
        ({"new_factor": "8"}, RangeError, "new_factor: expected a finite number, got '8'"),
        ({"neurons": []}, InputError, "neurons: expected at least one, got none"),
        ({"neurons": [3]}, InputError, r"neurons: expected pairs \(layer, index\), got 3"),
        ({"neurons": [(3, 0)]}, RangeError, "neurons must be an integer from 0 to 2"),
        ({"neurons": [(0, 128)]}, RangeError, "neurons: expected an index from 0 to 127, got 128"),
        ({"threshold": 2}, RangeError, "threshold: expected a number above 0"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_bad_input_is_named(
    tiny_model: HookedTransformer, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        neuron_edit(tiny_model, **{"requests": REQUEST, **options})


def test_answers_that_begin_alike_cannot_be_told_apart(tiny_model: HookedTransformer) -> None:
    request = EditRequest(FACT, " trumpet too")
    with pytest.raises(TextError, match="both ' trumpet' and ' trumpet too' begin with the token ' trumpet'"):
        neuron_edit(tiny_model, request, neurons=[(0, 0)])
    assert neuron_edit(tiny_model, request, neurons=[(0, 0)], mode="suppress").parameters == (NAMES[0],)


def test_neurons_of_another_model_or_of_too_few_requests_are_refused(tiny_model: HookedTransformer) -> None:
    found = knowledge_neurons(tiny_model, REQUEST, steps=1)
    with pytest.raises(InputError, match="one KnowledgeNeurons for each of the 2 requests, got 1"):
        neuron_edit(tiny_model, [REQUEST, OTHER], neurons=found)
    with torch.no_grad():
        tiny_model.blocks[0].mlp.W_in += 0.5
    with pytest.raises(
        ModelError, match=f"neurons: found in another model .* \\({fingerprint(tiny_model)[:12]}"
    ):
        neuron_edit(tiny_model, REQUEST, neurons=found)
