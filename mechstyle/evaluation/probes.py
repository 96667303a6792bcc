"""What is asked of a model for one edit request: its prompts, each with the two answers that compete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from mechstyle.cases import Question, own_questions
from mechstyle.errors import InputError, ModelError, TextError
from mechstyle.facts import EditRequest
from mechstyle.models import HookedModel
from mechstyle.tokens import EncodedPrompt, encode

__all__ = ["KINDS", "Kind", "Probe", "encode_probes", "in_context", "question_probe"]

Kind = Literal["rewrite", "paraphrase", "neighborhood"]
KINDS: Final[tuple[Kind, ...]] = ("rewrite", "paraphrase", "neighborhood")


@dataclass(frozen=True, eq=False)
class Probe:
    """One prompt with the continuations that are compared, tokenised.

    Args:
        request: index of the request it belongs to.
        subject: of the request, and its relation where that is known.
        question: what is asked.
        targets: the question's answers, then its foils.
        encoded: the prompt followed by each target.
    """

    request: int
    subject: str
    relation: str | None
    question: Question
    targets: tuple[str, ...]
    encoded: tuple[EncodedPrompt, ...]

    @property
    def prompt(self) -> str:
        """The question's prompt."""
        return self.question.prompt


def encode_probes(
    model: HookedModel, requests: Sequence[EditRequest], *, prepend_bos: bool | None
) -> list[Probe]:
    """Tokenise every prompt of every request, so that nothing can go wrong with texts later.

    Raises:
        InputError: no requests, or something that is not an ``EditRequest``.
        TextError: a prompt does not fit the tokenizer or the context; the message names request and prompt.
        TextError: a neighbour's true target is the new target, so that the two cannot compete.

    >>> [probe.kind for probe in encode_probes(model, [request], prepend_bos=None)]  # doctest: +SKIP
    ['rewrite', 'paraphrase', 'neighborhood']
    """
    if isinstance(requests, EditRequest) or not isinstance(requests, Sequence):
        raise InputError(
            f"requests: expected a list of EditRequest, got one {type(requests).__name__}; pass [request]."
        )
    if not requests:
        raise InputError("requests: expected at least one EditRequest, got none.")
    for index, request in enumerate(requests):
        if not isinstance(request, EditRequest):
            raise InputError(f"requests[{index}]: expected an EditRequest, got {type(request).__name__}.")
    return [
        question_probe(model, index, request, question, prepend_bos=prepend_bos)
        for index, request in enumerate(requests)
        for question in _own(index, request)
    ]


def question_probe(
    model: HookedModel, index: int, request: EditRequest, question: Question, *, prepend_bos: bool | None
) -> Probe:
    """Tokenise one question about a request, with its answers and foils.

    Raises:
        TextError: it does not fit the tokenizer or the context; the message names request and prompt.

    >>> question_probe(model, 0, request, question, prepend_bos=None).targets  # doctest: +SKIP
    (' guitar', ' trumpet')
    """
    where = f"requests[{index}], {question.kind} prompt {question.prompt!r}"
    targets = (*question.answers, *question.foils)
    encoded = _encoded(model, where, question.prompt, targets, prepend_bos)
    return Probe(index, request.fact.subject, request.fact.relation, question, targets, encoded)


def in_context(
    model: HookedModel, probes: Sequence[Probe], context: str, *, prepend_bos: bool | None
) -> list[Probe]:
    """The same probes, asked behind a text.

    Raises:
        TextError: a prompt does not fit into the model's context there; the message names it.

    >>> in_context(model, probes, "The day was long. ", prepend_bos=None)  # doctest: +SKIP
    """
    if not context:
        return list(probes)
    found = []
    for probe in probes:
        where = f"requests[{probe.request}], {probe.question.kind} prompt {probe.prompt!r} behind {context!r}"
        encoded = _encoded(model, where, context + probe.prompt, probe.targets, prepend_bos)
        found.append(replace(probe, encoded=encoded))
    return found


def _own(index: int, request: EditRequest) -> tuple[Question, ...]:
    """The request's own prompts as questions."""
    for prompt, own in request.neighborhood:
        if own == request.new_target:
            raise TextError(
                f"requests[{index}], neighborhood prompt {prompt!r}: its true target must differ from the "
                f"new target, but both are {own!r}; choose another neighbour or another new target."
            )
    return own_questions(request)


def _encoded(
    model: HookedModel, where: str, prompt: str, targets: Sequence[str], prepend_bos: bool | None
) -> tuple[EncodedPrompt, ...]:
    """A prompt with each of its targets."""
    try:
        return tuple(encode(model, prompt, target=target, prepend_bos=prepend_bos) for target in targets)
    except ModelError:
        raise
    except InputError as error:
        raise TextError(f"{where}: {error}") from error
