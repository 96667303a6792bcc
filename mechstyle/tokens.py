"""From text to tokens: the whole prompt is tokenised once, and character offsets say which token is what.

Pieces of a prompt are never tokenised on their own: a byte-level tokenizer gives " Davis" and "Davis"
different tokens, so a subject tokenised alone need not occur in the prompt at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mechstyle.errors import InputError, ModelError, TextError
from mechstyle.facts import Fact
from mechstyle.models import HookedModel, resolve_bos
from mechstyle.spans import Span, count_prompt, find_subject, subject_span, subject_tokens, untrimmed

__all__ = ["ROLES", "Batch", "EncodedPrompt", "encode", "encode_fact", "find_subject", "pad"]

ROLES: tuple[str, ...] = (
    "bos",
    "before subject",
    "first subject token",
    "middle subject tokens",
    "last subject token",
    "first subsequent token",
    "further tokens",
    "last prompt token",
)
"""The token roles, in reading order."""


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """One tokenised prompt with its target (answer) appended, and what each token is.

    Attributes:
        text: the prompt and the target, as one string.
        ids: token ids on the CPU, BOS first when `prepend_bos`.
        strings: the text slice of each token; BOS shows its name. Tokens that hold a part of one
            multi-byte character each show that character.
        offsets: (start, end) characters in `text` of each token; (0, 0) for BOS.
        n_prompt: number of tokens before the target, BOS included.
        subject: indices of the subject's tokens, or None when no subject was given.
        prepend_bos: whether a BOS token was put in front.
    """

    text: str
    ids: Int[Tensor, " pos"]
    strings: tuple[str, ...]
    offsets: tuple[Span, ...]
    n_prompt: int
    subject: range | None
    prepend_bos: bool

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def target_ids(self) -> Int[Tensor, " answer"]:
        """Ids of the target's tokens (empty without a target)."""
        return self.ids[self.n_prompt :]

    @property
    def roles(self) -> tuple[str, ...]:
        """The role of each of the `n_prompt` prompt tokens, one of `ROLES`."""
        return tuple(self._role(index) for index in range(self.n_prompt))

    def _role(self, index: int) -> str:
        if self.prepend_bos and index == 0:
            return "bos"
        subject = self.subject
        if subject is not None and index in subject:
            if index == subject[-1]:
                return "last subject token"
            return "first subject token" if index == subject[0] else "middle subject tokens"
        if index == self.n_prompt - 1:
            return "last prompt token"
        if subject is None:
            return "further tokens"
        if index < subject[0]:
            return "before subject"
        return "first subsequent token" if index == subject[-1] + 1 else "further tokens"


@dataclass(frozen=True, eq=False)
class Batch:
    """Several encoded prompts in one rectangle.

    Attributes:
        ids: token ids, padded with `pad_id`.
        attention_mask: 1 at real tokens and 0 at padding.
        shift: for each row, what to add to an index of the unpadded prompt to find the same token in the row.
    """

    ids: Int[Tensor, "batch pos"]
    attention_mask: Int[Tensor, "batch pos"]
    shift: Int[Tensor, " batch"]


