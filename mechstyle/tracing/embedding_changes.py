"""Changes of a prompt's token embeddings: words swapped, one token corrupted. Weights stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from mechstyle.errors import InputError, RangeError, TextError
from mechstyle.facts import Fact
from mechstyle.models import HookedModel
from mechstyle.spans import find_subject, subject_tokens
from mechstyle.tokens import ROLES, EncodedPrompt
from mechstyle.tracing.corrupted import Corruption
from mechstyle.tracing.corruption import GaussianNoise

__all__ = [
    "SUBJECT",
    "Change",
    "CorruptTokens",
    "Embedded",
    "SwapWords",
    "applied",
    "check_facts",
    "listed",
    "tokens_of",
]

SUBJECT = "subject"
Where = str | int
"""A token's index, its role, "subject" for all of the subject's tokens, or words of the prompt."""


@dataclass(frozen=True, eq=False)
class Embedded:
    """A prompt whose embeddings are to be changed.

    Attributes:
        model: for what a change takes from its weights.
        fact: what the prompt states.
        encoded: the prompt's tokens, perhaps with an answer.
        seed: of this prompt's draws.
    """

    model: HookedModel
    fact: Fact
    encoded: EncodedPrompt
    seed: int

    @property
    def subject(self) -> range:
        """The subject's tokens."""
        subject = self.encoded.subject
        assert subject is not None  # a Fact has one
        return subject


@runtime_checkable
class Change(Protocol):
    """A change of embeddings."""

    def changed(
        self, prompt: Embedded, embeddings: Float[Tensor, "sample token d_model"]
    ) -> Float[Tensor, "sample token d_model"]:
        """The embeddings after the change; those before it stay as they are."""
        ...

    def record(self) -> dict[str, Any]:
        """The change in JSON form."""
        ...


@dataclass(frozen=True)
class SwapWords:
    """Exchange the embeddings of two words of the prompt; positions keep what the model adds for them.

    Words of unequal token counts are exchanged as wholes, so that what stands between them moves along: the
    run is that of the prompt with these tokens exchanged, no more and no less.

    Attributes:
        first: words of the prompt, a token role, "subject", or a token's index.
        second: likewise, elsewhere.

    Example:
        >>> SwapWords("first subject token", "last subject token")
    """

    first: Where
    second: Where

    def changed(
        self, prompt: Embedded, embeddings: Float[Tensor, "sample token d_model"]
    ) -> Float[Tensor, "sample token d_model"]:
        """The embeddings in another order.

        Raises:
            TextError: a word is absent or ambiguous, or the two overlap.
        """
        places = [tokens_of(prompt.encoded, one) for one in (self.first, self.second)]
        left, right = sorted(places, key=lambda place: place.start)
        if left.stop > right.start:
            raise TextError(
                f"SwapWords: expected two places in the prompt, but {self.first!r} and {self.second!r} share "
                f"the token {prompt.encoded.strings[right.start]!r}."
            )
        between = range(left.stop, right.start)
        order = [*range(left.start), *right, *between, *left, *range(right.stop, embeddings.shape[1])]
        return embeddings[:, order]

    def record(self) -> dict[str, Any]:
        """The change in JSON form."""
        return {"change": "swap words", "first": self.first, "second": self.second}


