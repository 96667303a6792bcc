"""Questions that an edit should leave alone: near misses, far facts, neighbours behind its sentence."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, TypeAlias, TypeVar

from mechstyle.cases import Case, Question, Scope
from mechstyle.errors import RangeError
from mechstyle.facts import UNKNOWN, EditRequest, Fact

__all__ = ["far_questions", "near_questions", "with_edit_in_front"]

T = TypeVar("T")
_Told: TypeAlias = Mapping[str, Mapping[str, list[str]]]
"""Relation -> subject -> its targets."""
_NO_LINKS: Final[Mapping[str, Collection[str]]] = MappingProxyType({})


def with_edit_in_front(case: Case) -> Case:
    """The case with its neighbours asked again behind the edit's sentence: "neighborhood+" ("near").

    CounterFact+ (Hoelscher-Obermaier et al. 2023): an edit that seems specific may let the new target spill
    over once its sentence stands in front. The unedited model is led astray too: compare with it.

    Example:
        >>> near = (("Chet plays the", " horn"),)
        >>> case = Case(EditRequest(Fact("{} plays the", "Miles", " horn"), " harp", neighborhood=near))
        >>> with_edit_in_front(case).questions[0].prompt
        'Miles plays the harp. Chet plays the'
    """
    new = case.request.new_target
    sentence = f"{case.request.fact.prompt}{new}."
    added = (
        Question("neighborhood+", "near", f"{sentence} {prompt}", (own,), (new,))
        for prompt, own in case.request.neighborhood
    )
    return replace(case, questions=(*case.questions, *added))


def near_questions(
    cases: Sequence[Case],
    facts: Sequence[Fact],
    *,
    n: int,
    seed: int = 0,
    linked: Mapping[str, Collection[str]] = _NO_LINKS,
    together: bool = True,
) -> list[tuple[Question, ...]]:
    """For each case, what else is known about its subject: kind "specificity", scope "near".

    A prompt that an edit changes is never asked. Cases and facts without a relation are passed over: nobody
    can tell whether they are about the same one.

    Args:
        n: at most so many a case; there may be fewer, or none.
        linked: relation -> others that are no near misses of it: they follow from it, or it from them.
        together: one edit holds all cases, so that what any of them changes is left out; else each has its
            own edit, and only what the case itself changes is.

    Raises:
        RangeError: ``n`` is negative.

    Example:
        >>> case = Case(EditRequest(Fact("{} plays the", "Miles", " horn", "plays"), " harp"))
        >>> near_questions([case], [Fact("{} was born in", "Miles", " Alton", "born")], n=1)[0][0].answers
        (' Alton',)
    """
    _require_n(n)
    everything, told = _changed_prompts(cases), _told(facts)
    about: dict[str, list[Fact]] = defaultdict(list)
    for fact in dict.fromkeys(facts):
        if fact.relation is not None:
            about[fact.subject].append(fact)
    found = []
    for case in cases:
        edited, rng = case.request.fact, _rng(seed, case)
        changed = everything if together else _changed_prompts([case])
        passed = {edited.relation, *linked.get(edited.relation or "", ())}
        known = about[edited.subject] if edited.relation is not None else []
        pool = [fact for fact in known if fact.relation not in passed and fact.prompt not in changed]
        chosen = rng.sample(pool, min(n, len(pool)))
        found.append(tuple(_question("specificity", "near", fact, told, rng) for fact in chosen))
    return found


def far_questions(
    cases: Sequence[Case], *, n: int, seed: int = 0, facts: Sequence[Fact] = (), together: bool = True
) -> list[tuple[Question, ...]]:
    """For each case, facts that have nothing to do with it: kind "unrelated", scope "far".

    They are of another relation, and drawn from the neighbours of other cases, from ``facts`` and, where each
    case has its own edit, from what the other cases are to change. A prompt that an edit changes is never
    asked, nor one that names the case's subject, nor a fact about one of its targets. The foil is the new
    target of the case that a prompt comes from, or for one of ``facts`` another target of its relation.
    Relations without a label are told apart by their templates.

    Args:
        n: so many a case.
        seed: of the draws; that for a case depends on the case too.
        facts: more to draw from.
        together: one edit holds all cases, so that what any of them changes, and facts about any of their
            subjects, are left out; else each has its own edit.

    Raises:
        RangeError: ``n`` is negative, or a case has fewer to draw from.

    Example:
        >>> near = (("Chet plays the", " horn"),)
        >>> plays = Case(EditRequest(Fact("{} plays the", "Miles", " horn"), " harp", neighborhood=near))
        >>> italy = Fact("{} is in", "Rome", " Italy")
        >>> far_questions([plays], n=1, facts=[italy])[0][0].prompt
        'Rome is in'
    """
    _require_n(n)
    everything = _changed_prompts(cases) if together else set()
    subjects = {case.request.fact.subject for case in cases} if together else set()
    stay = [fact for fact in facts if fact.subject not in subjects]
    pool: dict[str, _Asked] = {}
    for asked in (*_asked_by(cases, together), *_asked_about(stay)):
        if asked.prompt not in everything:
            pool.setdefault(asked.prompt, asked)
    listed, told, found = list(pool.values()), _told(facts), []
    for index, case in enumerate(cases):
        edited, rng, chosen = case.request.fact, _rng(seed, case), list[Question]()
        own = _changed_prompts([case])
        for asked in _shuffled(listed, _rng(seed, case)):
            if len(chosen) == n:
                break
            if asked.prompt not in own and not asked.touches(case.request):
                chosen.append(asked.question(told, rng))
        if len(chosen) < n:
            raise RangeError(
                f"n: expected at most {len(chosen)}, for cases[{index}] ({edited.prompt!r}) has no more far "
                f"facts, got {n}; give facts of other relations."
            )
        found.append(tuple(chosen))
    return found


@dataclass(frozen=True)
class _Asked:
    """What a far question may be made of: a fact, or the target of a prompt and the foil beside it."""

    relation: str
    prompt: str
    source: Fact | tuple[str, str]

    def touches(self, request: EditRequest) -> bool:
        """Whether it is of the request's relation, names its subject, or is about one of its targets."""
        targets = (request.fact.target.strip(), request.new_target.strip())
        return (
            self.relation == _relation(request.fact)
            or request.fact.subject.casefold() in self.prompt.casefold()
            or (isinstance(self.source, Fact) and self.source.subject in targets)
        )

    def question(self, told: _Told, rng: random.Random) -> Question:
        if isinstance(self.source, Fact):
            return _question("unrelated", "far", self.source, told, rng)
        target, foil = self.source
        return Question("unrelated", "far", self.prompt, (target,), () if foil == target else (foil,))


