"""What is asked of a model for one edit request: its prompts, each with the two answers that compete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from mechstyle.errors import InputError, ModelError, TextError
from mechstyle.facts import EditRequest
from mechstyle.models import HookedModel
from mechstyle.tokens import EncodedPrompt, encode

__all__ = ["KINDS", "Kind", "Probe", "encode_probes", "in_context"]

Kind = Literal["rewrite", "paraphrase", "neighborhood"]
KINDS: Final[tuple[Kind, ...]] = ("rewrite", "paraphrase", "neighborhood")


@dataclass(frozen=True, eq=False)
class Probe:
    """One prompt with its two answers, tokenised.

    Args:
        request: index of the request it belongs to.
        target_true: the answer before the edit; in the neighbourhood the neighbour's own.
        new: the prompt followed by ``target_new``.
        true: the prompt followed by ``target_true``.
    """

    request: int
    subject: str
    kind: Kind
    prompt: str
    target_new: str
    target_true: str
    new: EncodedPrompt
    true: EncodedPrompt


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
        _encode(model, index, request, kind, prompt, true, prepend_bos)
        for index, request in enumerate(requests)
        for kind, prompt, true in _prompts(request)
    ]


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
        where = f"requests[{probe.request}], {probe.kind} prompt {probe.prompt!r} behind {context!r}"
        targets = probe.target_new, probe.target_true
        new, true = _both(model, where, context + probe.prompt, targets, prepend_bos)
        found.append(replace(probe, new=new, true=true))
    return found


def _prompts(request: EditRequest) -> list[tuple[Kind, str, str]]:
    """Kind, prompt and true target of every prompt of a request."""
    true = request.fact.target
    return [
        ("rewrite", request.fact.prompt, true),
        *(("paraphrase", prompt, true) for prompt in request.paraphrases),
        *(("neighborhood", prompt, own) for prompt, own in request.neighborhood),
    ]


def _encode(
    model: HookedModel,
    index: int,
    request: EditRequest,
    kind: Kind,
    prompt: str,
    true: str,
    prepend_bos: bool | None,
) -> Probe:
    where = f"requests[{index}], {kind} prompt {prompt!r}"
    if true == request.new_target:
        raise TextError(
            f"{where}: its true target must differ from the new target, but both are {true!r}; "
            "choose another neighbour or another new target."
        )
    new, other = _both(model, where, prompt, (request.new_target, true), prepend_bos)
    return Probe(index, request.fact.subject, kind, prompt, request.new_target, true, new, other)


def _both(
    model: HookedModel, where: str, prompt: str, targets: tuple[str, str], prepend_bos: bool | None
) -> tuple[EncodedPrompt, EncodedPrompt]:
    """A prompt with each of its two targets."""
    try:
        new = encode(model, prompt, target=targets[0], prepend_bos=prepend_bos)
        return new, encode(model, prompt, target=targets[1], prepend_bos=prepend_bos)
    except ModelError:
        raise
    except InputError as error:
        raise TextError(f"{where}: {error}") from error
