"""What is measured in the experiment, part by part."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import mechstyle as ms
from mechstyle.tracing.embedding_changes import CorruptTokens, SwapWords
from mechstyle.tracing.embedding_removal import ErasePredictor, RemoveDirection
from mechstyle.tracing.embeddings import changed_embeddings, embedding_effects
from mechstyle.tracing.relatedness import relatedness
from mechstyle.tracing.saliency import saliency
from mechstyle.tracing.subject_variants import subject_variants

sys.path.insert(0, str(Path(__file__).parents[1]))

from on_organism import Row, known_requests

FIRST, LAST = "first subject token", "last subject token"
AFTER, END = "first subsequent token", "last prompt token"
SWAP = SwapWords(FIRST, LAST)


def statement(fact: Any, template: str) -> ms.Fact:
    return ms.Fact(template, fact.subject, f" {fact.object}", fact.relation)


def saliencies(model: Any, facts: list[ms.Fact], steps: int) -> list[Row]:
    """Shares of the subject's saliency at its first and last token, as they stand and swapped.

    The baseline has a mean subject and is the prompt itself elsewhere.
    """
    rows: list[Row] = []
    for number, fact in enumerate(facts):
        nobody = changed_embeddings(model, fact, CorruptTokens(corruption=ms.MeanAblation()))
        for order, given in (("as it stands", None), ("swapped", changed_embeddings(model, fact, SWAP))):
            data = saliency(model, fact, baseline=nobody, steps=steps, embeddings=given).data
            roles = [str(role) for role in data["role"].values]
            scores = np.abs(data["score"][0].values)
            shares = {name: float(scores[roles.index(name)] / scores.sum()) for name in (FIRST, LAST)}
            rows.append({"fact": number, "order": order, **shares, "gap": float(data["gap"][0])})
    return rows


def two_or_more(model: Any, fact: ms.Fact) -> bool:
    return FIRST in saliency(model, fact, method="gradient_x_input").data["role"].values


def parts(model: Any, config: Mapping[str, Any]) -> dict[str, Callable[[], Any]]:
    """What is measured, each part to be kept."""
    name, seed = config["model"], config["seed"]
    facts = [one.fact for one in known_requests(model, name, config["n"], seed=seed, neighbours=0)]
    several = [fact for fact in facts if two_or_more(model, fact)]
    taught = ms.organisms.facts(name)
    everything = [statement(fact, fact.taught[0]) for fact in taught]
    foreign = [statement(fact, fact.held_out[0]) for fact in taught if fact.held_out]
    foreign = random.Random(seed).sample(foreign, config["n_related"])
    noise = {
        role: CorruptTokens(role) for role in (FIRST, LAST, "first subsequent token", "last prompt token")
    }
    swaps = {
        "swap first and last": SWAP,
        "noise on the last": CorruptTokens(LAST),
        "swap, then noise on the last": (SWAP, CorruptTokens(LAST)),
        "swap last and end of prompt": SwapWords(LAST, END),
    }
    removals = {
        "the object's embedding": RemoveDirection("embedding"),
        "the object's unembedding": RemoveDirection("unembedding"),
        "what predicts the object": ErasePredictor.fit(model, everything),
        "the same, objects shuffled": ErasePredictor.fit(model, everything, shuffle=seed),
    }
    how = {"samples": config["samples"], "seed": seed}
    return {
        "noise": lambda: embedding_effects(model, several, noise, **how).to_dict("records"),
        "swaps": lambda: embedding_effects(model, several, swaps, **how).to_dict("records"),
        "removals": lambda: embedding_effects(model, facts, removals, read_mlps=True, **how).to_dict(
            "records"
        ),
        "predictors": lambda: removals["what predicts the object"].record()["relations"],
        "variants": lambda: subject_variants(model, facts, seed=seed).to_dict("records"),
        "related": lambda: relatedness(model, foreign).to_dict("records"),
        "saliency": lambda: saliencies(model, several[: config["n_saliency"]], config["steps"]),
    }
