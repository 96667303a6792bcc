"""What evaluate refuses, in which words, and that it refuses before the first run."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

from mechstyle.editing.edit import EditSet, WeightEdit
from mechstyle.errors import InputError, ModelError, RangeError, TextError
from mechstyle.evaluation import BosMismatchWarning, evaluate
from mechstyle.facts import EditRequest, Fact
from mechstyle.models import fingerprint

FACT = Fact("{} plays the", "Miles Davis", " trumpet")
REQUEST = EditRequest(FACT, " guitar")


def edit_of(found: str, **settings: object) -> EditSet:
    factors = torch.zeros(128, 1), torch.zeros(1, 32)
    return EditSet((WeightEdit("blocks.1.mlp.W_out", *factors),), found, {"settings": settings})


BAD: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "no requests": ([], {}, InputError, "requests: expected at least one EditRequest, got none."),
    "one request": (
        REQUEST,
        {},
        InputError,
        "requests: expected a list of EditRequest, got one EditRequest; pass [",
    ),
    "a fact": ([FACT], {}, InputError, "requests[0]: expected an EditRequest, got Fact."),
    "fewer edits": (
        [REQUEST, REQUEST],
        {"edits": [edit_of("x")]},
        InputError,
        "edits: expected one for each of the 2 requests, in their order, got 1; to score one edit on all",
    ),
    "no edits": ([REQUEST], {"edits": []}, InputError, "edits: expected one for each of the 1 requests"),
    "not an edit": (
        [REQUEST],
        {"edits": ["a.safetensors"]},
        InputError,
        "edits[0]: expected an EditSet, got str.",
    ),
    "a path": (
        [REQUEST],
        {"edits": "a.safetensors"},
        InputError,
        "edits: expected an EditSet or a list of them, got s",
    ),
    "another model": (
        [REQUEST],
        {"edits": edit_of("x" * 64)},
        ModelError,
        "edits[0]: computed for another model",
    ),
    "straddling": (
        [EditRequest(Fact("{} plays th", "Miles Davis", " trumpet"), "e guitar")],
        {},
        TextError,
        "requests[0], rewrite prompt 'Miles Davis plays th': ",
    ),
    "too long": (
        [REQUEST, EditRequest(FACT, " guitar", ("Miles " * 70,))],
        {},
        TextError,
        "requests[1], paraphrase prompt 'Miles Miles",
    ),
    "neighbour of the new target": (
        [EditRequest(FACT, " guitar", (), (("Jimi Hendrix plays the", " guitar"),))],
        {},
        TextError,
        "requests[0], neighborhood prompt 'Jimi Hendrix plays the': its true target must differ from the new",
    ),
    "no room to generate": (
        [EditRequest(FACT, " guitar", ("Miles" + " the" * 62,))],
        {"generate": True},
        TextError,
        "prompts[1]: its 63 tokens and n_tokens=3 new ones do not fit into the model's context of 64",
    ),
    "batch size": (
        [REQUEST],
        {"batch_size": 0},
        RangeError,
        "batch_size: expected a whole number of 1 or more, got 0.",
    ),
    "reduce": ([REQUEST], {"reduce": "max"}, InputError, "reduce: expected 'mean' or 'sum', got 'max'."),
    "one text": (
        [REQUEST],
        {"perplexity_texts": "Rome"},
        InputError,
        "texts: expected a list of texts, got one str;",
    ),
    "no texts": (
        [REQUEST],
        {"perplexity_texts": []},
        InputError,
        "texts: expected at least one text, got none.",
    ),
    "no token": (
        [REQUEST],
        {"perplexity_texts": ["The day", ""]},
        TextError,
        "texts[1]: expected a token to predict",
    ),
    "not text": ([REQUEST], {"perplexity_texts": [3]}, InputError, "texts[0]: expected text, got int."),
    "max positions": (
        [REQUEST],
        {"perplexity_texts": ["The day"], "max_positions": 1},
        RangeError,
        "max_positions: expected a whole number of 2 or more, got 1.",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_before_anything_is_run(
    tiny_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    requests, options, error, message = BAD[case]

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr(tiny_model, "run_with_hooks", never)
    with pytest.raises(error, match=re.escape(message)):
        evaluate(tiny_model, requests, **options)


def test_a_model_with_nan_weights_is_refused_instead_of_scored(tiny_model: HookedTransformer) -> None:
    with torch.no_grad():
        tiny_model.blocks[1].mlp.W_out[0, 0] = float("nan")
    with pytest.raises(ModelError, match="the log-probability of 'Miles Davis plays the guitar' is nan"):
        evaluate(tiny_model, [REQUEST])


def test_a_processed_model_is_scored_but_its_edit_refused(tiny_model: HookedTransformer) -> None:
    tiny_model.process_weights_()
    assert len(evaluate(tiny_model, [REQUEST]).frame) == 1
    with pytest.raises(ModelError, match="processed weights"):
        evaluate(tiny_model, [REQUEST], edits=edit_of(fingerprint(tiny_model)))


def test_an_edit_made_with_another_bos_setting_warns(tiny_model: HookedTransformer) -> None:
    edit = edit_of(fingerprint(tiny_model), prepend_bos=True)
    with pytest.warns(
        BosMismatchWarning, match="made with prepend_bos=True, but scored with prepend_bos=False"
    ):
        evaluate(tiny_model, [REQUEST], edits=edit)
    evaluate(tiny_model, [REQUEST], edits=edit, prepend_bos=True)


def test_a_stage_that_was_not_scored_is_named(tiny_model: HookedTransformer) -> None:
    scores = evaluate(tiny_model, [REQUEST])
    with pytest.raises(
        InputError, match=re.escape("stage: expected one of before, got 'after'; there is an")
    ):
        scores.summary(stage="after")
    with pytest.raises(
        RangeError, match=re.escape("ci: expected a share between 0 and 1, such as 0.95, got 95")
    ):
        scores.summary(ci=95)
