"""Fine-tuning tells what is wrong with what it is given, and where it diverged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

from mechstyle.editing.edit import EditSet
from mechstyle.editing.finetune import FinetuneOptions, finetune, gradient_log
from mechstyle.editing.weight_edit import WeightEdit
from mechstyle.errors import InputError, ModelError, RangeError, TextError, WorkError
from mechstyle.facts import EditRequest, Fact
from mechstyle.models import fingerprint, load_model

FACT = Fact("The instrument of {} is the", "Miles Davis", " trumpet")
REQUEST = EditRequest(FACT, " guitar")
INSIDE = EditRequest(Fact("The instrument of {} is t", "Miles Davis", "hat"), "he")
ONE = FinetuneOptions(steps=1)

BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no requests": ({"requests": []}, InputError, "at least one EditRequest"),
    "no request": ({"requests": [FACT]}, InputError, "expected an EditRequest, got Fact"),
    "contradiction": (
        {"requests": [REQUEST, EditRequest(FACT, " piano")]},
        InputError,
        "wants ' piano' after 'The instrument of Miles Davis is the'",
    ),
    "no layers": ({"layers": []}, InputError, "layers: expected one or more different layers, got"),
    "a layer twice": ({"layers": [1, 1]}, InputError, "layers: expected one or more different layers"),
    "a layer too high": ({"layers": [3]}, RangeError, "layers must be an integer from 0 to 2"),
    "an unknown parameter": (
        {"parameters": ["mlp.W_out", "mlp.W_up"]},
        InputError,
        "parameters: layer 0 has no 'mlp.W_up'; it has attn.W_K, .*mlp.W_in, mlp.W_out, mlp.b_in",
    ),
    "a whole name": (
        {"parameters": "blocks.0.mlp.W_out"},
        InputError,
        "layer 0 has no 'blocks.0.mlp.W_out'",
    ),
    "no parameters": ({"parameters": ()}, InputError, "parameters: expected one or more different names"),
    "a parameter twice": (
        {"parameters": ["mlp.W_in", "mlp.W_in"]},
        InputError,
        "parameters: expected one or more different names",
    ),
    "a number of parameters": ({"parameters": 3}, InputError, "expected one or more different names, got 3"),
    "a seed below 0": ({"seed": -1}, RangeError, "seed: expected an integer of 0 or more, got -1"),
    "other options": ({"options": {"steps": 3}}, InputError, "expected FinetuneOptions, got dict"),
    "a divergence from nothing": (
        {"options": FinetuneOptions(kl_factor=1.0)},
        InputError,
        "preserve: kl_factor is above 0, but there is nothing to preserve",
    ),
    "no added data": (
        {"options": FinetuneOptions(data_factor=1.0)},
        InputError,
        "preserve: data_factor is above 0, but there is nothing to preserve",
    ),
    "texts that do not count": (
        {"preserve": ["The day was long."], "options": FinetuneOptions(kl_factor=0.0)},
        InputError,
        "preserve: kl_factor and data_factor are both 0, so the texts would not count",
    ),
    "one text": (
        {"preserve": "The day was long."},
        InputError,
        "preserve: expected a list of texts or Facts",
    ),
    "a number": (
        {"preserve": ["The day", 3]},
        InputError,
        r"preserve\[1\]: expected a text or a Fact, got int",
    ),
    "an empty text": ({"preserve": [""]}, TextError, r"preserve\[0\]: expected a token to predict, but ''"),
    "a target inside a word": ({"requests": INSIDE}, TextError, "token"),
    "a fact inside a word": ({"preserve": [INSIDE.fact.with_target("he")]}, TextError, "token"),
    "a text longer than the context": (
        {"requests": EditRequest(Fact("{} is" + " very" * 70, "He", " old"), " young")},
        TextError,
        "prompt: too long",
    ),
    "a schedule of other layers": (
        {"layers": [0, 1], "schedule": lambda step: [step, 2]},
        InputError,
        r"schedule: expected some of layers \[0, 1\] at step 0, got \[0, 2\]",
    ),
    "a schedule of no list": ({"schedule": lambda step: step}, InputError, "at step 0, got 0"),
    "a schedule of nothing": ({"schedule": lambda step: []}, InputError, "in at least one of 1 steps"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(tiny_model: HookedTransformer, case: str) -> None:
    given, error, message = BAD[case]
    arguments: dict[str, Any] = {"requests": REQUEST, "options": ONE, **given}
    before = {name: weight.detach().clone() for name, weight in tiny_model.named_parameters()}
    with pytest.raises(error, match=message):
        finetune(tiny_model, arguments.pop("requests"), **arguments)
    assert all(torch.equal(weight, before[name]) for name, weight in tiny_model.named_parameters())


OPTIONS: dict[str, tuple[Callable[[], FinetuneOptions], str]] = {
    "steps": (lambda: FinetuneOptions(steps=0), "steps: expected an integer of 1 or more, got 0"),
    "a share of a step": (lambda: FinetuneOptions(steps=2.5), "steps: expected an integer"),  # type: ignore[arg-type]
    "true": (lambda: FinetuneOptions(steps=True), "steps: expected an integer"),
    "batch": (lambda: FinetuneOptions(batch_size=0), "batch_size: expected an integer of 1 or more, got 0"),
    "texts": (lambda: FinetuneOptions(preserve_batch_size=0), "preserve_batch_size: expected an integer"),
    "lr": (lambda: FinetuneOptions(lr=0.0), "lr: expected a finite number > 0, got 0.0"),
    "infinite": (lambda: FinetuneOptions(lr=float("inf")), "lr: expected a finite number > 0, got inf"),
    "decay": (lambda: FinetuneOptions(weight_decay=-1.0), "weight_decay: expected a finite number >= 0"),
    "stop": (lambda: FinetuneOptions(early_stop=float("nan")), "early_stop: expected a finite number >= 0"),
    "norm": (
        lambda: FinetuneOptions(norm_constraint=-1e-3),
        "norm_constraint: expected a finite number >= 0",
    ),
    "kl": (lambda: FinetuneOptions(kl_factor=-1.0), "kl_factor: expected a finite number >= 0, got -1.0"),
    "data": (lambda: FinetuneOptions(data_factor="1"), "data_factor: expected a finite number >= 0"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_out_of_range_are_named(case: str) -> None:
    make, message = OPTIONS[case]
    with pytest.raises(RangeError, match=f"FinetuneOptions.{message}"):
        make()


def test_an_unknown_loss_is_named() -> None:
    with pytest.raises(InputError, match="loss: expected 'teacher-forced' or 'as-published', got 'mean'"):
        FinetuneOptions(loss="mean")  # type: ignore[arg-type]


def test_a_loss_that_diverges_tells_the_step(tiny_folder: Path) -> None:
    narrow = load_model(tiny_folder, dtype=torch.float16)
    with pytest.raises(WorkError, match=r"finetune: the loss became nan at step 1; lower FinetuneOptions.lr"):
        finetune(narrow, REQUEST, options=FinetuneOptions(lr=1e6, early_stop=0.0))


def test_processed_and_broken_models_are_refused(tiny_folder: Path, tiny_model: HookedTransformer) -> None:
    folded = load_model(tiny_folder)
    folded.process_weights_()
    with pytest.raises(ModelError, match="processed weights"):
        finetune(folded, REQUEST, options=ONE)
    with torch.no_grad():
        tiny_model.blocks[0].mlp.W_in[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"NaN or infinite numbers in 1 weights, first 'blocks.0.mlp.W_in'"):
        finetune(tiny_model, REQUEST, options=ONE)


def test_the_log_of_another_method_is_refused(tiny_model: HookedTransformer) -> None:
    change = WeightEdit.dense("blocks.0.mlp.b_out", torch.ones(32))
    with pytest.raises(InputError, match="expected one of finetune, got one of unknown origin"):
        gradient_log(EditSet((change,), fingerprint(tiny_model)))


def test_long_texts_are_cut_to_the_models_context(tiny_model: HookedTransformer) -> None:
    long = "The day was long. " * 40
    edit = finetune(tiny_model, REQUEST, layers=0, options=ONE, preserve=[long])
    assert edit.provenance["settings"]["n_preserved"] == 1


def test_provenance_tells_preserved_texts_and_facts_apart_by_their_hash(
    tiny_model: HookedTransformer,
) -> None:
    def hash_of(*preserve: str | Fact, request: EditRequest = REQUEST) -> str | None:
        edit = finetune(tiny_model, request, layers=0, options=ONE, preserve=preserve)
        found: str | None = edit.provenance["settings"]["preserved_sha256"]
        return found

    italy = Fact("{} is in", "Rome", " Italy")
    kept = EditRequest(FACT, " guitar", keep=(italy,))
    found = [
        hash_of("The day was long."),
        hash_of("He was born."),
        hash_of(italy),
        hash_of("Rome is in Italy"),
    ]
    assert len(set(found)) == 4
    assert hash_of("The day was long.") == found[0]
    assert hash_of(request=kept) == found[2]
    assert hash_of() is None


def test_defaults_are_those_of_the_published_baseline() -> None:
    options = FinetuneOptions()
    assert (options.steps, options.lr, options.weight_decay, options.early_stop) == (25, 5e-4, 0.0, 1e-2)
    assert (options.norm_constraint, options.loss, options.batch_size) == (None, "teacher-forced", None)
