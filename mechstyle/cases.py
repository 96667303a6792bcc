"""What an edit is judged by: a request with questions of several scopes, prompts to go on from, and texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from mechstyle.errors import TextError
from mechstyle.facts import EditRequest

__all__ = ["SCOPES", "Case", "Question", "Scope", "cases_of", "own_questions"]

Scope = Literal["in", "hard in", "near", "far"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
"""Where a question stands to the edit: a rewording ("in"), or one that takes a step of thought, as a true or
false question does ("hard in"), should follow it; a near miss ("near") and what is unrelated ("far") not."""


@dataclass(frozen=True)
class Question:
    """One prompt, with the continuations that are right once the edit is made.

    Args:
        kind: what is asked, a free label: "paraphrase", "attribute", "reversal", "two-hop".
        scope: see ``SCOPES``. Answers of "near" and "far" are those of the model before the edit as well.
        prompt: whole.
        answers: right ones, with their leading space; any of them will do.
        foils: wrong ones that compete with them; without any only exact matches are counted.
        requires: pairs (prompt, answer) that the unedited model must say for the question to be a fair one.

    Raises:
        TextError: a part is blank, there is no answer, or an answer is a foil.

    Example:
        >>> Question("reversal", "hard in", "The trumpet is played by", (" Miles Davis",)).scope
        'hard in'
    """

    kind: str
    scope: Scope
    prompt: str
    answers: tuple[str, ...]
    foils: tuple[str, ...] = ()
    requires: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for name in ("kind", "prompt"):
            _require_text(f"Question.{name}", getattr(self, name))
        if self.scope not in SCOPES:
            raise TextError(f"Question.scope: expected one of {', '.join(SCOPES)}, got {self.scope!r}.")
        for name in ("answers", "foils"):
            object.__setattr__(self, name, _texts(f"Question.{name}", getattr(self, name)))
        if not self.answers:
            raise TextError(f"Question.answers: expected at least one answer to {self.prompt!r}, got none.")
        if both := sorted(set(self.answers) & set(self.foils)):
            raise TextError(f"Question.foils: {both[0]!r} is an answer to {self.prompt!r} too; leave it out.")
        object.__setattr__(self, "requires", _pairs("Question.requires", self.requires))

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, which ``from_dict`` reads; what is empty is left out."""
        whole = {
            "kind": self.kind,
            "scope": self.scope,
            "prompt": self.prompt,
            "answers": list(self.answers),
            "foils": list(self.foils),
            "requires": [list(pair) for pair in self.requires],
        }
        return {name: value for name, value in whole.items() if value}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Question:
        """Read the JSON form that ``to_dict`` wrote.

        Raises:
            TextError: a part is missing, unknown or wrong.
        """
        _require_keys("Question", data, ("kind", "scope", "prompt", "answers"), ("foils", "requires"))
        return cls(**data)


