"""Score given answers, teacher-forced, in batches of similar length."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import track
from torch.nn.utils.rnn import pad_sequence

from mechstyle.errors import NonFiniteError, RangeError
from mechstyle.metrics import token_logprobs
from mechstyle.models import HookedModel
from mechstyle.runs import logits
from mechstyle.tokens import EncodedPrompt

__all__ = ["AnswerScore", "length_buckets", "require_positive", "score_answers", "shared_runs"]


@dataclass(frozen=True)
class AnswerScore:
    """What a model says about one answer after its prompt.

    Args:
        logp: log-probability of the whole answer, in nats: the sum over its tokens.
        right: for each token of the answer, whether it is the most probable one, given the prompt and the
            answer's tokens before it.
    """

    logp: float
    right: tuple[bool, ...]

    @property
    def n_tokens(self) -> int:
        """Number of the answer's tokens."""
        return len(self.right)

    @property
    def exact(self) -> bool:
        """Whether every token is the most probable one."""
        return all(self.right)

    @property
    def accuracy(self) -> float:
        """Share of the tokens that are the most probable ones (Mitchell et al. 2022)."""
        return sum(self.right) / len(self.right)

    @property
    def mean_logp(self) -> float:
        """Mean log-probability of a token, in nats."""
        return self.logp / self.n_tokens


def score_answers(
    model: HookedModel, encoded: Sequence[EncodedPrompt], *, batch_size: int, progress: bool = False
) -> list[AnswerScore]:
    """Score the target of every encoded prompt, in fp32 at least; the order is that of ``encoded``.

    What is run is run once: an answer's last token is not, and the answers of one prompt share its run
    where one's tokens begin with the other's.

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
    runs = shared_runs([tuple(one.ids.tolist()[:-1]) for one in encoded])
    buckets = list(length_buckets([len(ids) for ids in runs], batch_size))
    found: dict[int, AnswerScore] = {}
    console = Console(stderr=True)
    sequences = list(runs)
    for rows in track(buckets, "scoring", console=console, disable=not progress, transient=True):
        some = {sequences[row]: runs[sequences[row]] for row in rows}
        found.update(_score(model, encoded, some))
    return [found[row] for row in range(len(encoded))]


def shared_runs(inputs: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], list[int]]:
    """The token sequences to be run, each with the indices of the inputs that it begins with.

    >>> shared_runs([(1, 2), (1, 2, 3), (1, 2), (4,)])
    {(4,): [3], (1, 2, 3): [1, 0, 2]}
    """
    found: dict[tuple[int, ...], list[int]] = {}
    last: tuple[int, ...] = ()
    # In order, whatever begins with an input follows it; so the last sequence kept is the only candidate.
    for index in sorted(range(len(inputs)), key=lambda index: inputs[index], reverse=True):
        ids = inputs[index]
        if last[: len(ids)] != ids or not found:
            last = ids
        found.setdefault(last, []).append(index)
    return found


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


def _score(
    model: HookedModel, encoded: Sequence[EncodedPrompt], runs: Mapping[tuple[int, ...], Sequence[int]]
) -> Iterator[tuple[int, AnswerScore]]:
    """Run some sequences in one batch, and read the answers that they hold."""
    rows = [torch.tensor(ids, dtype=torch.long) for ids in runs]
    ids = pad_sequence(rows, batch_first=True)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    held = [(row, index) for row, indices in enumerate(runs.values()) for index in indices]
    # Only what predicts an answer needs logits: from the earliest such position on.
    skipped = min(encoded[index].n_prompt for _, index in held) - 1
    run = logits(model, ids, attention_mask=mask, n_last=ids.shape[1] - skipped)
    places = [
        (row, position - skipped)
        for row, index in held
        for position in range(encoded[index].n_prompt - 1, len(encoded[index]) - 1)
    ]
    row_of, position_of = torch.tensor(places, device=run.device).T
    tokens = torch.cat([encoded[index].target_ids for _, index in held])
    scores = run[row_of, position_of]
    each = token_logprobs(scores[:, None], tokens[:, None])[:, 0].double().cpu()
    right = scores.argmax(-1).cpu() == tokens
    lengths = [len(encoded[index].target_ids) for _, index in held]
    for (_, index), logps, hits in zip(held, each.split(lengths), right.split(lengths), strict=True):
        total = float(logps.sum())
        if not math.isfinite(total):
            raise NonFiniteError(
                f"model: the log-probability of {encoded[index].text!r} is {total}, not a finite number; "
                "look for NaN or overflow in the weights, or load the model in a wider dtype."
            )
        yield index, AnswerScore(total, tuple(hits.tolist()))
