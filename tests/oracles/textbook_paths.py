"""Path patching in the textbook form, as good as plain hooks allow: two runs for all senders of a layer.

A first run stops above the highest receiver, only the answer's positions are unembedded, and layers above the
receivers send nothing. It shares nothing with the library but the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tests.oracles.textbook import Hooks, answer_logprobs

End = tuple[str, int, int | None]
"""Kind, layer, head; the head is None where there is none."""
RECEIVED = {
    "q": "blocks.{}.attn.hook_q",
    "k": "blocks.{}.attn.hook_k",
    "v": "blocks.{}.attn.hook_v",
    "mlp": "blocks.{}.hook_mlp_out",
    "resid": "blocks.{}.hook_resid_post",
}


def path_patching(
    model: Any,
    clean: Sequence[int],
    corrupted: Sequence[int],
    receivers: Sequence[End],
    *,
    n_prompt: int,
    run_mlps: bool,
) -> tuple[Tensor, Tensor]:
    """Log-probability of the answer, clean outputs sent in the corrupted run: [layer, head] and [layer]."""
    cfg, heads = model.cfg, int(model.cfg.n_heads)
    source, base = (torch.tensor([list(ids)], device=cfg.device) for ids in (clean, corrupted))
    depth = max(layer for _, layer, _ in receivers)
    z, mlp = (
        [name.format(layer) for layer in range(depth + 1)]
        for name in ("blocks.{}.attn.hook_z", RECEIVED["mlp"])
    )
    there, here = (kept(model, ids[:, :-1], [*z, *mlp], depth) for ids in (source, base))
    with torch.no_grad():
        baseline = answer_logprobs(model, base, n_prompt, [])
        found = baseline.repeat(cfg.n_layers, heads + 1)
        for layer in range(depth + 1):
            # Rows: each head of the layer, and its MLP.
            rows = base.expand(heads + 1, -1)
            received: dict[End, Tensor] = {}
            hooks: Hooks = [(name, hold(here[name])) for name in z]
            hooks.append((z[layer], send_heads(there[z[layer]])))
            hooks += [(name, read(received, one)) for one in receivers for name in [place(one)]]
            hooks += [] if run_mlps else [(name, hold(here[name])) for name in mlp]
            hooks.append((mlp[layer], send_mlp(there[mlp[layer]])))
            model.run_with_hooks(rows[:, :-1], return_type=None, stop_at_layer=depth + 1, fwd_hooks=hooks)
            setting: Hooks = [(place(one), put(received[one], one[2])) for one in receivers]
            found[layer] = answer_logprobs(model, rows, n_prompt, setting)
    return found[:, :heads], found[:, heads]


def kept(model: Any, ids: Tensor, names: Sequence[str], depth: int) -> dict[str, Tensor]:
    """States of one run."""
    states: dict[str, Tensor] = {}

    def keep(state: Tensor, hook: Any) -> None:
        states[hook.name] = state.clone()

    with torch.no_grad():
        hooks = [(name, keep) for name in names]
        model.run_with_hooks(ids, return_type=None, stop_at_layer=depth + 1, fwd_hooks=hooks)
    return states


def place(receiver: End) -> str:
    """Hook name of a receiver; an MLP's output says as much as its input."""
    return RECEIVED[receiver[0]].format(receiver[1])


def hold(state: Tensor) -> Callable[..., Tensor]:
    """All rows stay as in the base run."""
    return lambda found, hook: state.expand_as(found).clone()


def send_heads(state: Tensor) -> Callable[..., None]:
    """Row ``i`` gets head ``i`` of the source run."""

    def send(found: Tensor, hook: Any) -> None:
        each = torch.arange(found.shape[2], device=found.device)
        found[each, :, each] = state[0].transpose(0, 1)

    return send


def send_mlp(state: Tensor) -> Callable[..., None]:
    """The last row gets the MLP's output of the source run."""

    def send(found: Tensor, hook: Any) -> None:
        found[-1] = state[0]

    return send


def read(received: dict[End, Tensor], receiver: End) -> Callable[..., None]:
    """Keep what a receiver gets."""

    def keep(found: Tensor, hook: Any) -> None:
        received[receiver] = found.clone()

    return keep


def put(state: Tensor, head: int | None) -> Callable[..., Tensor]:
    """Set what a receiver gets."""

    def change(found: Tensor, hook: Any) -> Tensor:
        if head is None:
            return state
        found[:, :, head] = state[:, :, head]
        return found

    return change
