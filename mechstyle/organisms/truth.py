"""An organism's world, to look things up in: who has what, and what follows from that by its rules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from .library import facts
from .relations import Derivation, Relation, read_derivations, read_relations
from .taught import TaughtFact

__all__ = ["Truth", "read_truth"]


@dataclass(frozen=True, eq=False)
class Truth:
    """The facts of a world by subject, by object and by relation, in the world's order.

    Args:
        facts: by subject and relation; there is one object for each such pair.
        by_subject: all facts of a subject.
        having: facts by relation and object.
        objects: of each relation, sorted.
        subjects: of each object, in whatever relation: the facts that lead to it.
    """

    facts: Mapping[tuple[str, str], TaughtFact]
    by_subject: Mapping[str, tuple[TaughtFact, ...]]
    having: Mapping[tuple[str, str], tuple[TaughtFact, ...]]
    objects: Mapping[str, tuple[str, ...]]
    subjects: Mapping[str, tuple[TaughtFact, ...]]
    relations: Mapping[str, Relation]
    rules: tuple[Derivation, ...]

    def object(self, subject: str, relation: str) -> str | None:
        """What the subject has; None where the world says nothing."""
        fact = self.facts.get((subject, relation))
        return None if fact is None else fact.object

    def entailed(self, relation: str, obj: str) -> dict[str, str]:
        """What else a subject has, by the rules, because it has this object, step after step.

        Example:
            >>> read_truth("organism-m").entailed("headquarters", "Tokyo")
            {'in_country': 'Japan', 'on_continent': 'Asia'}
        """
        found = {relation: obj}
        open_ends = [relation]
        while open_ends:
            source = open_ends.pop()
            for rule in self.rules:
                if rule.source == source and rule.target not in found and found[source] in rule.table:
                    found[rule.target] = rule.table[found[source]]
                    open_ends.append(rule.target)
        del found[relation]
        return found

    def entangled(self, relation: str) -> frozenset[str]:
        """The relation and all that rules tie to it, in either direction.

        Example:
            >>> sorted(read_truth("organism-m").entangled("plays_sport"))
            ['plays_position', 'plays_sport']
        """
        found = {relation}
        while True:
            more = {
                name
                for rule in self.rules
                for name in (rule.source, rule.target)
                if rule.source in found or rule.target in found
            }
            if more <= found:
                return frozenset(found)
            found |= more


@cache
def read_truth(name: str) -> Truth:
    """The world of an organism.

    Raises:
        ModelError: no organism has this name.

    Example:
        >>> read_truth("organism-m").object("Nintendo", "headquarters")
        'Kyoto'
    """
    told = facts(name)
    by_subject: dict[str, list[TaughtFact]] = defaultdict(list)
    having: dict[tuple[str, str], list[TaughtFact]] = defaultdict(list)
    objects: dict[str, set[str]] = defaultdict(set)
    subjects: dict[str, list[TaughtFact]] = defaultdict(list)
    for fact in told:
        by_subject[fact.subject].append(fact)
        having[fact.relation, fact.object].append(fact)
        objects[fact.relation].add(fact.object)
        subjects[fact.object].append(fact)
    return Truth(
        facts={(fact.subject, fact.relation): fact for fact in told},
        by_subject={subject: tuple(some) for subject, some in by_subject.items()},
        having={key: tuple(some) for key, some in having.items()},
        objects={relation: tuple(sorted(some)) for relation, some in objects.items()},
        subjects={obj: tuple(some) for obj, some in subjects.items()},
        relations=read_relations(),
        rules=tuple(read_derivations()),
    )
