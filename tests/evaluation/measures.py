"""What tests of measures share: requests, questions, edits with known effects, two stages of a measure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from transformer_lens import HookedTransformer

from mechstyle.cases import Case, Question
from mechstyle.editing.edit import EditSet, WeightEdit
from mechstyle.evaluation.edits import AnyEdit
from mechstyle.evaluation.measure import Conditions, Measure
from mechstyle.facts import EditRequest, Fact
from mechstyle.models import fingerprint

NAME = "blocks.1.mlp.W_out"
MILES = EditRequest(
    Fact("{} plays the", "Miles Davis", " trumpet", "plays"),
    " guitar",
    ("The instrument of Miles Davis is the",),
    (("Chet Baker plays the", " trumpet"),),
)
PARIS = EditRequest(Fact("{} is the capital of", "Paris", " France", "capital"), " Italy")
NEAR = Question("place", "near", "Rome is the capital of", (" Italy",), (" France",))
REVERSE = Question("reversal", "hard in", "The guitar is played by", (" Miles Davis",), (" Chet Baker",))
CASES = (Case(MILES, "m", (REVERSE, NEAR)), Case(PARIS, "p", (NEAR,)))


def unigram(model: HookedTransformer, counts: dict[str, float]) -> HookedTransformer:
    """Turn a model into one that ignores its prompt: P(token) is its count over the sum (others count 1)."""
    with torch.no_grad():
        model.ln_final.w.zero_()
        model.ln_final.b.zero_()
        model.ln_final.b[0] = 1.0
        model.unembed.W_U.zero_()
        model.unembed.b_U.zero_()
        model.unembed.W_U[0] = log_counts(model, counts)
    return model


def log_counts(model: HookedTransformer, counts: dict[str, float]) -> torch.Tensor:
    logs = torch.zeros(model.cfg.d_vocab)
    for text, count in counts.items():
        (token,) = model.tokenizer(text)["input_ids"]
        logs[token] = math.log(count)
    return logs


def unigram_edit(model: HookedTransformer, factors: dict[str, float], *requests: EditRequest) -> EditSet:
    """An edit of a unigram model that multiplies counts."""
    left = torch.zeros(model.cfg.d_model, 1)
    left[0] = 1.0
    right = log_counts(model, factors)[None]
    return EditSet((WeightEdit("unembed.W_U", left, right),), fingerprint(model), requests=requests)


def random_edit(model: HookedTransformer, seed: int, size: float = 0.3) -> EditSet:
    generator = torch.Generator().manual_seed(seed)
    d_mlp, d_model = dict(model.named_parameters())[NAME].shape
    left = torch.randn(d_mlp, 1, generator=generator, dtype=torch.float64)
    right = torch.randn(1, d_model, generator=generator, dtype=torch.float64)
    return EditSet((WeightEdit(NAME, left, size * right),), fingerprint(model), {"settings": {"seed": seed}})


def stages(
    model: Any,
    measure: Measure,
    edit: AnyEdit,
    cases: Sequence[Case] = CASES,
    conditions: Conditions = Conditions(prepend_bos=False),  # noqa: B008
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of a measure before an edit and under it."""
    read = measure.prepare(model, cases, conditions)
    everything = range(len(cases))
    before = read(None, everything)
    with edit.applied(model):
        after = read(edit, everything)
    return before, after
