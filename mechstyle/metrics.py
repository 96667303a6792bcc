"""What a run's logits say: log-probability of an answer, logit difference, KL; and intervals."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mechstyle.errors import InputError, RangeError

__all__ = [
    "answer_logprobs",
    "answer_probs",
    "bootstrap_means",
    "interval",
    "kl_divergence",
    "logit_difference",
    "token_logprobs",
]

Reduce = Literal["sum", "mean"]


def token_logprobs(
    logits: Float[Tensor, "batch pos vocab"], ids: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos"]:
    """Log-probability (nats) of one token at each position, in fp32 at least, whatever the logits' dtype.

    Args:
        ids: the tokens that are predicted there; one row [1, pos] serves every row of `logits`.

    Example:
        >>> token_logprobs(torch.zeros(1, 1, 4), torch.tensor([[2]])).exp()
        tensor([[0.2500]])
    """
    scores = _upcast(logits)
    wanted = ids.to(logits.device).expand(logits.shape[:-1])
    return scores.gather(-1, wanted[..., None])[..., 0] - scores.logsumexp(-1)


def answer_logprobs(
    logits: Float[Tensor, "batch pos vocab"],
    ids: Int[Tensor, "batch pos"],
    n_prompt: int | Int[Tensor, " batch"],
    *,
    stop: int | Int[Tensor, " batch"] | None = None,
    reduce: Reduce = "sum",
) -> Float[Tensor, " batch"]:
    """Log-probability (nats) of each row's whole answer, teacher-forced.

    Args:
        ids: the tokens that were run; one row [1, pos] serves every row of `logits`.
        n_prompt: index in the row of the first answer token (add the row's `shift` in a left-padded batch).
        stop: index after the last answer token; None means the end of the row.
        reduce: "sum" gives log P(answer); "mean" divides by the number of answer tokens.

    Computed in fp32 at least, whatever the model's dtype.

    Raises:
        RangeError: an answer is empty, starts at the first position or ends behind the row.
        InputError: an unknown `reduce`.

    Example:
        >>> run = logits(model, encoded.ids[None])
        >>> answer_logprobs(run, encoded.ids[None], encoded.n_prompt).exp()
    """
    if reduce not in ("sum", "mean"):
        raise InputError(f"reduce: expected 'sum' or 'mean', got {reduce!r}.")
    rows, width = logits.shape[0], logits.shape[1]
    device = logits.device
    first = torch.as_tensor(n_prompt, device=device).expand(rows)
    last = torch.as_tensor(width if stop is None else stop, device=device).expand(rows)
    low, high = int(first.min()), int(last.max())
    if low < 1 or high > width or not bool((first < last).all()):
        raise RangeError(
            f"n_prompt: expected 1 <= n_prompt < stop <= {width} (positions in a row), so that every answer "
            f"has a token and a token before it; got n_prompt={first.tolist()} and stop={last.tolist()}."
        )
    answer = ids.to(device).expand(rows, width)[:, low:high]
    chosen = token_logprobs(logits[:, low - 1 : high - 1], answer)
    position = torch.arange(low, high, device=device)
    wanted = (position >= first[:, None]) & (position < last[:, None])
    total = torch.where(wanted, chosen, torch.zeros_like(chosen)).sum(-1)
    return total if reduce == "sum" else total / (last - first)


def answer_probs(
    logits: Float[Tensor, "batch pos vocab"],
    ids: Int[Tensor, "batch pos"],
    n_prompt: int | Int[Tensor, " batch"],
    *,
    stop: int | Int[Tensor, " batch"] | None = None,
    reduce: Reduce = "sum",
) -> Float[Tensor, " batch"]:
    """Probability of each row's whole answer: the exponential of `answer_logprobs`.

    Raises:
        RangeError: as `answer_logprobs`.

    Example:
        >>> answer_probs(run, encoded.ids[None], encoded.n_prompt)
        tensor([0.93])
    """
    return answer_logprobs(logits, ids, n_prompt, stop=stop, reduce=reduce).exp()


def logit_difference(
    logits: Float[Tensor, "batch vocab"], wanted: Int[Tensor, " batch"], other: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Logit of the wanted token minus that of the other one.

    Example:
        >>> logit_difference(torch.tensor([[2.0, 0.5]]), torch.tensor([0]), torch.tensor([1]))
        tensor([1.5000])
    """
    scores = _upcast(logits)
    wanted, other = wanted.to(scores.device), other.to(scores.device)
    return (scores.gather(-1, wanted[:, None]) - scores.gather(-1, other[:, None]))[:, 0]


def kl_divergence(
    logits: Float[Tensor, "*batch vocab"], reference: Float[Tensor, "*batch vocab"]
) -> Float[Tensor, "*batch"]:
    """KL(P_logits || P_reference) in nats, over the last axis.

    Example:
        >>> kl_divergence(torch.zeros(1, 4), torch.zeros(1, 4))
        tensor([0.])
    """
    log_p, log_q = _upcast(logits).log_softmax(-1), _upcast(reference).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def bootstrap_means(
    values: Float[NDArray[np.float64], "item ..."], *, resamples: int = 1000, seed: int = 0
) -> Float[NDArray[np.float64], "resample ..."]:
    """Means over the first axis of resamples with replacement (Efron 1979).

    Raises:
        RangeError: no values, or fewer than one resample.

    Example:
        >>> bootstrap_means(np.ones((5, 2)), resamples=10).shape
        (10, 2)
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or len(array) == 0:
        raise RangeError(f"values: expected at least one item along the first axis, got shape {array.shape}.")
    if resamples < 1:
        raise RangeError(f"resamples: expected at least 1, got {resamples}.")
    items = len(array)
    counts = np.random.default_rng(seed).multinomial(items, np.full(items, 1 / items), size=resamples)
    means = (counts / items) @ array.reshape(items, -1)
    return means.reshape(resamples, *array.shape[1:])


def interval(
    values: Float[NDArray[np.float64], "item ..."],
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[Float[NDArray[np.float64], "..."], Float[NDArray[np.float64], "..."]]:
    """Percentile bootstrap interval (low, high) of the mean over the first axis.

    Args:
        level: the share of resampled means inside the interval.

    Raises:
        RangeError: no values, `level` outside of (0, 1), or fewer than one resample.

    Example:
        >>> low, high = interval(np.array([0.0, 1.0, 1.0]))
    """
    if not 0 < level < 1:
        raise RangeError(f"level: expected a share between 0 and 1, such as 0.95, got {level}.")
    means = bootstrap_means(values, resamples=resamples, seed=seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def _upcast(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
