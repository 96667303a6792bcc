"""Calls of the tracing functions, for the table of calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from mechstyle.facts import Fact
from mechstyle.tokens import encode_fact
from mechstyle.tracing import GaussianNoise, causal_trace
from mechstyle.tracing.compare_prompts import compare_prompts
from mechstyle.tracing.corruption import UniformNoise
from mechstyle.tracing.logit_lens import logit_lens
from mechstyle.tracing.replacement import MeanAblation, TokenReplacement
from mechstyle.tracing.saliency import saliency
from mechstyle.tracing.setup import prepare_fact, prepare_prompts
from mechstyle.tracing.targets import Contrast
from mechstyle.tracing.trace_facts import trace_facts

__all__ = ["TRACING_BACKWARD", "TRACING_CALLS", "TRACING_INSTANT", "TRACING_ROOMS"]

Call = Callable[[Any, Path], object]

FACT: Final = Fact("The instrument of {} is the", "Miles Davis", " trumpet")
OTHER: Final = "The instrument of Bill Evans is the"
FACTS: Final = (
    FACT, Fact("{} plays the", "Chet Baker", " trumpet"), Fact("{} plays the", "Bill Evans", " piano"),
    Fact("{} is the capital of", "Paris", " France"), Fact("{} is the capital of", "Rome", " Italy"),
)  # fmt: skip
SOMEBODY_ELSE: Final = TokenReplacement(["Bill Evans"])
TRACING_ROOMS: Final = (
    "mechstyle.tracing.compare_prompts",
    "mechstyle.tracing.corruption",
    "mechstyle.tracing.logit_lens",
    "mechstyle.tracing.replacement",
    "mechstyle.tracing.saliency",
    "mechstyle.tracing.setup",
    "mechstyle.tracing.trace_facts",
)


def _corrupted(model: Any, corruption: Any) -> object:
    return corruption.embeddings(model, FACT, encode_fact(model, FACT), samples=2, seed=0)


def _many(model: Any, folder: Path | None, count: int) -> Any:
    tracer: Any = partial(causal_trace, kinds=("mlp",), samples=2)
    place = None if folder is None else folder / str(len(list(folder.iterdir())))
    return trace_facts(model, FACTS[:count], tracer=tracer, skip_unknown=False, folder=place)


TRACING_CALLS: Final[Mapping[str, Call]] = MappingProxyType(
    {
        "GaussianNoise.embeddings": lambda model, folder: _corrupted(model, GaussianNoise()),
        "MeanAblation.embeddings": lambda model, folder: _corrupted(model, MeanAblation()),
        "TokenReplacement.embeddings": lambda model, folder: _corrupted(
            model, TokenReplacement(["Bill Evans"])
        ),
        "UniformNoise.embeddings": lambda model, folder: _corrupted(model, UniformNoise(replace=True)),
        "compare_prompts": lambda model, folder: compare_prompts(
            _many(model, None, 5), model=model, permutations=20, resamples=20
        ),
        "logit_lens": lambda model, folder: logit_lens(model, FACT, states=("resid", "mlp", "attn")),
        "prepare_fact": lambda model, folder: prepare_fact(model, FACT, answer="predicted"),
        "prepare_prompts": lambda model, folder: prepare_prompts(model, FACT, OTHER, answer="predicted"),
        "saliency": lambda model, folder: saliency(model, FACT, steps=3),
        "saliency of a contrast": lambda model, folder: saliency(
            model, OTHER, answer=Contrast(" trumpet too", " piano"), method="gradient_x_input"
        ),
        "trace_facts": lambda model, folder: _many(model, folder, 2),
    }
)
TRACING_BACKWARD: Final = ("saliency",)
TRACING_INSTANT: Final = frozenset(name for name in TRACING_CALLS if name.endswith(".embeddings"))
