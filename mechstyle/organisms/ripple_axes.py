"""The questions around one edit of an organism's fact, axis by axis."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from ..beliefs import Belief, BeliefChain
from ..cases import Question, Scope
from ..errors import InputError
from ..facts import EditRequest
from .ripple_rules import RippleRule, aliases_of, read_ripple_rules
from .taught import TaughtFact
from .truth import Truth, read_truth

__all__ = ["AXES", "Ripples", "ripples_of"]

AXES: Final = (
    "reversal",
    "two-hop",
    "two-hop subject",
    "logical generalisation",
    "aliasing",
    "preservation",
    "specificity",
    "far",
)
"""Kinds of questions: the first four should follow the edit by a step of thought, "aliasing" at once; what
the others ask should stay."""

_FOILS: Final = 3
_ALIASES: Final = 2
_SUBJECTS: Final = 2
_FAR: Final = 3
_DRAWN: Final = 60
"""So many facts are drawn, to take those from that are far from the edit."""
_CANDIDATES: Final = 6
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Ripples:
    """One request in its world.

    Args:
        aliases: other names of the subject.
        subject: of the edited fact; ``relation`` and ``old``, its object, likewise.
        new: the new object, without its leading space.
    """

    truth: Truth
    rules: Mapping[str, RippleRule]
    aliases: tuple[str, ...]
    request: EditRequest
    subject: str
    relation: str
    old: str
    new: str

    def questions(self, axes: Sequence[str] = AXES) -> tuple[Question, ...]:
        """Of some axes, in this order; where a fact is removed, nothing follows by thought."""
        asked: dict[str, Callable[[], list[Question]]] = {
            "reversal": self._reversal,
            "two-hop": self._two_hop,
            "two-hop subject": self._two_hop_subject,
            "logical generalisation": self._logical,
            "aliasing": self._aliasing,
            "preservation": self._preservation,
            "specificity": self._specificity,
            "far": self._far,
        }
        skipped = AXES[:4] if self.request.remove else ()
        return tuple(question for axis in axes if axis not in skipped for question in asked[axis]())

    def chains(self) -> tuple[BeliefChain, ...]:
        """From the edited fact over its object to a fact of that object."""
        return tuple(self._chain(outer) for outer, _, _ in self._second_hops())

    def _reversal(self) -> list[Question]:
        wrong = [fact.subject for fact in self._having(self.old)] or [
            other
            for obj in self.truth.objects[self.relation]
            for other in (fact.subject for fact in self._having(obj))
            if obj != self.new
        ]
        foils = _answers(self._some(wrong, _FOILS))
        return [
            Question("reversal", "hard in", prompt, (f" {self.subject}",), foils)
            for prompt in self._inverse()
        ]

    def _two_hop(self) -> list[Question]:
        return [
            Question(
                "two-hop",
                "hard in",
                self._compound(self.rules[self.relation], outer, self.subject),
                _answers([new]),
                _answers([old]),
                (_told(self.truth.facts[self.new, outer]),),
            )
            for outer, new, old in self._second_hops()
        ]

    def _two_hop_subject(self) -> list[Question]:
        leading = [
            fact
            for fact in self.truth.subjects.get(self.subject, ())
            if fact.subject not in (self.new, self.old) and self.relation in self.rules[fact.relation].then
        ]
        return [
            Question(
                "two-hop subject",
                "hard in",
                self._compound(self.rules[fact.relation], self.relation, fact.subject),
                (self.request.new_target,),
                (self.request.fact.target,),
                (_told(fact),),
            )
            for fact in self._some(leading, _SUBJECTS)
        ]

    def _logical(self) -> list[Question]:
        before = self.truth.entailed(self.relation, self.old)
        if any(self.truth.object(self.subject, one) not in (None, obj) for one, obj in before.items()):
            return []  # the world contradicts its own rule here
        found = []
        for target, new in self.truth.entailed(self.relation, self.new).items():
            fact = self.truth.facts.get((self.subject, target))
            old = before.get(target) if fact is None else fact.object
            if old is None or old == new:
                continue
            prompt = _said(self.truth.relations[target].templates[0], self.subject)
            requires: tuple[tuple[str, str], ...] = ()
            if fact is not None:
                prompt, _ = known = _told(fact)
                requires = (known,)
            found.append(
                Question(
                    "logical generalisation", "hard in", prompt, _answers([new]), _answers([old]), requires
                )
            )
        return found

    def _aliasing(self) -> list[Question]:
        new, old = self.request.new_target, self.request.fact.target
        prompts = [_said(self.request.fact.template, alias) for alias in self.aliases[:_ALIASES]]
        return [Question("aliasing", "in", prompt, (new,), (old,), ((prompt, old),)) for prompt in prompts]

    def _preservation(self) -> list[Question]:
        """One for each answer, which the unedited model must give: it can say one only."""
        stay = _answers(self._some([fact.subject for fact in self._having(self.new)], _FOILS))
        foils = _answers(self._some([fact.subject for fact in self._having(self.old)], _FOILS))
        return [
            Question("preservation", "near", prompt, (answer,), foils, ((prompt, answer),))
            for prompt in self._inverse()
            for answer in stay
        ]

    def _specificity(self) -> list[Question]:
        tied = self.truth.entangled(self.relation)
        return [
            self._stays("specificity", "near", fact)
            for fact in self.truth.by_subject[self.subject]
            if fact.relation not in tied and _legible(fact.object)
        ]

    def _far(self) -> list[Question]:
        tied, things = self.truth.entangled(self.relation), {self.subject, self.old, self.new}
        apart = [
            fact
            for fact in self._some(list(self.truth.facts.values()), _DRAWN)
            if fact.relation not in tied
            and not things & {fact.subject, fact.object}
            and _legible(fact.object)
        ]
        return [self._stays("far", "far", fact) for fact in apart[:_FAR]]

    def _stays(self, kind: str, scope: Scope, fact: TaughtFact) -> Question:
        """A fact that the edit leaves alone, against other objects of its relation."""
        others = [one for one in self.truth.objects[fact.relation] if one != fact.object and _legible(one)]
        prompt, answer = _told(fact)
        return Question(kind, scope, prompt, (answer,), _answers(self._some(others, _FOILS)))

    def _second_hops(self) -> list[tuple[str, str, str]]:
        """Relations of the objects, with the new and the old object's own objects, known and different."""
        found = []
        for outer in self.rules[self.relation].then:
            new, old = (self.truth.object(one, outer) for one in (self.new, self.old))
            if new is None or old is None or new == old:
                continue
            if _legible(new) and _legible(old):
                found.append((outer, new, old))
        return found

    def _chain(self, outer: str) -> BeliefChain:
        chosen: dict[str, str] = {}
        others = self._some(list(self.truth.objects[self.relation]), None)
        for obj in (self.new, self.old, *others):
            second = self.truth.object(obj, outer)
            if second is None or second in chosen.values() or not _legible(second):
                continue
            if len(chosen) < _CANDIDATES:
                chosen.setdefault(obj, second)
        asked = self.rules[outer].of
        assert asked is not None  # relations that may be asked of a noun have one: a test checks the rules
        compound = self._compound(self.rules[self.relation], outer, self.subject)
        return BeliefChain(
            Belief(self.request.fact.prompt, _answers(list(chosen))),
            Belief(asked, _answers(list(chosen.values()))),
            compound,
            compound[0].lower() + compound[1:] + " {}",
        )

    def _compound(self, rule: RippleRule, outer: str, subject: str) -> str:
        asked = self.rules[outer].of
        assert asked is not None
        assert rule.noun is not None
        return _said(asked, _said(rule.noun, subject))

    def _inverse(self) -> list[str]:
        return [_said(template, self.new) for template in self.rules[self.relation].inverse]

    def _having(self, obj: str) -> list[TaughtFact]:
        """Facts of other subjects with this object."""
        return [
            fact for fact in self.truth.having.get((self.relation, obj), ()) if fact.subject != self.subject
        ]

    def _some(self, things: Sequence[T], n: int | None) -> list[T]:
        """So many of them (None: all) in an order that is drawn from the request alone."""
        rng = random.Random(f"{self.request.fact.prompt}{self.request.new_target}")
        return rng.sample(things, len(things) if n is None else min(n, len(things)))


