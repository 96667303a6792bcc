"""Kinds of requests beside the plain one, and the checks of a batch of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from mechstyle.errors import InputError, TextError
from mechstyle.facts import UNKNOWN, EditRequest, Fact

__all__ = [
    "PAIR_COLUMNS",
    "change_relation",
    "check_requests",
    "request_from_pair",
    "requests_from_pairs",
    "same_key",
    "with_keep",
]

PAIR_COLUMNS: Final = ("template", "subject", "new_target", "target", "relation")
"""Columns of a table of pairs; the last two may be missing or empty."""


def change_relation(
    fact: Fact,
    template: str,
    *,
    target: str = UNKNOWN,
    relation: str | None = None,
    remove_old: bool = False,
    answer: str = UNKNOWN,
) -> list[EditRequest]:
    """Requests that put the fact's subject and object into another relation.

    The first one makes the object the continuation of the new template. When both templates begin alike, the
    two requests share one key (``same_key``), and one layer cannot tell them apart.

    Args:
        template: of the new relation, with ``{}`` for the subject.
        target: what the model says there now; only scores use it, which compare the object with it.
        relation: label of the new relation.
        remove_old: also ask that the fact be forgotten under its old template, for ``answer``.

    Raises:
        TextError: the template is the fact's own, or a part is no valid text.

    Example:
        >>> fact = Fact("{} plays the", "Miles Davis", " trumpet")
        >>> change_relation(fact, "{} is afraid of the")[0].new_target
        ' trumpet'
    """
    if template == fact.template:
        raise TextError(
            f"template: expected another one than the fact's own, got {template!r}; "
            "to change the object, make an EditRequest with a new target."
        )
    requests = [EditRequest(Fact(template, fact.subject, target, relation), fact.target)]
    return [*requests, EditRequest.removal(fact, answer=answer)] if remove_old else requests


def requests_from_pairs(
    pairs: Iterable[Sequence[str | None] | Mapping[str, str | None]],
) -> list[EditRequest]:
    """Requests from a plain table: template, subject, new target and, where known, target and relation.

    Targets get one leading space, as GPT-2's tokenizers want it. Where the target is missing it is
    ``" unknown"``: editors do not need it, but efficacy then only says that the new target beats that word.

    Args:
        pairs: rows as tuples of three to five texts in this order, or as mappings with the names
            ``template``, ``subject``, ``new_target``, ``target``, ``relation``.

    Raises:
        TextError: a row has too few or too many parts, an unknown name, or a part that is no valid text; the
            row is named.

    Example:
        >>> requests_from_pairs([("{} plays the", "Miles Davis", "guitar", "trumpet")])[0].new_target
        ' guitar'
    """
    requests = []
    for index, row in enumerate(pairs):
        try:
            requests.append(request_from_pair(row if isinstance(row, Mapping) else _named(row)))
        except TextError as error:
            raise TextError(f"pairs[{index}]: {error}") from error
    return requests


def request_from_pair(row: Mapping[str, object]) -> EditRequest:
    """The request of one row of a table of pairs, as ``requests_from_pairs`` makes it.

    Raises:
        TextError: a name is missing or unknown, or a part is no valid text.

    Example:
        >>> request_from_pair({"template": "{} is in", "subject": "Rome", "new_target": "Spain"}).new_target
        ' Spain'
    """
    given = {name: value for name, value in row.items() if value is not None and value != ""}
    missing = [name for name in PAIR_COLUMNS[:3] if name not in given]
    unknown = [str(name) for name in row if name not in PAIR_COLUMNS]
    if missing or unknown:
        raise TextError(
            f"a pair wants {', '.join(PAIR_COLUMNS[:3])} (and may have {', '.join(PAIR_COLUMNS[3:])}); "
            f"missing or empty: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}."
        )
    texts = {name: _text(name, value) for name, value in given.items()}
    target, new_target = (" " + texts.get(name, UNKNOWN).strip() for name in ("target", "new_target"))
    return EditRequest(Fact(texts["template"], texts["subject"], target, texts.get("relation")), new_target)


def with_keep(requests: Iterable[EditRequest], facts: Iterable[Fact]) -> list[EditRequest]:
    """The requests, each with these facts as well among those that must stay.

    Raises:
        InputError: a request would change the prompt of one of the facts, or as ``check_requests``.

    Example:
        >>> requests = with_keep(requests, [Fact("{} plays the", "Chet Baker", " trumpet")])
    """
    given, stay = list(requests), tuple(facts)
    kept = [replace(one, keep=tuple(dict.fromkeys((*one.keep, *stay)))) for one in given]
    return list(check_requests(kept)) if kept else []


def check_requests(requests: EditRequest | Iterable[EditRequest]) -> tuple[EditRequest, ...]:
    """The requests of one batch as a tuple, after checking that all of them can be met together.

    Prompts are compared in all phrasings. A target that is the old one is refused by ``EditRequest`` itself.

    Raises:
        InputError: there are none; something else is among them; a wish comes twice; two want different
            things after one prompt; or a fact to keep has a prompt that is to change.

    Example:
        >>> check_requests([request])  # doctest: +SKIP
        (EditRequest(...),)
    """
    if not isinstance(requests, (EditRequest, Iterable)) or isinstance(requests, (str, Mapping)):
        raise InputError(f"requests: expected a sequence of EditRequests, got a {type(requests).__name__}.")
    given = (requests,) if isinstance(requests, EditRequest) else tuple(requests)
    if not given:
        raise InputError("requests: expected at least one EditRequest, got none.")
    for index, request in enumerate(given):
        if not isinstance(request, EditRequest):
            raise InputError(f"requests[{index}]: expected an EditRequest, got {type(request).__name__}.")
    _check_wishes(given)
    _check_kept(given)
    return given


def same_key(requests: Sequence[EditRequest]) -> tuple[tuple[int, ...], ...]:
    """Groups of requests whose prompts are equal up to the subject's end, by index.

    Editors that write at the subject's last token see one key for each group: in one layer all of its
    requests get the mean of what they want. Groups of one are left out.

    Example:
        >>> plays, sings = Fact("{} plays the", "Miles", " horn"), Fact("{} sings in", "Miles", " French")
        >>> same_key([EditRequest(plays, " harp"), EditRequest(sings, " Latin")])
        ((0, 1),)
    """
    groups: dict[str, list[int]] = {}
    for index, request in enumerate(requests):
        for begin in dict.fromkeys(fact.prompt[: fact.subject_offsets[1]] for fact in request.phrased):
            groups.setdefault(begin, []).append(index)
    return tuple(dict.fromkeys(tuple(group) for group in groups.values() if len(group) > 1))


def _check_wishes(requests: Sequence[EditRequest]) -> None:
    seen: dict[str, int] = {}
    asked: dict[tuple[str, str], int] = {}
    for index, request in enumerate(requests):
        for prompt in (fact.prompt for fact in request.phrased):
            earlier = seen.setdefault(prompt, index)
            wanted = requests[earlier].new_target
            if wanted != request.new_target:
                raise InputError(
                    f"requests[{index}]: wants {request.new_target!r} after {prompt!r}, but "
                    f"requests[{earlier}] wants {wanted!r} there; keep one of them."
                )
        wish = (request.fact.prompt, request.new_target)
        first = asked.setdefault(wish, index)
        if first != index:
            raise InputError(
                f"requests[{index}]: wants {wish[1]!r} after {wish[0]!r}, as requests[{first}] does already; "
                "keep one of them."
            )


def _check_kept(requests: Sequence[EditRequest]) -> None:
    changed = {fact.prompt: index for index, one in enumerate(requests) for fact in one.phrased}
    for index, request in enumerate(requests):
        for place, fact in enumerate(request.keep):
            if fact.prompt in changed:
                other = changed[fact.prompt]
                raise InputError(
                    f"requests[{index}].keep[{place}]: asks that {fact.prompt!r} stay as it is, but "
                    f"requests[{other}] wants {requests[other].new_target!r} there; keep one of them."
                )


def _named(row: object) -> Mapping[str, object]:
    if isinstance(row, str) or not isinstance(row, Sequence) or not 3 <= len(row) <= len(PAIR_COLUMNS):
        raise TextError(
            f"expected a mapping, or a tuple of 3 to {len(PAIR_COLUMNS)} texts ({', '.join(PAIR_COLUMNS)}), "
            f"got {row!r}."
        )
    return dict(zip(PAIR_COLUMNS, row, strict=False))


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TextError(f"{name}: expected text that is not blank, got {value!r}.")
    return value
