"""Chains of questions, by which a model's own answers can be held against each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mechstyle.errors import TextError

__all__ = ["Belief", "BeliefChain"]

SLOT = "{}"


@dataclass(frozen=True)
class Belief:
    """One question, with the answers that a model chooses from.

    Args:
        prompt: whole, or with ``{}`` for the answer to an earlier question.
        candidates: two or more continuations, with their leading space.

    Raises:
        TextError: the prompt or a candidate is blank, or there are not two different candidates.

    Example:
        >>> Belief("Abu Ghosh is in the country of", (" Israel", " Japan")).candidates[1]
        ' Japan'
    """

    prompt: str
    candidates: tuple[str, ...]

    def __post_init__(self) -> None:
        _require_text("Belief.prompt", self.prompt)
        if isinstance(self.candidates, str):
            raise TextError(f"Belief.candidates: expected a tuple of texts, got {self.candidates!r}.")
        object.__setattr__(self, "candidates", tuple(self.candidates))
        for index, one in enumerate(self.candidates):
            _require_text(f"Belief.candidates[{index}]", one)
        if len(set(self.candidates)) < 2 or len(set(self.candidates)) < len(self.candidates):
            raise TextError(
                f"Belief.candidates: expected two or more different answers to {self.prompt!r}, "
                f"got {self.candidates!r}."
            )


@dataclass(frozen=True)
class BeliefChain:
    """Two questions and the one that both answers decide.

    Where is it? In Japan. The capital of Japan? Tokyo. Then the capital of the country where it is must be
    Tokyo, whether that is so or not: the chain asks what a model's beliefs imply, not what is true.

    Args:
        first: the question that the edit changes the answer to.
        second: about an answer to the first one, which takes the place of ``{}`` without its leading space.
            Best each candidate of the first question has another answer here.
        compound: the prompt that asks both at once; its candidates are those of the second question.
        statement: the compound as a statement, ``{}`` being an answer without its leading space; it is asked
            for with yes or no. None leaves that out.

    Raises:
        TextError: a part is blank, or the second question or the statement does not hold ``{}`` once.

    Example:
        >>> where = Belief("Abu Ghosh is in the country of", (" Japan", " Israel"))
        >>> capital = Belief("The capital of {} is", (" Tokyo", " Jerusalem"))
        >>> chain = BeliefChain(where, capital, "The capital of the country of Abu Ghosh is")
        >>> chain.about(" Japan")
        'The capital of Japan is'
    """

    first: Belief
    second: Belief
    compound: str
    statement: str | None = None

    def __post_init__(self) -> None:
        for name in ("first", "second"):
            if not isinstance(getattr(self, name), Belief):
                kind = type(getattr(self, name)).__name__
                raise TextError(f"BeliefChain.{name}: expected a Belief, got {kind}.")
        _require_text("BeliefChain.compound", self.compound)
        _require_slot("BeliefChain.second.prompt", self.second.prompt)
        if self.statement is not None:
            _require_slot("BeliefChain.statement", self.statement)

    def about(self, answer: str) -> str:
        """The second question, about an answer to the first one."""
        return self.second.prompt.replace(SLOT, answer.strip(), 1)

    def stated(self, answer: str) -> str:
        """The statement with an answer of the second question.

        Raises:
            TextError: the chain has no statement.
        """
        if self.statement is None:
            raise TextError(f"BeliefChain.statement: expected text with '{SLOT}', got None.")
        return self.statement.replace(SLOT, answer.strip(), 1)

    def to_dict(self) -> dict[str, Any]:
        """The chain as a JSON object."""
        return {
            "first": {"prompt": self.first.prompt, "candidates": list(self.first.candidates)},
            "second": {"prompt": self.second.prompt, "candidates": list(self.second.candidates)},
            "compound": self.compound,
            "statement": self.statement,
        }


def _require_text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        raise TextError(f"{name}: expected text that is not blank, got {value!r}.")


def _require_slot(name: str, value: object) -> None:
    _require_text(name, value)
    if str(value).count(SLOT) != 1:
        raise TextError(
            f"{name}: expected '{SLOT}' exactly once, where the answer stands, got {value!r}; "
            f"write for example 'The capital of {SLOT} is'."
        )
