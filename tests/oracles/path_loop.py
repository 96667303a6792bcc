"""Path patching as slowly and plainly as can be: two passes a sender, whole sequences, own hooks.

Receivers' inputs are the residual streams that TransformerLens can give to each query, key, value and MLP
apart (`set_use_split_qkv_input`, `set_use_hook_mlp_in`). It shares no code with `mechstyle.tracing`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

End = tuple[str, int, int | None]
"""Kind, layer, head; the head is None where there is none."""
INPUTS = {"q": "hook_q_input", "k": "hook_k_input", "v": "hook_v_input", "mlp": "hook_mlp_in"}


def split(model: HookedTransformer) -> HookedTransformer:
    """A copy of the model in which every input can be changed alone."""
    model = copy.deepcopy(model)
    model.set_use_split_qkv_input(True)
    model.set_use_hook_mlp_in(True)
    return model


def run(
    model: HookedTransformer,
    ids: Tensor,
    edits: dict[str, Callable[[Tensor], None]],
    keep: Sequence[str] = (),
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits [pos, vocab] and copies of the states to keep as they were before they were edited."""
    states: dict[str, Tensor] = {}

    def visit(state: Tensor, hook: object) -> Tensor:
        name = hook.name  # type: ignore[attr-defined]
        states[name] = state.clone()
        state = state.clone()
        if name in edits:
            edits[name](state)
        return state

    hooks = [(name, visit) for name in dict.fromkeys([*edits, *keep])]
    with torch.no_grad():
        logits = model.run_with_hooks(ids, fwd_hooks=hooks, return_type="logits")
    return logits[0], states


def place(model: HookedTransformer, receiver: End) -> str:
    """Hook name of a receiver's input."""
    kind, layer, _ = receiver
    if kind == "logits":
        return f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    return f"blocks.{layer}.{'hook_resid_post' if kind == 'resid' else INPUTS[kind]}"


def outputs(model: HookedTransformer) -> list[str]:
    """Hook names of what heads and MLPs send."""
    return [
        f"blocks.{at}.{end}" for at in range(model.cfg.n_layers) for end in ("attn.hook_z", "hook_mlp_out")
    ]


def first_passes(
    model: HookedTransformer,
    base: Tensor,
    source: Tensor,
    senders: Sequence[End],
    keep: Sequence[str],
    *,
    positions: Sequence[int],
    run_mlps: bool,
) -> list[dict[str, Tensor]]:
    """For each sender, states of the base run with its output from the source run and other heads held."""
    before, after = (run(model, ids, {}, outputs(model))[1] for ids in (base, source))

    def edit(name: str, sender: End) -> Callable[[Tensor], None]:
        kind, layer, head = sender
        mine = name == f"blocks.{layer}.{'attn.hook_z' if kind == 'heads' else 'hook_mlp_out'}"

        def change(state: Tensor) -> None:
            if name.endswith("hook_z") or not run_mlps:
                state.copy_(before[name])
            for position in positions if mine else ():
                if head is None:
                    state[0, position] = after[name][0, position]
                else:
                    state[0, position, head] = after[name][0, position, head]

        return change

    return [
        run(model, base, {name: edit(name, sender) for name in outputs(model)}, keep)[1] for sender in senders
    ]


def second_pass(
    model: HookedTransformer, base: Tensor, receivers: Sequence[End], states: dict[str, Tensor]
) -> Tensor:
    """Logits of the base run with the receivers' inputs set to those of a first pass."""
    edits: dict[str, Callable[[Tensor], None]] = {}

    def edit(name: str, heads: list[int | None]) -> Callable[[Tensor], None]:
        def change(state: Tensor) -> None:
            for head in heads:
                if head is None:
                    state.copy_(states[name])
                else:
                    state[:, :, head] = states[name][:, :, head]

        return change

    for name in {place(model, receiver) for receiver in receivers}:
        edits[name] = edit(name, [one[2] for one in receivers if place(model, one) == name])
    return run(model, base, edits)[0]


def path_patching(
    model: HookedTransformer,
    base: Tensor,
    source: Tensor,
    senders: Sequence[End],
    receivers: Sequence[Sequence[End]],
    *,
    positions: Sequence[int],
    run_mlps: bool,
) -> list[list[Tensor]]:
    """Logits [pos, vocab] for several sets of receivers, and every sender, patched at all these positions."""
    model = split(model)
    keep = sorted({place(model, one) for some in receivers for one in some})
    options = {"positions": positions, "run_mlps": run_mlps}
    states = first_passes(model, base, source, senders, keep, **options)
    return [[second_pass(model, base, some, one) for one in states] for some in receivers]