def encode(
    model: HookedModel,
    prompt: str,
    *,
    target: str = "",
    subject: str | None = None,
    subject_offsets: Span | None = None,
    occurrence: int | None = None,
    prepend_bos: bool | None = None,
) -> EncodedPrompt:
    """Tokenise a prompt and its target together, and find the target's and the subject's tokens.

    Args:
        target: the exact continuation, leading space included; "" for none.
        subject: the words in the prompt whose tokens are wanted; `occurrence` (from 0) says which when they
            occur twice.
        subject_offsets: (start, end) characters in the prompt, instead of a search.
        prepend_bos: None means the model's default.

    Raises:
        TextError: the prompt is empty, the subject is absent or ambiguous, a token straddles the border of
            the target or of the subject, or the text is longer than the model's context.
        ModelError: the tokenizer does not report character offsets, or has no BOS token though one is asked
            for.

    Example:
        >>> encoded = encode(model, "Miles Davis plays the", target=" trumpet", subject="Miles Davis")
        >>> [encoded.strings[index] for index in encoded.subject]
        ['Miles', ' Davis']
    """
    if not prompt.strip():
        raise TextError(
            f"prompt: expected text, got {prompt!r}. Write the sentence that the model is to continue."
        )
    span = subject_span(prompt, subject, subject_offsets, occurrence)
    bos = resolve_bos(model, prepend_bos)
    text = prompt + target
    ids, offsets = _tokenise(model, text)
    n_prompt = count_prompt(text, offsets, border=len(prompt))
    tokens = None if span is None else subject_tokens(text, offsets[:n_prompt], span)
    strings = tuple(text[start:end] for start, end in offsets)
    if bos:
        ids, name = [int(model.tokenizer.bos_token_id), *ids], str(model.tokenizer.bos_token)
        strings, offsets = (name, *strings), ((0, 0), *offsets)
        n_prompt += 1
        tokens = None if tokens is None else range(tokens.start + 1, tokens.stop + 1)
    if len(ids) > model.cfg.n_ctx:
        raise TextError(
            f"prompt: too long, {len(ids)} tokens ({n_prompt} for the prompt and {len(ids) - n_prompt} for "
            f"the target) where the model's context holds {model.cfg.n_ctx}. Shorten the prompt."
        )
    return EncodedPrompt(text, torch.tensor(ids, dtype=torch.long), strings, offsets, n_prompt, tokens, bos)


def encode_fact(
    model: HookedModel,
    fact: Fact,
    *,
    target: str | None = None,
    template: str | None = None,
    prepend_bos: bool | None = None,
) -> EncodedPrompt:
    """Tokenise a fact's prompt with its target; the fact's own `{}` says where the subject is.

    Args:
        target: None means the fact's target.
        template: a context around the prompt with one `{}` in it, such as "The day was long. {}".

    Raises:
        TextError: as `encode`, or `template` does not hold exactly one `{}`.

    Example:
        >>> fact = Fact(template="{} plays the", subject="Miles Davis", target=" trumpet")
        >>> encode_fact(model, fact, template="The day was long. {}").roles[-1]
        'last prompt token'
    """
    prompt, (start, end) = fact.prompt, fact.subject_offsets
    if template is not None:
        if template.count("{}") != 1:
            raise TextError(
                f"template: expected exactly one {{}} where the prompt goes, "
                f"got {template.count('{}')} in {template!r}."
            )
        shift = template.index("{}")
        prompt, start, end = template.replace("{}", prompt, 1), start + shift, end + shift
    answer = fact.target if target is None else target
    return encode(model, prompt, target=answer, subject_offsets=(start, end), prepend_bos=prepend_bos)


def pad(encoded: Sequence[EncodedPrompt], *, pad_id: int, side: str = "right") -> Batch:
    """Put encoded prompts of several lengths into one batch.

    Args:
        side: "right" or "left", where the padding goes.

    Raises:
        InputError: nothing to pad, or an unknown side.

    Example:
        >>> batch = pad([first, second], pad_id=0, side="left")
        >>> batch.ids[1, batch.shift[1] + second.subject[-1]]     # the second prompt's last subject token
    """
    if not encoded:
        raise InputError("encoded: expected at least one encoded prompt, got none.")
    if side not in ("left", "right"):
        raise InputError(f"side: expected 'left' or 'right', got {side!r}.")
    width = max(len(one) for one in encoded)
    ids = torch.full((len(encoded), width), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    shift = torch.zeros(len(encoded), dtype=torch.long)
    for row, one in enumerate(encoded):
        first = width - len(one) if side == "left" else 0
        ids[row, first : first + len(one)] = one.ids
        mask[row, first : first + len(one)] = 1
        shift[row] = first
    return Batch(ids, mask, shift)


def _tokenise(model: HookedModel, text: str) -> tuple[list[int], tuple[Span, ...]]:
    tokenizer: Any = model.tokenizer
    if tokenizer is None or not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            "model: expected a fast tokenizer (one that reports character offsets), "
            f"got {type(tokenizer).__name__}. Load the model with "
            "tokenizer=AutoTokenizer.from_pretrained(...)."
        )
    encoding = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    return list(encoding["input_ids"]), untrimmed(text, encoding["offset_mapping"])
