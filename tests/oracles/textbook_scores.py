"""Scores of requests one by one: each prompt with each target is a run of its own, of the whole model.

The benchmark's baseline. No batch and no padding; everything else is as plain hooks allow.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformer_lens import HookedTransformer

from mechstyle.facts import EditRequest

__all__ = ["mean_logprob", "score_requests"]


def score_requests(model: HookedTransformer, requests: Sequence[EditRequest]) -> list[tuple[float, float]]:
    """Mean log-probability of the new and of the true target after every prompt of every request."""
    found = []
    for request in requests:
        prompts = [(request.fact.prompt, request.fact.target)]
        prompts += [(prompt, request.fact.target) for prompt in request.paraphrases]
        prompts += request.neighborhood
        for prompt, true in prompts:
            found.append((mean_logprob(model, prompt, request.new_target), mean_logprob(model, prompt, true)))
    return found


def mean_logprob(model: HookedTransformer, prompt: str, target: str) -> float:
    """Of a target's tokens, teacher-forced, in one run."""
    ids = model.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    whole = model.tokenizer(prompt + target, add_special_tokens=False)["input_ids"]
    assert whole[: len(ids)] == ids, "choose a target that begins its own token"
    tokens = torch.tensor([whole], device=model.cfg.device)
    with torch.no_grad():
        logp = model(tokens, prepend_bos=False).log_softmax(-1)
    places = torch.arange(len(ids) - 1, len(whole) - 1, device=logp.device)
    return float(logp[0, places, tokens[0, len(ids) :]].mean())
