"""Plausible mistakes are told in words, before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2LMHeadModel

import mechstyle as ms
from mechstyle.editing.targets import optimise_targets
from mechstyle.errors import MechstyleError
from mechstyle.runs import logits, record, resume

FACT = ms.Fact("The instrument of {} is the", "Miles Davis", " trumpet")
REQUEST = ms.EditRequest(FACT, " guitar")
IDS = torch.tensor([[1, 2, 3]])

CALLS: dict[str, tuple[Callable[[Any], object], str]] = {
    "kinds is a number": (lambda m: ms.causal_trace(m, FACT, kinds=3), "kinds: expected one or more"),
    "kinds are nested": (
        lambda m: ms.causal_trace(m, FACT, kinds=[["resid"]]),
        "kinds: expected one or more",
    ),
    "seed is a word": (lambda m: ms.causal_trace(m, FACT, seed="a"), "seed: expected a whole number"),
    "seed is a half": (lambda m: ms.causal_trace(m, FACT, seed=1.5), "seed: expected a whole number"),
    "sigma is a word": (lambda m: ms.causal_trace(m, FACT, sigma="a"), "sigma: expected a finite number"),
    "sigma is true": (lambda m: ms.causal_trace(m, FACT, sigma=True), "sigma: expected a finite number"),
    "draws in a list": (lambda m: ms.GaussianNoise(draws=[1.0]), r"noise \(draws\): expected a tensor"),
    "bos is a word": (
        lambda m: ms.causal_trace(m, FACT, prepend_bos="yes"),
        "prepend_bos: expected True, False or None",
    ),
    "ids in a list": (lambda m: record(m, [[1, 2]]), "ids: expected a tensor of token ids"),
    "ids with fractions": (lambda m: logits(m, IDS.float()), "ids: expected a tensor of token ids"),
    "ids beyond the vocabulary": (lambda m: logits(m, IDS + 10**6), "ids: expected token ids from 0 to"),
    "ids beyond the context": (lambda m: record(m, IDS.repeat(1, 30)), "in rows of at most 64, got"),
    "a hook of no place": (
        lambda m: record(m, IDS, hooks=[("blocks.9.hook_mlp_out", lambda state, hook: None)]),
        "hooks: the model has no hook 'blocks.9.hook_mlp_out'",
    ),
    "a hook that is switched off": (
        lambda m: logits(m, IDS, hooks=[("blocks.0.attn.hook_result", lambda state, hook: None)]),
        "hooks: expected every hook to fire",
    ),
    "contexts is a number": (
        lambda m: optimise_targets(m, [REQUEST], layer=0, contexts=3),
        "contexts: expected a sequence of templates, got int",
    ),
    "options in a dictionary": (
        lambda m: optimise_targets(m, [REQUEST], layer=0, options={"steps": 3}),
        "options: expected TargetOptions, got dict",
    ),
    "a narrow record before its place": (
        lambda m: record(m, IDS, narrow=(1, -1)),
        "narrow: expected a layer from 0 to 3 and a position from 0 to 2",
    ),
    "a resumed run beyond a narrow record": (
        lambda m: resume(
            m,
            {1: lambda: record(m, IDS).entering(1, 2)},
            base=record(m, IDS, narrow=(1, 1)),
            start=2,
            n_last=1,
        ),
        "position: expected 0 to 1, the positions recorded in layer 1, got 2",
    ),
    "states that a narrow record lacks": (
        lambda m: record(m, IDS, narrow=(1, 1)).entering(2, 1),
        "in a layer whose states were recorded, got 1 in layer 2",
    ),
    "states before a record's first": (
        lambda m: record(m, IDS).entering(1, -1),
        "position: expected 0 to 2, in a layer whose states were recorded, got -1",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_mistake_is_told_in_words(tiny_model: HookedTransformer, name: str) -> None:
    call, message = CALLS[name]
    with pytest.raises(MechstyleError, match=message):
        call(tiny_model)


@pytest.mark.parametrize("model", [None, "organism-m"])
def test_what_is_no_model_is_refused(model: Any, tiny_hf: GPT2LMHeadModel) -> None:
    for given in (model, tiny_hf):
        refused = f"model: expected a HookedTransformer or TransformerBridge, got {type(given).__name__}"
        for call in (
            lambda given=given: ms.causal_trace(given, FACT),
            lambda given=given: ms.covariance(given, ["text"], layers=[0]),
            lambda given=given: ms.rome(given, REQUEST, layer=0, covariance={}),
            lambda given=given: ms.memit(given, [REQUEST], layers=[0], covariance={}),
            lambda given=given: ms.evaluate(given, [REQUEST]),
            lambda given=given: optimise_targets(given, [REQUEST], layer=0),
        ):
            with pytest.raises(MechstyleError, match=refused):
                call()


def test_a_bridge_in_training_mode_with_dropout_is_refused_and_without_is_not(tiny_folder: Path) -> None:
    bridge = TransformerBridge.boot_transformers(str(tiny_folder), device="cpu").train()
    with pytest.raises(MechstyleError, match=r"training mode and has dropout.*call model\.eval\(\)"):
        logits(bridge, IDS)
    for part in bridge.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    assert torch.isfinite(logits(bridge, IDS)).all()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int64, "float32"])
def test_number_formats_that_cannot_be_computed_in_are_refused(tiny_folder: Path, dtype: Any) -> None:
    with pytest.raises(MechstyleError, match="dtype must be one of"):
        ms.load_model(tiny_folder, dtype=dtype)


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(MechstyleError, match="is empty; name an embedded model"):
        ms.load_model("")
