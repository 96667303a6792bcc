"""Scores of answers as slowly and plainly as can be: one prompt at a time on the Hugging Face model.

No batch, no padding, no hooks, no offsets: each answer token is looked up in a softmax of its own run, in
float64. It shares no code with `mechstyle.evaluation`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Answer:
    logps: list[float]
    exact: bool

    @property
    def mean(self) -> float:
        return sum(self.logps) / len(self.logps)


def next_distribution(hf: GPT2LMHeadModel, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return torch.softmax(hf(torch.tensor([ids])).logits[0, -1].double(), dim=-1)


def answer(
    hf: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, prompt: str, target: str, *, bos: bool = False
) -> Answer:
    """Log-probability of each token of the target, and whether each is the most probable one."""
    start = [tokenizer.bos_token_id] if bos else []
    ids = start + tokenizer(prompt)["input_ids"]
    whole = start + tokenizer(prompt + target)["input_ids"]
    assert whole[: len(ids)] == ids, "choose a target that begins its own token"
    logps, exact = [], True
    for token in whole[len(ids) :]:
        probabilities = next_distribution(hf, ids)
        logps.append(math.log(float(probabilities[token])))
        exact = exact and int(probabilities.argmax()) == token
        ids = [*ids, token]
    return Answer(logps, exact)


def perplexity(hf: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, texts: list[str], cut: int) -> float:
    """Exponential of the mean surprise over all tokens but each text's first."""
    surprises = []
    for text in texts:
        ids = tokenizer(text)["input_ids"][:cut]
        for position in range(1, len(ids)):
            surprises.append(-math.log(float(next_distribution(hf, ids[:position])[ids[position]])))
    return math.exp(sum(surprises) / len(surprises))


def greedy(hf: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, prompt: str, n_tokens: int) -> str:
    """The most probable token, again and again, until the end-of-text token."""
    ids, written = tokenizer(prompt)["input_ids"], []
    for _ in range(n_tokens):
        token = int(next_distribution(hf, ids + written).argmax())
        if token == tokenizer.eos_token_id:
            break
        written.append(token)
    return str(tokenizer.decode(written))
