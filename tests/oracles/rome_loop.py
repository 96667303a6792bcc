"""Textbook ROME: one context at a time, whole runs, Adam and inverses written out. Slow on purpose.

Shares nothing with the library but the model, so that the library can be checked against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Sentence:
    """Token ids, where the target begins, and the subject's last token."""

    ids: list[int]
    n_prompt: int
    subject_last: int


def sentence(model: Any, context: str, template: str, subject: str, target: str, bos: bool) -> Sentence:
    """Tokenise prompt and target at once; find the subject's last token by character offsets."""
    head = context[: context.index("{}")] + template[: template.index("{}")]
    prompt = head + subject + template[template.index("{}") + 2 :] + context[context.index("{}") + 2 :]
    encoding = model.tokenizer(prompt + target, add_special_tokens=False, return_offsets_mapping=True)
    last = max(i for i, (start, _) in enumerate(encoding["offset_mapping"]) if start < len(head + subject))
    n_prompt = sum(1 for _, end in encoding["offset_mapping"] if end <= len(prompt))
    first = [model.tokenizer.bos_token_id] if bos else []
    return Sentence(first + encoding["input_ids"], n_prompt + len(first), last + len(first))


def run(model: Any, one: Sentence, layer: int, delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities [pos, vocab], key and MLP output (before delta) at the subject's last token."""
    seen: dict[str, Tensor] = {}

    def keep_key(state: Tensor, hook: Any) -> None:
        seen["key"] = state[0, one.subject_last].detach().clone()

    def add(state: Tensor, hook: Any) -> Tensor:
        seen["out"] = state[0, one.subject_last].detach().clone()
        changed = state.clone()
        changed[0, one.subject_last] = changed[0, one.subject_last] + delta
        return changed

    hooks = [(f"blocks.{layer}.mlp.hook_post", keep_key), (f"blocks.{layer}.hook_mlp_out", add)]
    ids = torch.tensor([one.ids])
    logits = model.run_with_hooks(ids, fwd_hooks=hooks, prepend_bos=False)
    return torch.log_softmax(logits[0], dim=-1), seen["key"], seen["out"]


def rome_loop(
    model: Any,
    *,
    template: str,
    subject: str,
    target: str,
    contexts: list[str],
    covariance: Tensor,
    layer: int,
    legacy: bool,
    bos: bool = False,
    steps: int = 5,
    lr: float = 0.5,
    weight_decay: float = 0.5,
    kl_factor: float = 0.0625,
    clamp_norm: float = 4.0,
    kl_at_end: bool = False,
) -> tuple[Tensor, Tensor, list[float]]:
    """Return the change of W_out [d_mlp, d_model], delta, and losses. ``contexts[0]`` must be ``"{}"``."""
    sentences = [sentence(model, context, template, subject, target, bos) for context in contexts]
    own = sentence(model, "{}", "{} is a", subject, "", bos)
    kl_at = len(own.ids) - 1 if kl_at_end else own.subject_last
    zero = torch.zeros(model.cfg.d_model, dtype=torch.float64)
    with torch.no_grad():
        original = run(model, own, layer, zero)[0][kl_at]
        bare = run(model, sentences[0], layer, zero)
        average_key = sum(run(model, one, layer, zero)[1] for one in sentences) / len(sentences)
    bare_key, bare_output = bare[1], bare[2]

    delta = zero.clone()
    moment, second, losses = torch.zeros_like(delta), torch.zeros_like(delta), []
    for step in range(1, steps + 1):
        delta = delta.detach().requires_grad_()
        loss = torch.zeros((), dtype=torch.float64)
        for one in sentences:
            logprobs = run(model, one, layer, delta)[0]
            answer = range(one.n_prompt, len(one.ids))
            loss = loss - sum(logprobs[i - 1, one.ids[i]] for i in answer) / len(answer) / len(sentences)
        now = run(model, own, layer, delta)[0][kl_at]
        loss = loss + kl_factor * (now.exp() * (now - original)).sum()
        if step > 1:  # at zero the norm has no gradient
            loss = loss + weight_decay * (delta**2).sum().sqrt() / (bare_output**2).sum()
        losses.append(loss.item())
        if step == steps:
            break
        (gradient,) = torch.autograd.grad(loss, delta)
        moment = 0.9 * moment + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        with torch.no_grad():
            rate = (second / (1 - 0.999**step)).sqrt() + 1e-8
            delta = delta - lr * (moment / (1 - 0.9**step)) / rate
            largest = clamp_norm * (bare_output**2).sum().sqrt()
            norm = (delta**2).sum().sqrt()
            delta = delta * largest / norm if norm > largest else delta
    delta = delta.detach()

    direction = torch.linalg.inv(covariance) @ average_key
    read = bare_key if legacy else average_key
    return torch.outer(direction / (read @ direction), delta), delta, losses
