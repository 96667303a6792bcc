"""What tests of kinds share: cases, the textbook's cells, and the comparison of both engines with them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from transformer_lens import HookedTransformer

from mechstyle.facts import Fact
from mechstyle.tracing import Trace
from mechstyle.tracing.corruption import GaussianNoise
from mechstyle.tracing.kinds import KINDS as TRACED
from mechstyle.tracing.plan import plan_cells
from mechstyle.tracing.run_cells import run_cells
from mechstyle.tracing.setup import Setup, prepare_fact, prepare_prompts
from tests.oracles import cell_loop

ANSWERS = {1: " trumpet", 2: " trumpet too", 3: " trumpet too,"}
NEURON_LAYER, WINDOW = 1, 2
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
SETS = {"pair": [1, 2], "ends": [0, 3], "last": "last prompt token"}


class Case(NamedTuple):
    """What is compared with what."""

    bos: bool
    n_answer: int
    direction: Any = "denoising"
    pair: bool = False
    tokens: Any = None

    def setup(self, model: HookedTransformer) -> Setup:
        """Two noise draws on a subject, or two prompts."""
        answer = ANSWERS[self.n_answer]
        if self.pair:
            clean, corrupted = "The day: Miles Davis plays the", "The day: Bill Evans plays the"
            return prepare_prompts(model, clean, corrupted, answer=answer, prepend_bos=self.bos)
        fact = Fact("The {} plays the", "Miles Davis", answer)
        noise = GaussianNoise(draws=torch.randn(2, 2, 32, generator=torch.Generator().manual_seed(3)))
        return prepare_fact(model, fact, corruption=noise, metric="logprob", prepend_bos=self.bos)


CASES = [
    Case(False, 1),
    Case(True, 2, "noising"),
    Case(False, 3, "denoising", pair=True),
    Case(True, 2, "denoising", tokens=SETS),
    Case(False, 3, "noising", tokens=SETS),
]


def traced(model: Any, case: Case, **options: Any) -> Trace:
    settings = {
        "window": WINDOW, "neuron_layer": NEURON_LAYER, "tokens": case.tokens, "direction": case.direction,
        "kinds": tuple(TRACED), **options,
    }  # fmt: skip
    if "neurons" not in settings["kinds"]:
        settings["neuron_layer"] = None
    return run_cells(model, case.setup(model), plan_cells(model, **settings))


class Textbook:
    """All cells of a case, each when it is asked for."""

    def __init__(self, model: Any, case: Case) -> None:
        setup = case.setup(model)
        (asked,) = setup.questions
        clean, corrupted = setup.clean(asked.question), setup.corrupted(asked.question)
        answer = setup.encoded.ids[-1:].tolist()
        subject = setup.corrupted_subject
        sides = [
            [cell_loop.Prompt(clean.ids[0].tolist() + answer)] * setup.samples,
            [
                cell_loop.Prompt(ids.tolist() + answer)
                if subject is None
                else cell_loop.Prompt(ids.tolist() + answer, subject.values[row], subject.tokens)
                for row, ids in enumerate(corrupted.ids)
            ],
        ]
        source, base = sides if case.direction == "denoising" else sides[::-1]
        self.model, self.n_prompt, self.base = model, setup.encoded.n_prompt, base
        runs = [[cell_loop.states(model, prompt) for prompt in side] for side in (source, base)]
        self.states = list(zip(*runs, strict=True))

    def cell(self, kind: str, tokens: Sequence[int], layer: int, index: int | None) -> list[float]:
        """One number a sample."""
        return [
            cell_loop.cell(
                self.model, source, base, own, kind=kind, tokens=tokens, layer=layer, index=index,
                n_prompt=self.n_prompt, width=WINDOW,
            )
            for base, (source, own) in zip(self.base, self.states, strict=True)
        ]  # fmt: skip


def places(trace: Trace) -> list[list[int]]:
    named = trace.settings["tokens"]
    if named is None:
        return [[token] for token in range(trace.data.sizes["token"])]
    return [named[name] for name in trace.data["token_str"].values]


def some_cells(trace: Trace, kind: str, count: int, chance: random.Random) -> list[tuple[int, ...]]:
    """The last one, and others by chance."""
    every = list(np.ndindex(trace.data[kind].shape[1:]))
    return [every.pop(), *chance.sample(every, min(count - 1, len(every)))]


def check(model: Any, case: Case, dtype: torch.dtype, *, count: int) -> None:
    """All cells of both engines agree, and some of every kind are those of the textbook."""
    resumed, whole = (traced(model, case, engine=engine) for engine in ("resume", "whole"))
    textbook, chance = Textbook(model, case), random.Random(0)
    for kind in TRACED:
        values = whole.data[kind].values
        near = TOLERANCE[dtype] * float(np.abs(values).max())
        np.testing.assert_allclose(resumed.data[kind].values, values, rtol=0, atol=near)
        assert np.ptp(values) > 1e-4
        for at in some_cells(whole, kind, count, chance):
            token, *rest = at
            layer = NEURON_LAYER if kind == "neurons" else rest.pop(0)
            wanted = textbook.cell(kind, places(whole)[token], layer, rest[0] if rest else None)
            found = values[(slice(None), *at)]
            np.testing.assert_allclose(found, wanted, rtol=0, atol=near, err_msg=f"{kind} {at}")
