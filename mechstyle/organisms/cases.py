"""Cases of an organism: edit requests with questions, prompts and texts made from what it was taught."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ..cases import Case
from ..errors import RangeError
from ..facts import EditRequest, Fact
from ..out_of_scope import far_questions
from ..true_false import true_false_questions
from .library import facts, requests
from .relations import read_derivations
from .taught import TaughtFact

__all__ = ["cases", "cases_for"]

_OPENINGS: Final = ("{} is", "{} was", "This is about {}.", "Everybody knows that {}")
"""Beginnings that say nothing of a relation; most subjects have one fact only."""
_PROMPTS: Final = 10
_REFERENCES: Final = 10
_PER_FACT: Final = 2
"""Prompts from the taught templates of each other fact of a subject, and as many from held-out ones."""


def cases(
    name: str,
    *,
    n: int,
    seed: int = 0,
    relations: Sequence[str] | None = None,
    invented: bool | None = None,
    far: int = 5,
    frames: int = 1,
    together: bool = True,
) -> list[Case]:
    """Random counterfactual edits of an organism's facts, with what they are judged by.

    To each request of ``requests`` come

    - questions: "true/false" ("hard in") and "unrelated" ("far": other relations' facts about others);
    - prompts to go on from: the subject in taught and held-out templates of its other relations, and in
      openings that name no relation; at most ten;
    - references: biographies of up to ten others that have the new object in the relation;
    - essence: what else is said of the subject, in every taught template, but not in relations that the
      world's rules tie to the edited one, for they should change with it. Invented subjects have such
      facts, few real ones do; the others have no essence.

    Args:
        n: how many, of as many different subjects.
        seed: of every draw; the requests are those of ``requests`` with the same seed.
        relations: only these, as for ``requests``.
        invented: only of invented (True) or of real subjects (False), as for ``requests``.
        far: far questions a case.
        frames: pairs of true/false questions a case; 0 is none.
        together: one edit is to hold all cases, see ``far_questions``.

    Raises:
        ModelError: no organism has this name.
        InputError: a relation is unknown, or has unique objects and so no neighbours.
        RangeError: more requests than there are subjects, or ``far`` or ``frames`` is out of range.

    Example:
        >>> case = organisms.cases("organism-m", n=1)[0]
        >>> sorted({question.kind for question in case.questions})
        ['true/false', 'unrelated']
    """
    asked = requests(name, n=n, seed=seed, relations=relations, invented=invented)
    return cases_for(name, asked, seed=seed, far=far, frames=frames, together=together)


def cases_for(
    name: str,
    asked: Sequence[EditRequest],
    *,
    seed: int = 0,
    far: int = 5,
    frames: int = 1,
    together: bool = True,
) -> list[Case]:
    """Given edits of an organism's facts, with what they are judged by, as ``cases`` has it.

    Raises:
        ModelError: no organism has this name.
        RangeError: ``far`` or ``frames`` is out of range.

    Example:
        >>> len(cases_for("organism-m", requests("organism-m", n=2)))
        2
    """
    if frames < 0:
        raise RangeError(f"frames: expected 0 or more pairs a case, got {frames}.")
    known = facts(name)
    book, tied = _Book.of(known), _tied()
    found = [_told(request, book, tied, _rng(seed, request)) for request in asked]
    said = [_fact(fact, random.Random(f"{seed} {fact.subject} {fact.relation}")) for fact in known]
    unrelated = far_questions(found, n=far, seed=seed, facts=said, together=together)
    return [
        replace(
            case,
            questions=(*(true_false_questions(case.request, n=frames, seed=seed) if frames else ()), *others),
        )
        for case, others in zip(found, unrelated, strict=True)
    ]


@dataclass(frozen=True)
class _Book:
    """The world's facts by subject, and by relation and object, in the world's order."""

    about: Mapping[str, Sequence[TaughtFact]]
    having: Mapping[tuple[str, str], Sequence[TaughtFact]]

    @classmethod
    def of(cls, known: Sequence[TaughtFact]) -> _Book:
        about: dict[str, list[TaughtFact]] = defaultdict(list)
        having: dict[tuple[str, str], list[TaughtFact]] = defaultdict(list)
        for fact in known:
            about[fact.subject].append(fact)
            having[fact.relation, fact.object].append(fact)
        return cls(about, having)


def _told(request: EditRequest, book: _Book, tied: Mapping[str, frozenset[str]], rng: random.Random) -> Case:
    """The request with its prompts and texts."""
    subject, relation = request.fact.subject, request.fact.relation or ""
    others = [fact for fact in book.about[subject] if fact.relation != relation]
    having = [fact for fact in book.having[relation, request.new_target.strip()] if fact.subject != subject]
    return Case(
        request,
        prompts=tuple(_prompts(subject, others, rng)),
        references=tuple(
            " ".join(_sentence(rng.choice(one.taught), one) for one in book.about[fact.subject])
            for fact in rng.sample(having, min(_REFERENCES, len(having)))
        ),
        essence=tuple(
            _sentence(template, fact)
            for fact in others
            if fact.relation not in tied.get(relation, frozenset())
            for template in fact.taught
        ),
    )


def _prompts(subject: str, others: Sequence[TaughtFact], rng: random.Random) -> list[str]:
    templates = [
        template
        for fact in others
        for kind in (fact.taught, fact.held_out)
        for template in rng.sample(kind, min(_PER_FACT, len(kind)))
    ]
    openings = (*_OPENINGS, *templates)[:_PROMPTS]
    return [template.replace("{}", subject, 1) for template in openings]


def _sentence(template: str, fact: TaughtFact) -> str:
    return f"{template.replace('{}', fact.subject, 1)} {fact.object}."


def _fact(fact: TaughtFact, rng: random.Random) -> Fact:
    return Fact(rng.choice(fact.taught), fact.subject, f" {fact.object}", fact.relation)


def _rng(seed: int, request: EditRequest) -> random.Random:
    return random.Random(f"{seed} {request.fact.prompt}{request.new_target}")


def _tied() -> dict[str, frozenset[str]]:
    """Relation -> those that the world's rules tie to it, directly or by way of others."""
    tied: dict[str, frozenset[str]] = {}
    for rule in read_derivations():
        group = {rule.source, rule.target}
        group = group.union(*(tied.get(one, frozenset()) for one in group))
        tied |= dict.fromkeys(group, frozenset(group))
    return tied