@dataclass(frozen=True)
class Case:
    """An edit request with everything that its edit is judged by.

    The request's own prompts, paraphrases and neighbours are judged too; they are not repeated here.

    Args:
        name: the data set's own number or name of it.
        questions: beyond the request's own.
        prompts: to be continued freely, for fluency and consistency.
        references: texts about things that have the new target; what is generated should resemble them.
        essence: texts about the subject, which should stay as probable as they are.

    Raises:
        TextError: a part is blank or of another kind.

    Example:
        >>> Case(EditRequest(Fact("{} plays the", "Miles", " horn"), " harp"), prompts=("Miles is",)).name
        ''
    """

    request: EditRequest
    name: str = ""
    questions: tuple[Question, ...] = ()
    prompts: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    essence: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.request, EditRequest):
            raise TextError(f"Case.request: expected an EditRequest, got {type(self.request).__name__}.")
        if not isinstance(self.name, str):
            raise TextError(f"Case.name: expected text, got {type(self.name).__name__}.")
        questions = tuple(_require_list("Case.questions", self.questions))
        for index, question in enumerate(questions):
            if not isinstance(question, Question):
                raise TextError(
                    f"Case.questions[{index}]: expected a Question, got {type(question).__name__}."
                )
        object.__setattr__(self, "questions", questions)
        for name in ("prompts", "references", "essence"):
            object.__setattr__(self, name, _texts(f"Case.{name}", getattr(self, name)))

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, which ``from_dict`` reads; what is empty is left out."""
        whole = {
            "name": self.name,
            "request": self.request.to_dict(),
            "questions": [question.to_dict() for question in self.questions],
            "prompts": list(self.prompts),
            "references": list(self.references),
            "essence": list(self.essence),
        }
        return {name: value for name, value in whole.items() if value}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Case:
        """Read the JSON form that ``to_dict`` wrote.

        Raises:
            TextError: a part is missing, unknown or wrong.
        """
        optional = ("name", "questions", "prompts", "references", "essence")
        _require_keys("Case", data, ("request",), optional)
        questions = _require_list("Case.questions", data.get("questions", ()))
        return cls(
            **{
                **data,
                "request": EditRequest.from_dict(_require_object("Case.request", data["request"])),
                "questions": tuple(
                    Question.from_dict(_require_object(f"Case.questions[{index}]", one))
                    for index, one in enumerate(questions)
                ),
            }
        )


def cases_of(requests: Sequence[EditRequest | Case]) -> list[Case]:
    """Cases as they are, and requests as cases that have nothing beyond their own prompts.

    Raises:
        TextError: something else is among them, or there are none.

    Example:
        >>> cases_of([request])[0].request is request  # doctest: +SKIP
        True
    """
    if isinstance(requests, (EditRequest, Case)) or not isinstance(requests, Sequence):
        raise TextError(
            f"requests: expected a list of EditRequest or Case, got one {type(requests).__name__}; pass [it]."
        )
    if not requests:
        raise TextError("requests: expected at least one, got none.")
    return [one if isinstance(one, Case) else Case(one) for one in requests]


def own_questions(request: EditRequest) -> tuple[Question, ...]:
    """The request's own prompts as questions: rewrite and paraphrases ("in"), neighbours ("near").

    Example:
        >>> own_questions(EditRequest(Fact("{} plays the", "Miles", " horn"), " harp"))[0].foils
        (' horn',)
    """
    new, true = request.new_target, request.fact.target
    return (
        Question("rewrite", "in", request.fact.prompt, (new,), (true,)),
        *(Question("paraphrase", "in", prompt, (new,), (true,)) for prompt in request.paraphrases),
        *(Question("neighborhood", "near", prompt, (own,), (new,)) for prompt, own in request.neighborhood),
    )


def _require_text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TextError(f"{name}: expected text that is not blank, got {value!r}.")
    return value


def _require_list(name: str, value: object) -> Sequence[object]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TextError(f"{name}: expected a tuple or list, got {type(value).__name__} {value!r}.")
    return value


def _texts(name: str, value: object) -> tuple[str, ...]:
    listed = _require_list(name, value)
    return tuple(_require_text(f"{name}[{index}]", one) for index, one in enumerate(listed))


def _pairs(name: str, value: object) -> tuple[tuple[str, str], ...]:
    found = []
    for index, pair in enumerate(_require_list(name, value)):
        parts = _texts(f"{name}[{index}]", pair)
        if len(parts) != 2:
            raise TextError(f"{name}[{index}]: expected a pair (prompt, answer), got {pair!r}.")
        found.append((parts[0], parts[1]))
    return tuple(found)


def _require_object(name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TextError(f"{name}: expected a JSON object, got {type(value).__name__} {value!r}.")
    return value


def _require_keys(
    name: str, data: Mapping[str, Any], required: Sequence[str], optional: Sequence[str]
) -> None:
    missing = [key for key in required if key not in data]
    unknown = [str(key) for key in data if key not in required and key not in optional]
    if missing or unknown:
        raise TextError(
            f"{name} wants the keys {', '.join(required)} (and may have {', '.join(optional)}); "
            f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}."
        )
