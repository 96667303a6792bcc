"""Calls of the tracing functions, for the table of calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from mechstyle.editing.targets import TargetOptions
from mechstyle.facts import EditRequest, Fact
from mechstyle.study.editability import localisation_vs_editability
from mechstyle.tokens import encode_fact
from mechstyle.tracing import GaussianNoise, Trace, causal_trace
from mechstyle.tracing.attribution import attribution_patching
from mechstyle.tracing.compare_prompts import compare_prompts
from mechstyle.tracing.corruption import UniformNoise
from mechstyle.tracing.embedding_changes import CorruptTokens, SwapWords
from mechstyle.tracing.embedding_removal import ErasePredictor, RemoveDirection, object_directions
from mechstyle.tracing.embeddings import changed_embeddings, embedding_effects
from mechstyle.tracing.kinds import KINDS
from mechstyle.tracing.logit_lens import logit_lens
from mechstyle.tracing.patching import activation_patching
from mechstyle.tracing.path_ends import Receiver
from mechstyle.tracing.path_patching import path_patching
from mechstyle.tracing.relatedness import relatedness
from mechstyle.tracing.replacement import MeanAblation, TokenReplacement
from mechstyle.tracing.saliency import saliency
from mechstyle.tracing.setup import prepare_fact, prepare_prompts
from mechstyle.tracing.subject_variants import subject_variants
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
RECEIVERS: Final = (Receiver(1, "q", head=2), Receiver(1, "v", head=1), Receiver(1, "mlp"))
CHANGES: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "swap": SwapWords("first subject token", "last subject token"),
        "noise": CorruptTokens("last subject token"),
        "direction": RemoveDirection("unembedding"),
    }
)
TRACING_ROOMS: Final = (
    "mechstyle.tracing.attribution",
    "mechstyle.tracing.compare_prompts",
    "mechstyle.tracing.corruption",
    "mechstyle.tracing.embedding_removal",
    "mechstyle.tracing.embeddings",
    "mechstyle.tracing.logit_lens",
    "mechstyle.tracing.patching",
    "mechstyle.tracing.path_patching",
    "mechstyle.tracing.relatedness",
    "mechstyle.tracing.replacement",
    "mechstyle.tracing.saliency",
    "mechstyle.tracing.setup",
    "mechstyle.tracing.subject_variants",
    "mechstyle.tracing.trace_facts",
)


def _corrupted(model: Any, corruption: Any) -> object:
    return corruption.embeddings(model, FACT, encode_fact(model, FACT), samples=2, seed=0)


def _edited_everywhere(model: Any) -> object:
    requests = [EditRequest(fact, " of London") for fact in FACTS[:2]]
    traces = [causal_trace(model, one.fact, kinds=("mlp", "resid"), samples=2) for one in requests]
    return localisation_vs_editability(
        model,
        requests,
        covariance=dict.fromkeys((0, 1), torch.eye(model.cfg.d_mlp, dtype=torch.float64)),
        traces=[_as_known(trace) for trace in traces],
        contexts=("{}",),
        target_options=TargetOptions(steps=2),
    )


def _as_known(trace: Trace) -> Trace:
    """A random model knows no fact."""
    record = trace.provenance
    record["settings"]["knows"] = True
    return Trace(trace.data.assign_attrs(provenance=json.dumps(record)))


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
        "ErasePredictor.fit": lambda model, folder: ErasePredictor.fit(model, FACTS),
        "activation_patching": lambda model, folder: activation_patching(
            model, FACT, OTHER, kinds=tuple(KINDS), neuron_layer=1, direction="noising"
        ),
        "activation_patching of whole runs": lambda model, folder: activation_patching(
            model, FACT, OTHER, tokens={"subject": [3, 4]}, engine="whole", metric="neg_kl"
        ),
        "attribution_patching": lambda model, folder: attribution_patching(
            model, FACT, kinds=("resid", "mlp", "heads", "pattern", "severed_attn"), samples=2, check=3
        ),
        "attribution_patching of two prompts": lambda model, folder: attribution_patching(
            model, FACT, OTHER, method="integrated", steps=2, direction="noising", check=2
        ),
        "causal_trace of all kinds": lambda model, folder: causal_trace(
            model, FACT, kinds=tuple(KINDS), neuron_layer=1, samples=2, corruption=UniformNoise(width=0.5)
        ),
        "causal_trace of sets": lambda model, folder: causal_trace(
            model,
            FACT,
            kinds=("heads", "severed_mlp"),
            tokens={"all": [3, 4]},
            corruption=SOMEBODY_ELSE,
            answer=Contrast(" trumpet too", " piano"),
            metric="logprob",
            engine="whole",
        ),
        "changed_embeddings": lambda model, folder: changed_embeddings(model, FACT, CHANGES["swap"]),
        "compare_prompts": lambda model, folder: compare_prompts(
            _many(model, None, 5), model=model, permutations=20, resamples=20
        ),
        "embedding_effects": lambda model, folder: embedding_effects(
            model, FACTS[:2], CHANGES, samples=2, read_mlps=True
        ),
        "localisation_vs_editability": lambda model, folder: _edited_everywhere(model),
        "logit_lens": lambda model, folder: logit_lens(model, FACT, states=("resid", "mlp", "attn")),
        "object_directions": lambda model, folder: object_directions(model, [3, 17], "unembedding"),
        "path_patching": lambda model, folder: path_patching(model, FACT, OTHER, receivers=RECEIVERS),
        "path_patching of whole runs": lambda model, folder: path_patching(
            model, FACT, OTHER, receivers=[Receiver(None, "logits")], direction="noising", engine="whole"
        ),
        "prepare_fact": lambda model, folder: prepare_fact(model, FACT, answer="predicted"),
        "prepare_prompts": lambda model, folder: prepare_prompts(model, FACT, OTHER, answer="predicted"),
        "relatedness": lambda model, folder: relatedness(model, FACTS),
        "saliency": lambda model, folder: saliency(model, FACT, steps=3),
        "saliency of a contrast": lambda model, folder: saliency(
            model, OTHER, answer=Contrast(" trumpet too", " piano"), method="gradient_x_input"
        ),
        "subject_variants": lambda model, folder: subject_variants(model, FACTS[:3]),
        "trace_facts": lambda model, folder: _many(model, folder, 2),
    }
)
TRACING_BACKWARD: Final = ("attribution_patching", "localisation_vs_editability", "saliency")
TRACING_INSTANT: Final = frozenset(
    {"ErasePredictor.fit", "changed_embeddings", "object_directions"}
    | {name for name in TRACING_CALLS if name.endswith(".embeddings")}
)
