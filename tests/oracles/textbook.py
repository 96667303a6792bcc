"""Tracing, one target and second moments in the textbook form, as good as plain hooks allow.

Whole sequences through the whole model, again for every cell, step and layer, but in batches and with only
the needed positions unembedded. The tests prove the library equal to these loops, `benchmarks/` measures it
against them. They share nothing with the library but the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

STATE = {
    "resid": "blocks.{}.hook_resid_post",
    "mlp": "blocks.{}.hook_mlp_out",
    "attn": "blocks.{}.hook_attn_out",
    "heads": "blocks.{}.attn.hook_z",
}
Hooks = list[tuple[str, Callable[..., Any]]]


@dataclass(frozen=True)
class Row:
    """Token ids of a prompt with its answer, where the answer begins, and the subject's last token."""

    ids: list[int]
    n_prompt: int
    subject_last: int


def answer_logprobs(model: Any, ids: Tensor, n_prompt: int, hooks: Hooks) -> Tensor:
    """Log-probability of the answer in each row; nothing reads the last answer token, so it is not run."""
    top = model.cfg.n_layers
    final = model.run_with_hooks(ids[:, :-1], return_type=None, stop_at_layer=top, fwd_hooks=hooks)
    scores = model(final[:, n_prompt - 1 :], start_at_layer=top).log_softmax(-1)
    return scores.gather(-1, ids[:, n_prompt:, None])[..., 0].sum(-1)


