"""What a model writes by itself after a prompt, drawn at random: every prompt has draws of its own."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechstyle.answers import length_buckets
from mechstyle.errors import InputError, NonFiniteError, RangeError
from mechstyle.evaluation.generation import encode_prompts, new_text, until_end
from mechstyle.models import HookedModel
from mechstyle.runs import decode
from mechstyle.tokens import EncodedPrompt

__all__ = ["check_sampling", "draw", "sample", "sample_encoded", "uniforms"]


def sample(
    model: HookedModel,
    prompts: Sequence[str],
    n_tokens: int,
    *,
    top_k: int | None = 5,
    temperature: float = 1.0,
    seed: int = 0,
    keys: Sequence[int | str] | None = None,
    prepend_bos: bool | None = None,
    batch_size: int = 32,
) -> list[str]:
    """Continue prompts with tokens drawn at random.

    Each prompt has random numbers of its own, which follow from the seed and its key alone. What is written
    after it depends neither on the other prompts nor on the batch. A greedy continuation is ``complete``.

    Args:
        n_tokens: how many tokens to write; a text ends earlier before the end-of-text token.
        top_k: draw among the most probable ones only; None draws among all tokens.
        temperature: divides the logits; below 1 the probable tokens become more so.
        keys: what tells the prompts' draws apart; None is their place in the list.
        prepend_bos: None means the model's default.
        batch_size: sequences in one run; it does not change the result.

    Returns:
        the continuations alone, in the order of the prompts.

    Raises:
        InputError: no prompts, one string instead of a list, or another number of keys.
        RangeError: ``n_tokens``, ``batch_size``, ``top_k`` or ``temperature`` is out of range.
        TextError: a prompt is empty, or leaves no room for ``n_tokens`` in the model's context.
        NonFiniteError: the model's logits are not finite.

    >>> sample(model, ["Miles Davis plays the"], 3, seed=1)  # doctest: +SKIP
    [' trumpet in']
    """
    check_sampling(top_k, temperature)
    encoded = encode_prompts(model, prompts, n_tokens=n_tokens, prepend_bos=prepend_bos)
    if keys is not None and len(keys) != len(prompts):
        raise InputError(f"keys: expected one for each of the {len(prompts)} prompts, got {len(keys)}.")
    chances = [uniforms(seed, (key,), n_tokens) for key in keys or range(len(prompts))]
    written = sample_encoded(
        model, encoded, chances, top_k=top_k, temperature=temperature, batch_size=batch_size
    )
    return [new_text(model, one, ids) for one, ids in zip(encoded, written, strict=True)]


def sample_encoded(
    model: HookedModel,
    encoded: Sequence[EncodedPrompt],
    chances: Sequence[Sequence[float]],
    *,
    top_k: int | None,
    temperature: float,
    batch_size: int = 32,
    past_end: bool = False,
) -> list[list[int]]:
    """New token ids after each tokenised prompt, up to the end-of-text token.

    Args:
        chances: for each prompt, one number in [0, 1) for each token to write.
        past_end: go on behind end-of-text tokens, which are kept.

    Raises:
        RangeError: a prompt and its new tokens do not fit into the model's context.
        NonFiniteError: the model's logits are not finite.

    >>> sample_encoded(model, [encode(model, "The")], [[0.5]], top_k=None, temperature=1.0)  # doctest: +SKIP
    [[262]]
    """
    found: dict[int, list[int]] = {row: [] for row in range(len(encoded))}
    wanted = [row for row in found if len(chances[row])]
    for places in length_buckets([len(encoded[row]) for row in wanted], batch_size):
        rows = [wanted[place] for place in places]
        prompts = [encoded[row].ids for row in rows]
        new = _write(model, prompts, [chances[row] for row in rows], top_k, temperature)
        found.update(zip(rows, new if past_end else (until_end(model, ids) for ids in new), strict=True))
    return [found[row] for row in range(len(encoded))]


def draw(
    scores: Float[Tensor, "row vocab"],
    chances: Float[Tensor, " row"],
    *,
    top_k: int | None,
    temperature: float = 1.0,
) -> Int[Tensor, " row"]:
    """One token for each row of logits, by inversion of its cumulative distribution in fp64 on the CPU.

    Tokens stand in the order of their ids, and of equally probable ones the lower ids are kept first, so that
    rounding elsewhere does not change which token a number stands for.

    Args:
        chances: a number in [0, 1) for each row.

    Raises:
        NonFiniteError: the logits are not finite.

    >>> draw(torch.zeros(1, 4), torch.tensor([0.6]), top_k=None)
    tensor([2])
    """
    if not bool(scores.amax(-1).isfinite().all()):
        raise NonFiniteError(
            "model: the logits of the next token are not finite numbers; look for NaN or overflow in the "
            "weights, or load the model in a wider dtype."
        )
    values, ids = scores, None
    if top_k is not None and top_k < scores.shape[-1]:
        lowest = scores.topk(top_k).values[:, -1:]
        above, level = scores > lowest, scores == lowest
        kept = above | (level & (level.cumsum(-1) <= top_k - above.sum(-1, keepdim=True)))
        ids = kept.nonzero()[:, 1].view(len(scores), top_k)
        values = scores.gather(-1, ids)
    values = values.detach().cpu().double()
    reached = ((values - values.amax(-1, keepdim=True)) / temperature).softmax(-1).cumsum(-1)
    numbers = chances.double().cpu()[:, None] * reached[:, -1:]
    place = torch.searchsorted(reached, numbers, right=True).clamp(max=values.shape[-1] - 1)
    return (place if ids is None else ids.cpu().gather(-1, place))[:, 0]


def uniforms(seed: int, key: Sequence[int | str], count: int) -> list[float]:
    """Numbers in [0, 1) that follow from a seed and a key, the same on every machine.

    Args:
        key: what they are for; another key has other numbers.
        count: a longer list begins with the shorter one.

    >>> uniforms(0, ("prompt", 3), 2) == uniforms(0, ("prompt", 3), 5)[:2]
    True
    """
    digest = hashlib.sha256(json.dumps([seed, list(key)]).encode()).digest()
    own = random.Random(int.from_bytes(digest, "big"))
    return [own.random() for _ in range(count)]


def check_sampling(top_k: int | None, temperature: float) -> None:
    """Refuse what cannot be drawn with.

    Raises:
        RangeError: ``top_k`` is below 1, or ``temperature`` is not above 0.

    >>> check_sampling(5, 1.0)
    """
    whole = isinstance(top_k, int) and not isinstance(top_k, bool)
    if top_k is not None and not (whole and top_k >= 1):
        raise RangeError(
            f"top_k: expected a whole number of 1 or more, or None for all tokens, got {top_k!r}."
        )
    number = isinstance(temperature, (int, float)) and not isinstance(temperature, bool)
    if not (number and 0 < temperature < math.inf):
        raise RangeError(
            f"temperature: expected a number above 0, got {temperature!r}; "
            "for the most probable token each time take complete, or top_k=1."
        )


def _write(
    model: HookedModel,
    prompts: Sequence[Int[Tensor, " pos"]],
    chances: Sequence[Sequence[float]],
    top_k: int | None,
    temperature: float,
) -> list[list[int]]:
    """New token ids of each row.

    All rows are run from where the shortest prompt ends. Longer ones are given their own tokens there, so
    that nothing is padded, and no row needs more positions than its prompt and its new tokens.
    """
    start = min(map(len, prompts))
    first = [len(prompt) - start for prompt in prompts]
    n_steps = max(skipped + len(own) for skipped, own in zip(first, chances, strict=True))
    given = torch.full((len(prompts), n_steps), -1)
    numbers = torch.zeros(len(prompts), n_steps, dtype=torch.float64)
    for row, (prompt, own) in enumerate(zip(prompts, chances, strict=True)):
        given[row, : first[row]] = prompt[start:]
        numbers[row, first[row] : first[row] + len(own)] = torch.tensor(own, dtype=torch.float64)
    columns = zip(given.unbind(1), numbers.unbind(1), strict=True)

    def choose(scores: Float[Tensor, "row vocab"]) -> Int[Tensor, " row"]:
        known, number = next(columns)
        drawn = draw(scores, number, top_k=top_k, temperature=temperature)
        return torch.where(known < 0, drawn, known)

    new = decode(model, [prompt[:start] for prompt in prompts], n_steps, choose).tolist()
    return [ids[skipped : skipped + len(own)] for ids, skipped, own in zip(new, first, chances, strict=True)]
