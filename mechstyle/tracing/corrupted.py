"""What every corruption of a subject gives: values for the embeddings of its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from mechstyle.errors import TextError
from mechstyle.facts import Fact
from mechstyle.models import HookedModel
from mechstyle.runs import Hook
from mechstyle.sites import Site
from mechstyle.tokens import EncodedPrompt

__all__ = ["Corrupted", "Corruption", "subject_of"]


@dataclass(frozen=True, eq=False)
class Corrupted:
    """A corrupted subject, once a sample.

    Attributes:
        values: on the CPU.
        added: whether the values are added to the embeddings, or take their place.
        tokens: the positions that they belong to.
        record: how they were made, in JSON form.
    """

    values: Float[Tensor, "sample subject_token d_model"]
    added: bool
    tokens: range
    record: dict[str, Any]

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.values)

    def hook(self, rows: slice = slice(None)) -> Hook:
        """The hook that corrupts a batch whose row ``i`` is sample ``i % n`` of these n samples.

        Only the token embeddings change: what a model adds for positions stays.

        Args:
            rows: some of the samples.
        """
        values, added, tokens = self.values[rows], self.added, self.tokens

        def corrupt(state: Tensor, hook: Any) -> Tensor:
            state = state.clone()
            new = values.to(device=state.device, dtype=state.dtype).repeat(len(state) // len(values), 1, 1)
            old = state[:, tokens.start : tokens.stop]
            state[:, tokens.start : tokens.stop] = old + new if added else new
            return state

        return Site(0, "embed").hook, corrupt


@runtime_checkable
class Corruption(Protocol):
    """A way to corrupt the subject of a fact, at the embeddings of its tokens."""

    def embeddings(
        self, model: HookedModel, fact: Fact, encoded: EncodedPrompt, *, samples: int, seed: int
    ) -> Corrupted:
        """The corrupted subject; more samples from one seed keep the first ones.

        Args:
            encoded: the fact's prompt, with or without an answer; it has a subject.
            samples: how many; a corruption that has fewer, or its own number, gives these.

        Raises:
            TextError: the subject cannot be corrupted in this way.
            InputError: the corruption does not fit the subject or the model.
        """
        ...


def subject_of(encoded: EncodedPrompt) -> range:
    """The positions of the subject's tokens.

    Raises:
        TextError: the prompt has no subject.
    """
    if encoded.subject is None:
        raise TextError("fact: its prompt has no subject tokens to corrupt.")
    return encoded.subject