@dataclass(frozen=True, eq=False)
class CorruptTokens:
    """A corruption of chosen tokens only: one of the subject's against another, or one outside of it.

    From one seed every single token gets the same draws of noise, so that tokens are compared pairwise.

    Attributes:
        tokens: a token role, "subject", words of the prompt, or a token's index.
        corruption: what is done to them, as if they were the subject; None is `GaussianNoise()`.

    Example:
        >>> CorruptTokens("last subject token", GaussianNoise(multiple=3.0))
    """

    tokens: Where = SUBJECT
    corruption: Corruption | None = None

    def changed(
        self, prompt: Embedded, embeddings: Float[Tensor, "sample token d_model"]
    ) -> Float[Tensor, "sample token d_model"]:
        """The corrupted embeddings, another draw for each sample.

        Raises:
            TextError: the prompt has no such token, or they cannot be corrupted in this way.
        """
        place = replace(prompt.encoded, subject=tokens_of(prompt.encoded, self.tokens))
        corruption = GaussianNoise() if self.corruption is None else self.corruption
        samples = len(embeddings)
        corrupted = corruption.embeddings(prompt.model, prompt.fact, place, samples=samples, seed=prompt.seed)
        if samples % corrupted.samples:
            raise InputError(
                f"samples: the corruption has {corrupted.samples} of its own, got samples={samples}. "
                "Ask for a multiple of that."
            )
        found: Tensor = corrupted.hook()[1](embeddings, hook=None)
        return found

    def record(self) -> dict[str, Any]:
        """The change in JSON form."""
        corruption: Any = GaussianNoise() if self.corruption is None else self.corruption
        settings = {one.name: getattr(corruption, one.name) for one in fields(corruption)}
        plain = {
            name: value for name, value in settings.items() if isinstance(value, (bool, int, float, str))
        }
        return {
            "change": "corrupt tokens",
            "tokens": self.tokens,
            "corruption": type(corruption).__name__,
            **plain,
        }


def applied(
    changes: Change | Sequence[Change], prompt: Embedded, embeddings: Float[Tensor, "sample token d_model"]
) -> Float[Tensor, "sample token d_model"]:
    """One change, or several one after the other.

    Example:
        >>> swapped = applied([SwapWords(0, 1), CorruptTokens(1)], prompt, embeddings)  # doctest: +SKIP
    """
    for change in listed(changes):
        embeddings = change.changed(prompt, embeddings)
    return embeddings


def listed(changes: Change | Sequence[Change]) -> tuple[Change, ...]:
    """One change as well as several, in the order in which they are made.

    Example:
        >>> listed(SwapWords(0, 1))
        (SwapWords(first=0, second=1),)
    """
    return tuple(changes) if isinstance(changes, Sequence) else (changes,)


def check_facts(facts: Sequence[Fact]) -> None:
    """Make sure that there are facts.

    Raises:
        InputError: there are none, or something else.
    """
    listed_facts = isinstance(facts, Sequence) and not isinstance(facts, str)
    if not listed_facts or not facts or not all(isinstance(fact, Fact) for fact in facts):
        raise InputError("facts: expected one or more Facts in a list.")


def tokens_of(encoded: EncodedPrompt, where: Where) -> range:
    """The tokens of a prompt that an index, a role, "subject" or words of it name.

    Raises:
        TextError: the prompt has no such token, or has the words several times.
        RangeError: the index is negative.
        InputError: it is neither a number nor text.

    Example:
        >>> tokens_of(encoded, "last subject token")  # doctest: +SKIP
        range(1, 2)
    """
    if isinstance(where, int) and not isinstance(where, bool):
        if where < 0:
            raise RangeError(f"tokens: expected an index of 0 or more, got {where}.")
        if where >= encoded.n_prompt:
            raise TextError(f"tokens: the prompt has {encoded.n_prompt} tokens, so none is number {where}.")
        return range(where, where + 1)
    if not isinstance(where, str):
        raise InputError(f"tokens: expected an index, a role or words of the prompt, got {where!r}.")
    if where == SUBJECT and encoded.subject is not None:
        return encoded.subject
    if where in ROLES:
        found = [token for token, role in enumerate(encoded.roles) if role == where]
        if not found:
            shown = " ".join(repr(text) for text in encoded.strings[: encoded.n_prompt])
            raise TextError(f"tokens: the prompt has no {where!r}; its tokens are {shown}.")
        return range(found[0], found[-1] + 1)
    border = encoded.offsets[encoded.n_prompt - 1][1]
    return subject_tokens(
        encoded.text, encoded.offsets[: encoded.n_prompt], find_subject(encoded.text[:border], where)
    )
