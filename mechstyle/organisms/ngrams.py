"""N-gram models of tokens, by interpolated Kneser-Ney smoothing: what a network must do better than."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, RangeError

__all__ = ["NGrams", "fit_ngrams"]

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Level:
    """Counts of n-grams of one length, and of their histories; both are numbers in base `vocab + 1`."""

    grams: Ids
    counts: Floats
    histories: Ids
    totals: Floats
    kinds: Floats
    discount: float


@dataclass(frozen=True, eq=False)
class NGrams:
    """An n-gram model; before a text stand marks of its beginning, which are never predicted.

    The longest n-grams are counted as they occur, shorter ones by how many tokens they follow. From each
    count a discount D = n₁ / (n₁ + 2 n₂) is taken and given to the next shorter history, in the end to all
    tokens alike (Ney, Essen & Kneser 1994; Chen & Goodman 1999, interpolated, one discount a length).

    Args:
        vocab: tokens are 0 to vocab - 1.
        levels: of n-grams of 1 token, 2 tokens, and so on.
    """

    vocab: int
    levels: tuple[_Level, ...]

    @property
    def order(self) -> int:
        """Tokens in the longest n-gram."""
        return len(self.levels)

    def log_probs(self, ids: Sequence[int]) -> Floats:
        """Log-probability, in nats, of each token of a text after those before it.

        Raises:
            RangeError: a token is not of the vocabulary.

        Example:
            >>> fit_ngrams([[0, 1]], order=1, vocab=2).log_probs([0]).round(3)
            array([-0.693])
        """
        windows = _windows([ids], self.order, self.vocab)
        found = np.full(len(windows), 1.0 / self.vocab)
        base = self.vocab + 1
        for length, level in enumerate(self.levels, start=1):
            gram = _numbers(windows[:, self.order - length :], base)
            history = gram // base
            total = _looked_up(level.histories, level.totals, history)
            kinds = _looked_up(level.histories, level.kinds, history)
            kept = np.maximum(_looked_up(level.grams, level.counts, gram) - level.discount, 0.0)
            known = total > 0
            whole = np.where(known, total, 1.0)
            found = np.where(known, (kept + level.discount * kinds * found) / whole, found)
        logs: Floats = np.log(found)
        return logs

    def losses(self, texts: Sequence[Sequence[int]]) -> list[tuple[float, int]]:
        """Of each text but its first token the negative log-likelihood in nats, and how many tokens."""
        return [(float(-self.log_probs(ids)[1:].sum()), len(ids) - 1) for ids in texts]


def fit_ngrams(texts: Sequence[Sequence[int]], *, order: int, vocab: int) -> NGrams:
    """Count the n-grams of texts of token ids, each text by itself.

    Args:
        order: tokens in the longest n-gram; 1 is a unigram model.
        vocab: tokens are 0 to vocab - 1.

    Raises:
        InputError: no token at all.
        RangeError: `order` is below 1, numbers of n-grams do not fit, or a token is not of the vocabulary.

    Example:
        >>> from mechstyle.organisms.ngrams import fit_ngrams
        >>> model = fit_ngrams([[0, 1, 0, 1, 0, 0]], order=2, vocab=2)
        >>> bool(model.log_probs([0, 1])[1] > model.log_probs([0, 0])[1])
        True
    """
    if order < 1 or (vocab + 1) ** order >= 2**63:
        raise RangeError(f"order: expected 1 or more, with (vocab + 1) ** order < 2 ** 63, got {order}.")
    windows = _windows(texts, order, vocab)
    if not len(windows):
        raise InputError("texts: expected at least one token, got none.")
    base = vocab + 1
    grams, counts = np.unique(_numbers(windows, base), return_counts=True)
    levels = [_level(grams, counts, base)]
    for length in range(order - 1, 0, -1):
        # Each longer n-gram counts once for the n-gram that is left without its first token.
        grams, counts = np.unique(grams % base**length, return_counts=True)
        levels.append(_level(grams, counts, base))
    return NGrams(vocab, tuple(reversed(levels)))


def _level(grams: Ids, counts: Ids, base: int) -> _Level:
    histories, place, kinds = np.unique(grams // base, return_inverse=True, return_counts=True)
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return _Level(
        grams=grams,
        counts=counts.astype(np.float64),
        histories=histories,
        totals=np.bincount(place, weights=counts).astype(np.float64),
        kinds=kinds.astype(np.float64),
        discount=once / (once + 2 * twice) if once else 0.5,
    )


def _windows(texts: Sequence[Sequence[int]], order: int, vocab: int) -> Ids:
    """A row for each token: those before it, marks of the beginning among them, and the token."""
    rows = []
    for ids in texts:
        own = np.asarray(ids, dtype=np.int64)
        if len(own) and (own.min() < 0 or own.max() >= vocab):
            raise RangeError(f"texts: expected tokens from 0 to {vocab - 1}, got {own.min()} to {own.max()}.")
        padded = np.concatenate([np.full(order - 1, vocab, dtype=np.int64), own])
        if len(own):
            rows.append(np.lib.stride_tricks.sliding_window_view(padded, order))
    return np.concatenate(rows) if rows else np.empty((0, order), dtype=np.int64)


def _numbers(windows: Ids, base: int) -> Ids:
    """Each row as one number."""
    out = np.zeros(len(windows), dtype=np.int64)
    for column in windows.T:
        out = out * base + column
    return out


def _looked_up(keys: Ids, values: Floats, wanted: Ids) -> Floats:
    """Values of sorted keys; 0 for a key that is not among them."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0.0)
