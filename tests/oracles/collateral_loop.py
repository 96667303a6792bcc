"""What an edit does to the rest, slowly and plainly: one token at a time on the Hugging Face model.

No batch, no padding, no hooks: sums over single tokens in float64, by Python's own arithmetic. It shares no
code with `mechstyle.evaluation`.
"""

from __future__ import annotations

import math

import torch
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast


def next_probabilities(hf: GPT2LMHeadModel, ids: list[int]) -> list[float]:
    with torch.no_grad():
        found: list[float] = torch.softmax(hf(torch.tensor([ids])).logits[0, -1].double(), dim=-1).tolist()
    return found


def surprises(
    hf: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerFast,
    text: str,
    *,
    context: str = "",
    bos: bool = False,
) -> list[float]:
    """-log P of each of the text's tokens but the first, whatever stands in front of it; with BOS of all."""
    start = [tokenizer.bos_token_id] if bos else []
    front, own = start + (tokenizer(context)["input_ids"] if context else []), tokenizer(text)["input_ids"]
    found = []
    for position in range(0 if bos else 1, len(own)):
        found.append(-math.log(next_probabilities(hf, front + own[:position])[own[position]]))
    return found


def divergence(p: list[float], q: list[float]) -> float:
    """sum of p log(p / q), in nats."""
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def choice_logps(
    hf: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, prompt: str, choice: str
) -> list[float]:
    """log P of each token of a choice after its prompt."""
    ids = tokenizer(prompt)["input_ids"]
    whole = tokenizer(prompt + choice)["input_ids"]
    assert whole[: len(ids)] == ids, "choose one that begins its own token"
    return [
        math.log(next_probabilities(hf, whole[:position])[whole[position]])
        for position in range(len(ids), len(whole))
    ]


def rolling_logp(hf: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, text: str, *, room: int) -> float:
    """log P of all of a text's tokens, each after as much before it as the windows of `room` tokens leave.

    A window holds the token before its first prediction and predicts `room` tokens; the last window reaches
    back as far as it can. Before the text stands BOS.
    """
    own = tokenizer(text)["input_ids"]
    whole, total = [tokenizer.bos_token_id, *own], 0.0
    for place in range(1, len(whole)):
        begin = (place - 1) // room * room
        if begin and begin + room >= len(own):
            begin = len(own) - room
        total += math.log(next_probabilities(hf, whole[begin:place])[whole[place]])
    return total
