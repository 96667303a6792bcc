"""What is asked of a model for one edit request: its prompts, each with the two answers that compete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from mechstyle.errors import InputError, ModelError, TextError
from mechstyle.facts import EditRequest
from mechstyle.models import HookedModel
from mechstyle.tokens import EncodedPrompt, encode

__all__ = ["KINDS", "Kind", "Probe", "encode_probes"]

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
    try:
        new_ids = encode(model, prompt, target=request.new_target, prepend_bos=prepend_bos)
        true_ids = encode(model, prompt, target=true, prepend_bos=prepend_bos)
    except ModelError:
        raise
    except InputError as error:
        raise TextError(f"{where}: {error}") from error
    return Probe(index, request.fact.subject, kind, prompt, request.new_target, true, new_ids, true_ids)