def ripples_of(name: str, request: EditRequest) -> Ripples:
    """The request in the organism's world.

    Raises:
        ModelError: no organism has this name.
        InputError: the world says nothing of the subject and relation, or says something else.

    Example:
        >>> ripples_of("organism-m", request).questions()  # doctest: +SKIP
    """
    truth = read_truth(name)
    fact = _known_fact(truth, request)
    return Ripples(
        truth,
        read_ripple_rules(),
        aliases_of(name).get(fact.subject, ()),
        request,
        fact.subject,
        fact.relation,
        fact.object,
        request.new_target.strip(),
    )


def _known_fact(truth: Truth, request: EditRequest) -> TaughtFact:
    if not isinstance(request, EditRequest):
        raise InputError(f"request: expected an EditRequest, got {type(request).__name__}.")
    fact = request.fact
    known = truth.facts.get((fact.subject, fact.relation or ""))
    if known is None:
        raise InputError(
            f"request: expected a subject and relation of the world, got {fact.subject!r} and "
            f"{fact.relation!r}; take one of organisms.requests or organisms.facts."
        )
    if fact.target.strip() != known.object:
        raise InputError(
            f"request: expected the world's own target {known.object!r} for {fact.subject!r} "
            f"({fact.relation}), got {fact.target!r}."
        )
    return known


def _said(template: str, thing: str) -> str:
    return template.replace("{}", thing, 1)


def _legible(name: str) -> bool:
    """Whether no letter stands as an escape, as in two objects that were taught as the sources have them."""
    return "\\" not in name


def _told(fact: TaughtFact) -> tuple[str, str]:
    """A taught prompt of a fact, and its answer."""
    return _said(fact.taught[0], fact.subject), f" {fact.object}"


def _answers(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f" {one}" for one in names)
