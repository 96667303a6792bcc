"""What a model writes by itself after a prompt, greedily."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mechstyle.answers import length_buckets, require_positive
from mechstyle.errors import InputError, TextError
from mechstyle.models import HookedModel
from mechstyle.runs import decode
from mechstyle.tokens import EncodedPrompt, encode

__all__ = ["begins_with", "complete", "continue_encoded", "encode_prompts", "new_text", "said", "until_end"]


def complete(
    model: HookedModel,
    prompts: Sequence[str],
    n_tokens: int,
    *,
    prepend_bos: bool | None = None,
    batch_size: int = 32,
) -> list[str]:
    """Continue prompts with the most probable token, again and again.

    Args:
        n_tokens: how many tokens to write; a completion ends earlier before the end-of-text token.
        prepend_bos: None means the model's default.

    Returns:
        the continuations alone, in the order of the prompts.

    Raises:
        InputError: no prompts, or one string instead of a list.
        RangeError: ``n_tokens`` or ``batch_size`` is below 1.
        TextError: a prompt is empty, or leaves no room for ``n_tokens`` in the model's context.

    >>> complete(model, ["Miles Davis plays the"], n_tokens=2)  # doctest: +SKIP
    [' trumpet.']
    """
    encoded = encode_prompts(model, prompts, n_tokens=n_tokens, prepend_bos=prepend_bos)
    return continue_encoded(model, encoded, n_tokens=n_tokens, batch_size=batch_size)


def encode_prompts(
    model: HookedModel, prompts: Sequence[str], *, n_tokens: int, prepend_bos: bool | None
) -> list[EncodedPrompt]:
    """Tokenise prompts and make sure that ``n_tokens`` more fit into the context.

    Raises:
        InputError, RangeError, TextError: as ``complete``.

    >>> encode_prompts(model, ["The"], n_tokens=5, prepend_bos=None)[0].n_prompt  # doctest: +SKIP
    1
    """
    require_positive("n_tokens", n_tokens)
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        kind = type(prompts).__name__
        raise InputError(f"prompts: expected a list of texts, got one {kind}; pass [prompt].")
    if not prompts:
        raise InputError("prompts: expected at least one text, got none.")
    encoded = [encode(model, prompt, prepend_bos=prepend_bos) for prompt in prompts]
    context = int(model.cfg.n_ctx)
    for index, one in enumerate(encoded):
        if len(one) + n_tokens > context:
            raise TextError(
                f"prompts[{index}]: its {len(one)} tokens and n_tokens={n_tokens} new ones do not fit into "
                f"the model's context of {context}; shorten the prompt or ask for fewer tokens."
            )
    return encoded


def continue_encoded(
    model: HookedModel, encoded: Sequence[EncodedPrompt], *, n_tokens: int, batch_size: int = 32
) -> list[str]:
    """The greedy continuations of tokenised prompts, as ``complete`` describes them.

    >>> continue_encoded(model, [encode(model, "Miles Davis plays the")], n_tokens=2)  # doctest: +SKIP
    [' trumpet.']
    """
    found: dict[int, str] = {}
    for rows in length_buckets([len(one) for one in encoded], batch_size):
        chosen = [encoded[row] for row in rows]
        written = _write(model, [one.ids for one in chosen], n_tokens)
        for row, one, new in zip(rows, chosen, written, strict=True):
            found[row] = new_text(model, one, new)
    return [found[row] for row in range(len(encoded))]


def said(completion: str, targets: Sequence[str]) -> str | None:
    """Which target a free completion gives: the longest that it begins with; None when there is none.

    >>> said(" New York City, then", [" New", " New York", " Rome"])
    ' New York'
    """
    given = [target for target in targets if begins_with(completion, target)]
    return max(given, key=len, default=None)


def begins_with(completion: str, target: str) -> bool:
    """Whether a free completion gives the target: it begins with it, and no word runs on behind it.

    >>> begins_with(" New York, then", " New York"), begins_with(" Newark", " New")
    (True, False)
    """
    rest = completion.removeprefix(target)
    return completion.startswith(target) and not rest[:1].isalnum()


def until_end(model: HookedModel, ids: list[int]) -> list[int]:
    """What is written before the end-of-text token.

    >>> until_end(model, [5, model.tokenizer.eos_token_id, 7])  # doctest: +SKIP
    [5]
    """
    end = model.tokenizer.eos_token_id
    return ids[: ids.index(end)] if end in ids else ids


def new_text(model: HookedModel, prompt: EncodedPrompt, written: list[int]) -> str:
    """The text of new tokens, decoded together with the prompt: some tokenizers drop a space otherwise.

    >>> new_text(model, encode(model, "Miles Davis plays the"), [312])  # doctest: +SKIP
    ' trumpet'
    """
    own = prompt.ids.tolist()[int(prompt.prepend_bos) :]
    whole = str(model.tokenizer.decode([*own, *written], clean_up_tokenization_spaces=False))
    if whole.startswith(prompt.text):
        return whole[len(prompt.text) :]
    return str(model.tokenizer.decode(written, clean_up_tokenization_spaces=False))


def _write(model: HookedModel, rows: list[Tensor], n_tokens: int) -> list[list[int]]:
    """New token ids of each row, up to the end-of-text token."""
    new = decode(model, rows, n_tokens, lambda scores: scores.argmax(-1)).tolist()
    return [until_end(model, ids) for ids in new]
