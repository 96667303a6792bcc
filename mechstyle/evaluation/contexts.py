"""Texts behind an edit's context: the tokens that stand in front of a text, which keeps its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from mechstyle.errors import TextError
from mechstyle.models import HookedModel

__all__ = ["behind_context", "context_tokens"]


def context_tokens(model: HookedModel, context: str, text: Int[Tensor, " pos"]) -> list[int]:
    """The context's own tokens, with the space at its end; texts behind it keep theirs, to be scored alike.

    Where a tokenizer writes a space before each text itself (SentencePiece), the context gives its own up.

    Args:
        text: one of the texts, without BOS.

    >>> context_tokens(model, "", text)  # doctest: +SKIP
    []
    """
    if not context.strip():
        return []
    tokenizer, own = model.tokenizer, text.tolist()
    whole, bare = (
        list(tokenizer(one, add_special_tokens=False, verbose=False)["input_ids"])
        for one in (context, context.rstrip())
    )
    wanted = context + tokenizer.decode(own, clean_up_tokenization_spaces=False)
    said = tokenizer.decode([*bare, *own], clean_up_tokenization_spaces=False)
    return bare if said == wanted else whole


def behind_context(
    model: HookedModel,
    front: Sequence[int],
    ids: Int[Tensor, " pos"],
    *,
    name: str,
    setting: str,
    prepend_bos: bool,
) -> Int[Tensor, " pos"]:
    """A text's tokens with the context between them and BOS.

    Args:
        front: what ``context_tokens`` gave.
        name: of the text, for errors.
        setting: what cuts texts, for errors.

    Raises:
        TextError: both together do not fit into the model's context.

    >>> behind_context(  # doctest: +SKIP
    ...     model, [5, 6], torch.tensor([7, 8]), name="text", setting="max_positions", prepend_bos=False
    ... )
    tensor([5, 6, 7, 8])
    """
    room = int(model.cfg.n_ctx)
    if len(front) + len(ids) > room:
        left = room - len(front)
        shorter = f"set {setting} to {left} or less, or take" if left > 1 else "take"
        raise TextError(
            f"{name}: its {len(ids)} tokens and {len(front)} of the edit's context do not "
            f"fit into the model's context of {room}; {shorter} an edit of fewer requests."
        )
    begin = int(prepend_bos)
    return torch.cat([ids[:begin], torch.tensor(front, dtype=ids.dtype), ids[begin:]])
