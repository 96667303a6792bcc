"""Edits beside the weights as data: what is found, what is said, files, and bad input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformer_lens import HookedTransformer

from mechstyle.editing.memory import (
    EditCache,
    InContextEdit,
    MemoryEdit,
    Recall,
    last_states,
    load_memory_edit,
)
from mechstyle.editing.memory_editors import edit_cache, in_context_edit
from mechstyle.errors import FileError, InputError, ModelError, RangeError, TextError
from mechstyle.facts import EditRequest, Fact
from mechstyle.models import fingerprint

MILES = EditRequest(
    Fact("{} plays the", "Miles Davis", " trumpet"), " guitar", phrasings=("The instrument of {} is the",)
)
PARIS = EditRequest(Fact("{} is the capital of", "Paris", " France"), " Italy")
PROMPTS = ("Miles Davis plays the", "The instrument of Miles Davis is the", "Paris is the capital of")
OTHERS = ("Chet Baker plays the", "Rome is the capital of", "The day was", "Miles Davis plays")
Make = Callable[[HookedTransformer], MemoryEdit]
MAKERS: dict[str, Make] = {
    "exact cache": lambda model: edit_cache(model, [MILES, PARIS]),
    "cache by likeness": lambda model: edit_cache(model, [MILES, PARIS], layer=1, threshold=0.9),
    "in context": lambda model: in_context_edit(model, [MILES, PARIS]),
}


@pytest.fixture(params=MAKERS)
def edit(request: pytest.FixtureRequest, tiny_model: HookedTransformer) -> MemoryEdit:
    return MAKERS[request.param](tiny_model)


def answers(edit: MemoryEdit, model: HookedTransformer, prompts: tuple[str, ...]) -> list[str | None]:
    return [None if one is None else one.answer for one in edit.recall(model, prompts)]


def test_an_exact_cache_finds_its_prompts_in_all_phrasings_and_no_other(
    tiny_model: HookedTransformer,
) -> None:
    cache = edit_cache(tiny_model, [MILES, PARIS], epsilon=0.01)
    assert cache.prompts == PROMPTS
    assert cache.recall(tiny_model, PROMPTS[::2]) == (Recall(" guitar", 0.01), Recall(" Italy", 0.01))
    assert answers(cache, tiny_model, (*PROMPTS, *OTHERS)) == [" guitar", " guitar", " Italy", *[None] * 4]
    assert answers(cache, tiny_model, ()) == []


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("bos", [False, True])
def test_likeness_is_the_cosine_of_the_states_at_the_last_tokens(
    tiny_model: HookedTransformer, layer: int, bos: bool
) -> None:
    def state(prompt: str) -> Tensor:
        ids = tiny_model.tokenizer(prompt)["input_ids"]
        ids = [tiny_model.tokenizer.bos_token_id, *ids] if bos else ids
        _, cache = tiny_model.run_with_cache(torch.tensor([ids]))
        return cache[f"blocks.{layer}.hook_resid_post"][0, -1].detach().double()

    entries = [state(prompt) for prompt in PROMPTS]
    for threshold in (0.2, 0.6, 0.9):
        cache = edit_cache(tiny_model, [MILES, PARIS], layer=layer, threshold=threshold, prepend_bos=bos)
        for prompt in OTHERS:
            likeness = [float(torch.cosine_similarity(state(prompt), one, dim=0)) for one in entries]
            best = max(range(3), key=likeness.__getitem__)
            wanted = cache.answers[best] if likeness[best] >= threshold else None
            (found,) = cache.recall(tiny_model, [prompt], prepend_bos=bos)
            assert (None if found is None else found.answer) == wanted


def test_a_threshold_of_one_finds_identical_prompts_and_minus_one_finds_all(
    tiny_model: HookedTransformer,
) -> None:
    strict = edit_cache(tiny_model, [MILES, PARIS], layer=1, threshold=1)
    assert answers(strict, tiny_model, (*PROMPTS, *OTHERS)) == [" guitar", " guitar", " Italy", *[None] * 4]
    loose = edit_cache(tiny_model, [MILES, PARIS], layer=1, threshold=-1)
    assert None not in answers(loose, tiny_model, (*PROMPTS, *OTHERS))


def test_opposite_states_reach_a_threshold_of_minus_one_in_spite_of_rounding(
    tiny_model: HookedTransformer,
) -> None:
    for prompt in OTHERS:
        cache = edit_cache(tiny_model, PARIS, layer=1, threshold=-1)
        opposite = replace(cache, states=-3.7 * last_states(tiny_model, [prompt], layer=1))
        assert answers(opposite, tiny_model, (prompt,)) == [" Italy"]


def test_a_state_of_zeros_is_like_nothing(tiny_model: HookedTransformer) -> None:
    cache = edit_cache(tiny_model, PARIS, layer=1, threshold=0.1)
    assert cache.states is not None
    empty = replace(cache, states=torch.zeros_like(cache.states))
    assert answers(empty, tiny_model, OTHERS) == [None] * 4


def test_states_do_not_depend_on_the_batch(tiny_model: HookedTransformer) -> None:
    many = last_states(tiny_model, (*PROMPTS, *OTHERS), layer=2, batch_size=2)
    alone = torch.cat([last_states(tiny_model, [prompt], layer=2) for prompt in (*PROMPTS, *OTHERS)])
    assert torch.allclose(many, alone, atol=1e-5)
    assert many.dtype == torch.float64


def test_the_context_tells_every_fact_with_its_new_target(tiny_model: HookedTransformer) -> None:
    edit = in_context_edit(tiny_model, [MILES, PARIS])
    assert edit.context == (
        "Imagine that Miles Davis plays the guitar. Imagine that Paris is the capital of Italy. "
    )
    assert in_context_edit(tiny_model, PARIS, template="News: {}! ").context == (
        "News: Paris is the capital of Italy! "
    )
    assert edit.recall(tiny_model, PROMPTS) == (None,) * 3
    braces = EditRequest(Fact("{} plays the", "Miles", " trumpet"), " {}")
    assert in_context_edit(tiny_model, braces).context == "Imagine that Miles plays the {}. "


def test_the_model_is_bit_for_bit_as_before_and_nothing_is_declared_to_change(
    tiny_model: HookedTransformer, edit: MemoryEdit
) -> None:
    before = {name: weight.detach().clone() for name, weight in tiny_model.named_parameters()}
    assert edit.parameters == ()
    with edit.applied(tiny_model) as active:
        assert active is edit
        edit.recall(tiny_model, PROMPTS)
        for name, weight in tiny_model.named_parameters():
            assert torch.equal(weight, before[name])
    assert edit.fingerprint == fingerprint(tiny_model)
    assert edit.requests == (MILES, PARIS)
    assert edit.provenance["settings"]["on_top_of"] == []


def test_edits_are_frozen(edit: MemoryEdit) -> None:
    with pytest.raises(FrozenInstanceError):
        edit.fingerprint = "x"  # type: ignore[misc]


def test_another_model_is_refused(tiny_model: HookedTransformer, edit: MemoryEdit) -> None:
    with torch.no_grad():
        tiny_model.blocks[0].mlp.W_in += 0.5
    with pytest.raises(ModelError, match=f"fingerprint {edit.fingerprint[:12]}"), edit.applied(tiny_model):
        pass


def test_a_file_gives_back_the_same_edit(
    tiny_model: HookedTransformer, edit: MemoryEdit, tmp_path: Path
) -> None:
    found = load_memory_edit(edit.save(tmp_path / "edit.safetensors"))
    assert type(found) is type(edit)
    assert found.id == edit.id
    assert (found.requests, found.fingerprint, found.provenance) == (
        edit.requests, edit.fingerprint, edit.provenance,
    )  # fmt: skip
    assert found.context == edit.context
    asked = (*PROMPTS, *OTHERS)
    assert found.recall(tiny_model, asked) == edit.recall(tiny_model, asked)


def test_equal_edits_have_equal_names_and_others_have_others(tiny_model: HookedTransformer) -> None:
    names = [make(tiny_model).id for make in MAKERS.values()]
    assert names == [make(tiny_model).id for make in MAKERS.values()]
    names += [
        edit_cache(tiny_model, MILES).id,
        edit_cache(tiny_model, [MILES, PARIS], epsilon=0.1).id,
        edit_cache(tiny_model, [MILES, PARIS], layer=2, threshold=0.9).id,
        edit_cache(tiny_model, [MILES, PARIS], layer=1, threshold=0.8).id,
        in_context_edit(tiny_model, MILES).id,
        in_context_edit(tiny_model, [MILES, PARIS], template="{}. ").id,
    ]
    assert len(set(names)) == len(names)


def test_damaged_or_foreign_files_are_refused(
    tiny_model: HookedTransformer, edit: MemoryEdit, tmp_path: Path
) -> None:
    path = edit.save(tmp_path / "edit.safetensors")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file({"states": torch.zeros(1, 2)}, tmp_path / "changed.safetensors", metadata=metadata)
    with pytest.raises(FileError, match="do not match its own hash"):
        load_memory_edit(tmp_path / "changed.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FileError, match="cannot read"):
        load_memory_edit(tmp_path / "cut.safetensors")
    with pytest.raises(FileError, match="expected a file there"):
        load_memory_edit(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"requests": []}, InputError, "requests: expected at least one EditRequest, got none"),
        ({"layer": 1}, InputError, "threshold, layer: expected both"),
        ({"threshold": 0.5}, InputError, "threshold, layer: expected both"),
        ({"layer": 1, "threshold": 1.1}, RangeError, r"threshold: expected a number in \[-1, 1\], got 1.1"),
        ({"layer": 1, "threshold": float("nan")}, RangeError, "threshold: .* got nan"),
        ({"layer": 1, "threshold": "0.9"}, RangeError, "threshold: .* got '0.9'"),
        ({"layer": 3, "threshold": 0.5}, RangeError, "layer must be an integer from 0 to 2"),
        ({"epsilon": 0}, RangeError, r"epsilon: expected a number in \(0, 0.5\), got 0"),
        ({"epsilon": 0.5}, RangeError, "epsilon: .* got 0.5"),
        ({"epsilon": True}, RangeError, "epsilon: .* got True"),
        (
            {"requests": [MILES, replace(MILES, new_target=" piano")]},
            InputError,
            "wants ' piano' after 'Miles Davis plays the', but",
        ),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)
def test_bad_input_to_a_cache_is_named(
    tiny_model: HookedTransformer, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        edit_cache(tiny_model, **{"requests": MILES, **options})


@pytest.mark.parametrize("template", ["Imagine that. ", "{} and {}", 5])
def test_a_template_holds_one_place_for_the_fact(tiny_model: HookedTransformer, template: Any) -> None:
    with pytest.raises(TextError, match=r"template: expected text with '\{\}' exactly once"):
        in_context_edit(tiny_model, MILES, template=template)


def test_statements_that_leave_no_room_for_the_prompt_are_refused(tiny_model: HookedTransformer) -> None:
    many = [
        EditRequest(Fact("{} plays the", f"Miles Davis of Paris {n}", " trumpet"), " guitar")
        for n in range(9)
    ]
    with pytest.raises(TextError, match=r"requests\[0\]: .* behind 9 statement\(s\): .* too long") as caught:
        in_context_edit(tiny_model, many)
    assert "64" in str(caught.value)
    assert "fewer requests" in str(caught.value)


def test_kinds_can_be_told_apart(tiny_model: HookedTransformer) -> None:
    assert isinstance(MAKERS["exact cache"](tiny_model), EditCache)
    assert isinstance(MAKERS["in context"](tiny_model), InContextEdit)
