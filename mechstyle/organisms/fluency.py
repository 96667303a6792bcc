"""How well an organism foretells prose that it did not read, beside n-grams of the prose that it did read."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..models import HookedModel
from ..texts import encode_texts, text_losses
from .ngrams import fit_ngrams
from .world import read_prose

__all__ = ["perplexity_interval", "prose_losses"]


def prose_losses(model: HookedModel, passages: Sequence[str]) -> pd.DataFrame:
    """What an organism and n-grams of the prose that it read say of passages that it did not read.

    All see the same tokens, each passage by itself and cut to the organism's positions.

    Returns:
        a row per passage: `n_tokens` but the first, and their negative log-likelihood in nats by the `model`,
        by a `unigram` and by a `trigram` model.

    Example:
        >>> frame = prose_losses(model, organisms.heldout_prose("organism-m"))
        >>> perplexity_interval(frame.trigram, frame.n_tokens)
    """
    encoded = encode_texts(model, passages, prepend_bos=False, max_positions=int(model.cfg.n_ctx))
    read = model.tokenizer(read_prose(), add_special_tokens=False, verbose=False)["input_ids"]
    own = text_losses(model, encoded, batch_size=64)
    columns: dict[str, list[float]] = {
        "n_tokens": [count for _, count in own],
        "model": [loss for loss, _ in own],
    }
    for name, order in (("unigram", 1), ("trigram", 3)):
        grams = fit_ngrams(read, order=order, vocab=int(model.cfg.d_vocab))
        columns[name] = [loss for loss, _ in grams.losses([ids.tolist() for ids in encoded])]
    return pd.DataFrame(columns)


def perplexity_interval(losses: Sequence[float], n_tokens: Sequence[int]) -> tuple[float, float, float]:
    """Perplexity, and the ends of its 95 % interval by bootstrap over passages.

    Args:
        losses: of each passage, summed over its tokens, in nats.

    Example:
        >>> perplexity_interval([0.0, 0.0], [7, 9])
        (1.0, 1.0, 1.0)
    """
    totals, counts = np.asarray(losses, dtype=float), np.asarray(n_tokens, dtype=float)
    drawn = np.random.default_rng(0).integers(len(totals), size=(1000, len(totals)))
    low, high = np.exp(np.quantile(totals[drawn].sum(1) / counts[drawn].sum(1), [0.025, 0.975]))
    return math.exp(totals.sum() / counts.sum()), float(low), float(high)
