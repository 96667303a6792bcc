"""Score given answers, teacher-forced, in batches of similar length."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from rich.console import Console
from rich.progress import track
from torch import Tensor

from mechstyle.errors import NonFiniteError, RangeError
from mechstyle.metrics import answer_logprobs
from mechstyle.models import HookedModel
from mechstyle.runs import logits
from mechstyle.tokens import EncodedPrompt, pad

__all__ = ["AnswerScore", "length_buckets", "require_positive", "score_answers"]


@dataclass(frozen=True)
class AnswerScore:
    """What a model says about one answer after its prompt.

    Args:
        logp: log-probability of the whole answer, in nats: the sum over its tokens.
        n_tokens: number of the answer's tokens.
        exact: every token of the answer is the most probable one, given the prompt and the tokens before it.
    """

    logp: float
    n_tokens: int
    exact: bool

    @property
    def mean_logp(self) -> float:
        """Mean log-probability of a token, in nats."""
        return self.logp / self.n_tokens


def score_answers(
    model: HookedModel, encoded: Sequence[EncodedPrompt], *, batch_size: int, progress: bool = False
) -> list[AnswerScore]:
    """Score the target of every encoded prompt, in fp32 at least; the order is that of ``encoded``.

    Args:
        batch_size: sequences in one forward pass; it does not change the result.
        progress: show a progress bar on stderr.

    Raises:
        RangeError: ``batch_size`` is below 1.
        NonFiniteError: a log-probability is not a finite number.

    >>> one = encode(model, "Miles Davis plays the", target=" trumpet")  # doctest: +SKIP
    >>> score_answers(model, [one], batch_size=8)[0].logp  # doctest: +SKIP
    -0.07
    """
    buckets = list(length_buckets([len(one) for one in encoded], batch_size))
    found: dict[int, AnswerScore] = {}
    console = Console(stderr=True)
    for rows in track(buckets, "scoring", console=console, disable=not progress, transient=True):
        found.update(zip(rows, _score(model, [encoded[row] for row in rows]), strict=True))
    return [found[row] for row in range(len(encoded))]


def length_buckets(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches, sorted by length so that little is padded.

    Raises:
        RangeError: ``batch_size`` is below 1.

    >>> list(length_buckets([5, 2, 4], 2))
    [[1, 2], [0]]
    """
    require_positive("batch_size", batch_size)
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    return (order[start : start + batch_size] for start in range(0, len(order), batch_size))


def require_positive(name: str, number: int) -> None:
    """Refuse a count that is not a whole number of 1 or more.

    Raises:
        RangeError: it is not.

    >>> require_positive("batch_size", 8)
    """
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise RangeError(f"{name}: expected a whole number of 1 or more, got {number!r}.")


def _score(model: HookedModel, encoded: Sequence[EncodedPrompt]) -> list[AnswerScore]:
    batch = pad(encoded, pad_id=0)
    first = torch.tensor([one.n_prompt for one in encoded])
    stop = torch.tensor([len(one) for one in encoded])
    # Only what predicts an answer needs logits: from the earliest such position on.
    skipped = int(first.min()) - 1
    n_last = batch.ids.shape[1] - skipped
    run = logits(model, batch.ids, attention_mask=batch.attention_mask, n_last=n_last)
    total = answer_logprobs(run, batch.ids[:, skipped:], first - skipped, stop=stop - skipped).tolist()
    best = run.argmax(-1).cpu()
    for one, logp in zip(encoded, total, strict=True):
        if not math.isfinite(logp):
            raise NonFiniteError(
                f"model: the log-probability of {one.text!r} is {logp}, not a finite number; look for NaN or "
                "overflow in the weights, or load the model in a wider dtype."
            )
    return [
        AnswerScore(logp, n, _greedy(row, one, skipped))
        for one, n, logp, row in zip(encoded, (stop - first).tolist(), total, best, strict=True)
    ]


def _greedy(best: Int[Tensor, " pos"], one: EncodedPrompt, skipped: int) -> bool:
    """Whether the best tokens, given from position ``skipped`` on, are the answer's."""
    return torch.equal(best[one.n_prompt - 1 - skipped : len(one) - 1 - skipped], one.target_ids)
