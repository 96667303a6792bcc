"""Characters to tokens: pure rules on the offsets that a tokenizer reports."""

from __future__ import annotations

from collections.abc import Sequence

from mechstyle.errors import RangeError, TextError

__all__ = ["Span", "count_prompt", "find_subject", "subject_span", "subject_tokens", "untrimmed"]

Span = tuple[int, int]
"""Start and end in characters."""


def find_subject(text: str, subject: str, occurrence: int | None = None) -> Span:
    """Find the characters (start, end) of a subject in a text.

    Args:
        occurrence: which one, counted from 0, when the subject is found several times (overlaps count).

    Raises:
        TextError: the subject is empty or absent, or is found several times and `occurrence` is None.
        RangeError: `occurrence` is not one of those found.

    Example:
        >>> find_subject("Paris is the capital of France", "France")
        (24, 30)
    """
    if not subject.strip():
        raise TextError(
            f"subject: expected text, got {subject!r}. Give the words of the prompt that name the subject."
        )
    starts = [at for at in range(len(text) - len(subject) + 1) if text.startswith(subject, at)]
    if not starts:
        raise TextError(
            f"subject: {subject!r} does not occur in the prompt {text!r}. "
            "Check spelling, capitals and spaces: the subject must be a part of the prompt as it stands."
        )
    if occurrence is None:
        if len(starts) > 1:
            raise TextError(
                f"subject: {subject!r} occurs {len(starts)} times in the prompt {text!r}. "
                f"Say which with occurrence=0 to {len(starts) - 1}, or use a template with {{}} in its place."
            )
        occurrence = 0
    if not 0 <= occurrence < len(starts):
        raise RangeError(
            f"occurrence: expected 0 to {len(starts) - 1} ({subject!r} occurs {len(starts)} times "
            f"in {text!r}), got {occurrence}."
        )
    return starts[occurrence], starts[occurrence] + len(subject)


def subject_span(
    prompt: str, subject: str | None, offsets: Span | None, occurrence: int | None
) -> Span | None:
    """The subject's characters in a prompt: those told, or those found; None when no subject was asked for.

    Raises:
        TextError: as `find_subject`, or the offsets lie outside of the prompt or hold another text.
        RangeError: as `find_subject`.

    Example:
        >>> subject_span("Paris is in France", "France", None, None)
        (12, 18)
    """
    if offsets is None:
        return None if subject is None else find_subject(prompt, subject, occurrence)
    start, end = offsets
    if not 0 <= start < end <= len(prompt):
        raise TextError(
            f"subject_offsets: expected 0 <= start < end <= {len(prompt)} (characters of the prompt), "
            f"got {offsets}."
        )
    if subject is not None and prompt[start:end] != subject:
        raise TextError(
            f"subject_offsets: {offsets} holds {prompt[start:end]!r}, but subject is {subject!r}. Give one."
        )
    return start, end


def untrimmed(text: str, offsets: Sequence[Span]) -> tuple[Span, ...]:
    """Give the spaces that some tokenizers trim from the offsets back to the tokens that hold them.

    Example:
        >>> untrimmed("Miles Davis", [(0, 5), (6, 11)])
        ((0, 5), (5, 11))
    """
    spans: list[Span] = []
    reached = 0
    for start, end in offsets:
        first = reached if reached < start and text[reached:start].isspace() else start
        spans.append((first, max(first, end)))
        reached = max(reached, end)
    return tuple(spans)


def count_prompt(text: str, offsets: Sequence[Span], *, border: int) -> int:
    """Number of tokens before the target. A token may take the space that ends the prompt into the target."""
    for index, (start, end) in enumerate(offsets):
        if end <= border:
            continue
        swallows_space = text[start:border].isspace() and not text[border:end].isspace()
        if start < border and not swallows_space:
            raise TextError(
                f"target: the token {text[start:end]!r} straddles the border between the prompt "
                f"{text[:border]!r} and the target {text[border:]!r}. Move the border to where a word starts "
                "(a target usually begins with a space)."
            )
        if index == 0:
            raise TextError(
                f"prompt: {text[:border]!r} leaves no token before the target. Write a longer prompt."
            )
        return index
    if border < len(text):
        raise TextError(f"target: {text[border:]!r} has no token of its own in this model's tokenizer.")
    return len(offsets)


def subject_tokens(text: str, offsets: Sequence[Span], span: Span) -> range:
    """Indices of the tokens that overlap the subject's characters; its outer spaces do not count.

    Raises:
        TextError: no token does, or one also covers letters outside of the subject.

    Example:
        >>> subject_tokens("Miles Davis plays", [(0, 5), (5, 11), (11, 17)], (6, 11))
        range(1, 2)
    """
    start, end = span
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    inside = [index for index, (first, last) in enumerate(offsets) if first < end and last > start]
    if not inside:
        raise TextError(
            f"subject: no token of the prompt lies in {text[span[0] : span[1]]!r}. Choose another subject."
        )
    for index in (inside[0], inside[-1]):
        first, last = offsets[index]
        outside = text[first:start] + text[max(end, first) : last]
        if any(character.isalnum() for character in outside):
            raise TextError(
                f"subject: the token {text[first:last]!r} straddles the border of the subject "
                f"{text[start:end]!r} (it also holds {outside.strip()!r}). "
                "Choose a subject that ends where a token does."
            )
    return range(inside[0], inside[-1] + 1)
