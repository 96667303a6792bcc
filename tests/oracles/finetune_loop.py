"""Textbook fine-tuning: a copy of the model, torch's Adam on its own parameters, one prompt at a time.

Shares nothing with the library but the model, so that the library can be checked against it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Prompt:
    """A prompt and the continuation that is wanted; a text has no prompt but its first token."""

    prompt: str
    target: str = ""


def tokens(model: Any, one: Prompt, bos: bool) -> tuple[list[int], int]:
    """Ids, and where the predicted tokens begin."""
    encoding = model.tokenizer(one.prompt + one.target, add_special_tokens=False, return_offsets_mapping=True)
    first = [model.tokenizer.bos_token_id] if bos else []
    if not one.target:
        return first + encoding["input_ids"], 1
    before = sum(1 for _, end in encoding["offset_mapping"] if end <= len(one.prompt))
    return first + encoding["input_ids"], len(first) + before


def logprobs(model: Any, ids: list[int]) -> Tensor:
    """[pos, vocab] of one unpadded sequence."""
    found = model(torch.tensor([ids]), return_type="logits", prepend_bos=False)
    return torch.log_softmax(found[0].double(), dim=-1)


def answer_loss(model: Any, one: Prompt, bos: bool, published: bool) -> tuple[Tensor, bool]:
    """Mean over the target's tokens of -log P, and whether each is the best one after those before it."""
    ids, first = tokens(model, one, bos)
    found = logprobs(model, ids)
    loss, known = torch.zeros((), dtype=torch.float64), True
    for place in range(first, len(ids)):
        read_at = first - 1 if published else place - 1
        loss = loss - found[read_at, ids[place]] / (len(ids) - first)
        known = known and int(found[place - 1].argmax()) == ids[place]
    return loss, known


def divergence(model: Any, original: Any, one: Prompt, bos: bool) -> Tensor:
    """Mean over predicted tokens of KL(original ‖ now)."""
    ids, first = tokens(model, one, bos)
    now = logprobs(model, ids)
    with torch.no_grad():
        was = logprobs(original, ids)
    at = range(first - 1, len(ids) - 1)
    return sum(((was[i].exp() * (was[i] - now[i])).sum() for i in at), torch.zeros(())) / len(at)


@dataclass
class Loop:
    """What the loop found; gradients before each update."""

    weights: dict[str, Tensor]
    losses: list[float]
    totals: list[float]
    gradients: list[dict[str, Tensor]]
    known: list[bool]


def finetune_loop(
    model: Any,
    prompts: list[Prompt],
    names: list[str],
    *,
    kept: list[Prompt] | None = None,
    steps: int,
    lr: float = 5e-4,
    weight_decay: float = 0.0,
    early_stop: float = 0.0,
    constraint: float | None = None,
    kl_factor: float = 0.0,
    data_factor: float = 0.0,
    published: bool = False,
    bos: bool = False,
) -> Loop:
    """Train the named parameters of a copy and return them."""
    trained = copy.deepcopy(model)
    for name, weight in trained.named_parameters():
        weight.requires_grad_(name in names)
    own = {name: weight for name, weight in trained.named_parameters() if name in names}
    before = {name: weight.detach().clone() for name, weight in own.items()}
    optimiser = torch.optim.Adam(list(own.values()), lr=lr, weight_decay=weight_decay)
    out = Loop({}, [], [], [], [])
    for _ in range(steps):
        optimiser.zero_grad()
        answers = [answer_loss(trained, one, bos, published) for one in prompts]
        loss = torch.stack([one for one, _ in answers]).mean()
        total = loss
        for one in kept or []:
            if kl_factor:
                total = total + kl_factor * divergence(trained, model, one, bos) / len(kept or [])
            if data_factor:
                total = total + data_factor * answer_loss(trained, one, bos, False)[0] / len(kept or [])
        out.losses.append(loss.item())
        out.totals.append(total.item())
        out.known.append(all(known for _, known in answers))
        total.backward()
        out.gradients.append({name: weight.grad.clone() for name, weight in own.items()})
        if loss.item() < early_stop:
            break
        optimiser.step()
        if constraint is not None:
            with torch.no_grad():
                for name, weight in own.items():
                    change = weight - before[name]
                    change[change > constraint] = constraint
                    change[change < -constraint] = -constraint
                    weight.copy_(before[name] + change)
    out.weights = {name: weight.detach().clone() for name, weight in own.items()}
    return out
