"""How probable texts are to a model: their tokens, cut to a length, and what the model says of each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mechstyle.answers import length_buckets
from mechstyle.errors import InputError, NonFiniteError, RangeError, TextError
from mechstyle.metrics import answer_logprobs
from mechstyle.models import HookedModel, resolve_bos
from mechstyle.runs import logits

__all__ = ["encode_text", "encode_texts", "exp_mean", "negative_log_likelihood", "text_losses"]


def encode_texts(
    model: HookedModel, texts: Sequence[str], *, prepend_bos: bool | None, max_positions: int
) -> list[Int[Tensor, " pos"]]:
    """Token ids of each text, cut to ``max_positions``.

    Raises:
        InputError: no texts, or one string instead of a list.
        TextError: a text has no token to predict.
        RangeError: ``max_positions`` is below 2.

    >>> encode_texts(model, ["Once upon a time"], prepend_bos=None, max_positions=256)  # doctest: +SKIP
    """
    if isinstance(max_positions, bool) or not isinstance(max_positions, int) or max_positions < 2:
        raise RangeError(f"max_positions: expected a whole number of 2 or more, got {max_positions!r}.")
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise InputError(f"texts: expected a list of texts, got one {type(texts).__name__}; pass [text].")
    if not texts:
        raise InputError("texts: expected at least one text, got none.")
    bos = resolve_bos(model, prepend_bos)
    encoded = []
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"texts[{index}]: expected text, got {type(text).__name__}.")
        encoded.append(
            encode_text(model, text, name=f"texts[{index}]", prepend_bos=bos, max_positions=max_positions)
        )
    return encoded


def encode_text(
    model: HookedModel, text: str, *, name: str, prepend_bos: bool, max_positions: int
) -> Int[Tensor, " pos"]:
    """Token ids of one text, cut to ``max_positions`` and to the model's context.

    Args:
        name: of the text, for errors.

    Raises:
        TextError: it has no token to predict.

    >>> encode_text(model, "A day", name="text", prepend_bos=False, max_positions=256)  # doctest: +SKIP
    """
    start = [int(model.tokenizer.bos_token_id)] if prepend_bos else []
    width = min(max_positions, int(model.cfg.n_ctx))
    own = model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:width]
    ids = [*start, *own][:width]
    if len(ids) < 2:
        raise TextError(
            f"{name}: expected a token to predict, but {text!r} has {len(own)} token(s) and "
            f"{'a' if start else 'no'} BOS in front; leave it out."
        )
    return torch.tensor(ids, dtype=torch.long)


def exp_mean(total: float, count: int) -> float:
    """``exp(total / count)``, infinite where that is too large for a float.

    >>> exp_mean(0.0, 7)
    1.0
    """
    return float(torch.tensor(total / count, dtype=torch.float64).exp())


def negative_log_likelihood(
    model: HookedModel, encoded: Sequence[Int[Tensor, " pos"]], *, batch_size: int, n_context: int = 0
) -> tuple[float, int]:
    """Sum over all tokens but each text's first, in nats, and the number of these tokens.

    Args:
        n_context: so many tokens more, at the beginning of each text, are read and not scored.

    Raises:
        NonFiniteError: the sum is not a finite number.

    >>> total, count = negative_log_likelihood(model, encoded, batch_size=8)  # doctest: +SKIP
    """
    each = text_losses(model, encoded, batch_size=batch_size, n_context=n_context)
    return math.fsum(total for total, _ in each), sum(count for _, count in each)


def text_losses(
    model: HookedModel,
    encoded: Sequence[Int[Tensor, " pos"]],
    *,
    batch_size: int,
    n_context: int = 0,
) -> list[tuple[float, int]]:
    """Negative log-likelihood of each text but its first token, in nats, and how many tokens that are.

    Args:
        n_context: so many tokens more, at the beginning of each text, are read and not scored.

    Raises:
        NonFiniteError: a sum is not a finite number.

    >>> [(total, count)] = text_losses(model, encoded[:1], batch_size=8)  # doctest: +SKIP
    """
    found: dict[int, tuple[float, int]] = {}
    first = n_context + 1
    for rows in length_buckets([len(ids) for ids in encoded], batch_size):
        chosen = [encoded[row] for row in rows]
        ids = pad_sequence(chosen, batch_first=True)
        mask = pad_sequence([torch.ones_like(one) for one in chosen], batch_first=True)
        stop = mask.sum(-1)
        logp = answer_logprobs(logits(model, ids, attention_mask=mask), ids, first, stop=stop)
        totals = (-logp.double()).tolist()
        found.update(zip(rows, zip(totals, (stop - first).tolist(), strict=True), strict=True))
    total = sum(loss for loss, _ in found.values())
    if not math.isfinite(total):
        raise NonFiniteError(
            f"model: the negative log-likelihood of the texts is {total}, not a finite number; look for "
            "NaN or overflow in the weights, or load the model in a wider dtype."
        )
    return [found[row] for row in range(len(encoded))]