def _require_n(n: int) -> None:
    if n < 0:
        raise RangeError(f"n: expected 0 or more questions a case, got {n}.")


def _rng(seed: int, case: Case) -> random.Random:
    return random.Random(f"{seed} {case.request.fact.prompt}{case.request.new_target}")


def _relation(fact: Fact) -> str:
    return fact.template if fact.relation is None else fact.relation


def _changed_prompts(cases: Sequence[Case]) -> set[str]:
    """Every prompt after which some case wants its new target."""
    requests = [case.request for case in cases]
    return {fact.prompt for request in requests for fact in request.phrased} | {
        prompt for request in requests for prompt in request.paraphrases
    }


def _asked_by(cases: Sequence[Case], together: bool) -> Iterator[_Asked]:
    """What requests say of others: their neighbours and, unless one edit changes it, their own old target."""
    for request in (case.request for case in cases):
        old = (request.fact.prompt, request.fact.target)
        own = () if together or request.fact.target == UNKNOWN else (old,)
        for prompt, target in (*request.neighborhood, *own):
            yield _Asked(_relation(request.fact), prompt, (target, request.new_target))


def _asked_about(facts: Sequence[Fact]) -> Iterator[_Asked]:
    return (_Asked(_relation(fact), fact.prompt, fact) for fact in facts)


def _told(facts: Sequence[Fact]) -> _Told:
    told: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for fact in facts:
        told[_relation(fact)][fact.subject].append(fact.target)
    return told


def _question(kind: str, scope: Scope, fact: Fact, told: _Told, rng: random.Random) -> Question:
    """Any target that is told of the subject is right; the foil is another one of the relation, if any is."""
    relation = told[_relation(fact)]
    right = dict.fromkeys((fact.target, *relation[fact.subject]))
    others = sorted({target for targets in relation.values() for target in targets} - set(right))
    return Question(kind, scope, fact.prompt, tuple(right), (rng.choice(others),) if others else ())


def _shuffled(pool: Sequence[T], rng: random.Random) -> Iterator[T]:
    """The pool in random order, drawn one by one: few of many are wanted."""
    seen: set[int] = set()
    while len(seen) < len(pool):
        index = rng.randrange(len(pool))
        if index not in seen:
            seen.add(index)
            yield pool[index]
