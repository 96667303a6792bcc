"""Continue sequences token by token, each new token run once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mechstyle.blocks import KeysValues, may_resume, run_block
from mechstyle.errors import InputError, RangeError
from mechstyle.models import HookedModel
from mechstyle.runs.full import logits

__all__ = ["decode"]

Choose = Callable[[Float[Tensor, "row vocab"]], Int[Tensor, " row"]]


def decode(
    model: HookedModel, rows: Sequence[Int[Tensor, " pos"]], n_tokens: int, choose: Choose
) -> Int[Tensor, "row new"]:
    """Append tokens to ragged sequences, without gradients; keys and values are kept from token to token.

    Models whose runs cannot be resumed, and models that carry hooks, run whole sequences for each token.

    Args:
        n_tokens: how many to append to each sequence.
        choose: gives each row's next token from its logits.

    Raises:
        InputError: no rows, or an empty one.
        RangeError: ``n_tokens`` is below 1, or leaves the model's context.

    Example:
        >>> decode(model, [ids], 5, lambda scores: scores.argmax(-1)).shape  # doctest: +SKIP
        torch.Size([1, 5])
    """
    if not rows or not all(len(row) for row in rows):
        raise InputError("rows: expected one or more sequences with at least one token each.")
    width, context = max(map(len, rows)), int(model.cfg.n_ctx)
    if n_tokens < 1 or width + n_tokens > context:
        raise RangeError(
            f"n_tokens: expected 1 to {context - width}, so that sequences of {width} tokens stay within the "
            f"model's context of {context}, got {n_tokens}."
        )
    device = torch.device(model.cfg.device)
    lengths = torch.tensor([len(row) for row in rows])
    ids = pad_sequence(list(rows), batch_first=True, padding_side="left").to(device)
    mask = (torch.arange(width) >= (width - lengths)[:, None]).long().to(device)
    resumable = may_resume(model)
    past: list[KeysValues] | None = None
    for _ in range(n_tokens):
        if resumable:
            scores, past = _step(model, ids, mask, past)
        else:
            scores = _whole(model, ids, mask)
        ids = torch.cat([ids, choose(scores).to(device)[:, None]], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return ids[:, width:].cpu()


def _step(
    model: HookedModel, ids: Tensor, mask: Tensor, past: list[KeysValues] | None
) -> tuple[Tensor, list[KeysValues]]:
    """Logits after the last token; only tokens whose keys and values are not there yet are run."""
    done = 0 if past is None else past[0][0].shape[1]
    padded = None if bool(mask.all()) else mask
    with torch.no_grad():
        residual = model(ids, return_type=None, attention_mask=mask, stop_at_layer=0)[:, done:]
        joined = []
        for layer in range(int(model.cfg.n_layers)):
            before = None if past is None else past[layer]
            residual, keys_values = run_block(model, layer, residual, before, attention_mask=padded)
            joined.append(keys_values)
        top = int(model.cfg.n_layers)
        return model(residual[:, -1:], return_type="logits", start_at_layer=top)[:, 0], joined


def _whole(model: HookedModel, ids: Tensor, mask: Tensor) -> Tensor:
    """The same by whole runs, padded on the right, which every backend runs alike."""
    rows = [row[real.bool()] for row, real in zip(ids, mask, strict=True)]
    together = pad_sequence(rows, batch_first=True)
    lengths = mask.sum(-1)
    right = (torch.arange(together.shape[1], device=mask.device) < lengths[:, None]).long()
    run = logits(model, together, attention_mask=right)
    return run[torch.arange(len(rows), device=run.device), (lengths - 1).to(run.device)]