def trace(
    model: Any,
    ids: Sequence[int],
    *,
    n_prompt: int,
    subject: range,
    draws: Tensor,
    kind: str,
    width: int = 1,
    tokens_at_once: int = 1,
    parts: Sequence[Any] = (slice(None),),
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities: clean [], corrupted [sample], with one state restored [sample, token, layer, part].

    ``width`` layers around a cell's own are restored, of the state some part: all of it, or one head at a
    time. A run serves all draws, and several tokens of one layer: more rows keep a processor busier, at the
    cost of memory.
    """
    n_layers = model.cfg.n_layers
    one = torch.tensor([list(ids)], device=draws.device)
    clean: dict[str, Tensor] = {}

    def keep(state: Tensor, hook: Any) -> None:
        clean[hook.name] = state.clone()

    def corrupt(state: Tensor, hook: Any) -> Tensor:
        state = state.clone()
        state[:, subject.start : subject.stop] += draws.repeat(len(state) // len(draws), 1, 1)
        return state

    def restore(at: Tensor, part: Any) -> Callable[..., Tensor]:
        def put_back(state: Tensor, hook: Any) -> Tensor:
            state[torch.arange(len(at)), at, part] = clean[hook.name][0, at, part]
            return state

        return put_back

    names = [STATE[kind].format(layer) for layer in range(n_layers)]
    windows = [names[max(0, at - width // 2) : at + (width + 1) // 2] for at in range(n_layers)]
    noise = ("hook_embed", corrupt)
    with torch.no_grad():
        clean_score = answer_logprobs(model, one, n_prompt, [(name, keep) for name in names])[0]
        corrupted = answer_logprobs(model, one.expand(len(draws), -1), n_prompt, [noise])
        restored = corrupted.new_empty(n_prompt, len(draws), n_layers, len(parts))
        for (layer, window), (index, part) in product(enumerate(windows), enumerate(parts)):
            for tokens in torch.arange(n_prompt, device=draws.device).split(tokens_at_once):
                at = tokens.repeat_interleave(len(draws))
                hooks = [noise, *((name, restore(at, part)) for name in window)]
                scores = answer_logprobs(model, one.expand(len(at), -1), n_prompt, hooks)
                restored[tokens, :, layer, index] = scores.reshape(len(tokens), len(draws))
    return clean_score, corrupted, restored.transpose(0, 1)


@dataclass(frozen=True)
class Target:
    """The change that was found, the state it is added to on the bare prompt, and the loss of each step."""

    delta: Tensor
    output: Tensor
    losses: list[float]


def target(
    model: Any,
    contexts: Sequence[Row],
    own: Row,
    *,
    layer: int,
    kind: str = "mlp",
    steps: int = 20,
    lr: float = 0.5,
    weight_decay: float = 0.5,
    kl_factor: float = 0.0625,
    clamp_norm: float = 4.0,
) -> Target:
    """Delta [d_model] for one request without early stop, added to the layer's state of this kind.

    All contexts and the KL prompt (``own``, read at the subject's last token) are one right-padded batch; the
    bare prompt is the first context. Only delta needs a gradient.
    """
    top, device = model.cfg.n_layers, model.cfg.device
    rows = [*contexts, own]
    longest = max(len(row.ids) for row in rows)
    tokens = torch.tensor([row.ids + [0] * (longest - len(row.ids)) for row in rows], device=device)
    every, subject = torch.arange(len(rows)), torch.tensor([row.subject_last for row in rows])
    wanted = [
        (i, j, row.ids[j + 1])
        for i, row in enumerate(contexts)
        for j in range(row.n_prompt - 1, len(row.ids) - 1)
    ]
    row_of, position, answer = torch.tensor([*wanted, (len(contexts), own.subject_last, 0)], device=device).T
    share = torch.tensor(
        [1 / (len(contexts) * (len(contexts[i].ids) - contexts[i].n_prompt)) for i, _, _ in wanted]
    )
    outputs: list[Tensor] = []

    def add_delta(state: Tensor, hook: Any) -> Tensor:
        outputs.append(state[0, contexts[0].subject_last].detach())
        return state.index_put((every, subject), delta.expand(len(rows), -1), accumulate=True)

    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    delta = torch.zeros(model.cfg.d_model, dtype=model.cfg.dtype, device=device, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=lr)
    original, losses = None, []
    for step in range(steps):
        final = model.run_with_hooks(
            tokens[:, :-1],  # the longest row ends in an answer that nothing reads
            return_type=None,
            stop_at_layer=top,
            fwd_hooks=[(STATE[kind].format(layer), add_delta)],
        )
        logprobs = model(final[row_of, position][:, None], start_at_layer=top)[:, 0].log_softmax(-1)
        original = logprobs[-1].detach() if original is None else original
        nll = -(logprobs[:-1].gather(-1, answer[:-1, None])[:, 0] * share.to(logprobs)).sum()
        kl = (logprobs[-1].exp() * (logprobs[-1] - original)).sum()
        loss = nll + kl_factor * kl + weight_decay * delta.norm() / outputs[0].norm() ** 2
        losses.append(loss.item())
        if step == steps - 1:
            break
        (delta.grad,) = torch.autograd.grad(loss, delta)
        optimiser.step()
        with torch.no_grad():
            delta *= (clamp_norm * outputs[0].norm() / delta.norm()).clamp(max=1)
    for weight in trained:
        weight.requires_grad_(True)
    return Target(delta.detach(), outputs[0], losses)


def second_moments(
    model: Any, documents: Iterable[Sequence[int]], *, layers: Sequence[int], batch_size: int = 16
) -> dict[int, Tensor]:
    """Mean of ``k kᵀ`` over all tokens, fp64, one pass over the texts for each layer.

    Right padding needs no mask: no real token sees it.
    """
    texts = [torch.tensor(list(ids)) for ids in documents]
    found: dict[int, Tensor] = {}
    for layer in layers:
        total = torch.zeros(model.cfg.d_mlp, model.cfg.d_mlp, dtype=torch.float64, device=model.cfg.device)
        for start in range(0, len(texts), batch_size):
            batch = texts[start : start + batch_size]
            tokens = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True).to(model.cfg.device)
            real = torch.arange(tokens.shape[1]) < torch.tensor([len(ids) for ids in batch])[:, None]
            kept: list[Tensor] = []

            def keep(state: Tensor, hook: Any, kept: list[Tensor] = kept) -> None:
                kept.append(state)

            with torch.no_grad():
                hooks: Hooks = [(f"blocks.{layer}.mlp.hook_post", keep)]
                model.run_with_hooks(tokens, return_type=None, fwd_hooks=hooks)
            keys = kept[0][real.to(tokens.device)]
            total += keys.T @ keys
        found[layer] = total / sum(len(ids) for ids in texts)
    return found
