"""Sampling, fluency, consistency and essence as slowly and plainly as can be, one token and word at a time.

It shares no code with `mechstyle.evaluation`.
"""

from __future__ import annotations

import math
import re

import torch
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast


def logits_after(hf: GPT2LMHeadModel, ids: list[int]) -> list[float]:
    with torch.no_grad():
        found: list[float] = hf(torch.tensor([ids])).logits[0, -1].double().tolist()
    return found


def chances(logits: list[float], top_k: int | None, temperature: float) -> dict[int, float]:
    """Token -> probability among those that may be drawn."""
    ranked = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    kept = sorted(ranked[:top_k])
    highest = max(logits)
    weights = {token: math.exp((logits[token] - highest) / temperature) for token in kept}
    total = math.fsum(weights.values())
    return {token: weight / total for token, weight in weights.items()}


def drawn(probabilities: dict[int, float], number: float) -> int:
    """The first token, by id, at which the probabilities so far exceed the number."""
    reached = 0.0
    for token in sorted(probabilities):
        reached += probabilities[token]
        if reached > number:
            return token
    return max(probabilities)


def sampled(
    hf: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerFast,
    ids: list[int],
    numbers: list[float],
    *,
    top_k: int | None = 5,
    temperature: float = 1.0,
    past_end: bool = False,
) -> list[int]:
    """New tokens, one for each number, until the end-of-text token."""
    written: list[int] = []
    for number in numbers:
        token = drawn(chances(logits_after(hf, ids + written), top_k, temperature), number)
        if token == tokenizer.eos_token_id and not past_end:
            break
        written.append(token)
    return written


def entropy(items: list[tuple[str, ...]]) -> float:
    """In bits, of the distribution of the items."""
    return -math.fsum(
        items.count(one) / len(items) * math.log(items.count(one) / len(items), 2) for one in set(items)
    )


def fluency(tokens: list[str]) -> float:
    """The mean of two weighted entropies, as in the published code."""
    pairs, triples = (
        [tuple(tokens[place : place + n]) for place in range(len(tokens)) if place + n <= len(tokens)]
        for n in (2, 3)
    )
    return (2 / 3 * entropy(pairs) + 4 / 3 * entropy(triples)) / 2


def cosine(first: str, second: str, documents: list[str]) -> float:
    """Of the two texts' tf-idf vectors."""

    def split(text: str) -> list[str]:
        return [word for word in re.split(r"\W+", text.lower()) if len(word) > 1]

    known = [set(split(document)) for document in documents]
    vocabulary = sorted(set().union(*known))

    def vector(text: str) -> list[float]:
        own = split(text)
        return [
            own.count(word) * (math.log((1 + len(known)) / (1 + sum(word in one for one in known))) + 1)
            for word in vocabulary
        ]

    one, other = vector(first), vector(second)
    lengths = math.hypot(*one) * math.hypot(*other)
    return math.fsum(a * b for a, b in zip(one, other, strict=True)) / lengths if lengths else 0.0


def surprise(hf: GPT2LMHeadModel, front: list[int], ids: list[int]) -> float:
    """Negative log-likelihood of ids behind other ids, in nats."""
    total = 0.0
    for place, token in enumerate(ids):
        total -= math.log(chances(logits_after(hf, front + ids[:place]), None, 1.0)[token])
    return total
