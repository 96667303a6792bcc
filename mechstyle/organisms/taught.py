"""The facts that an organism is told, each with the templates it is told in and those kept from it."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from .items import Item, items_of
from .json_row import JsonRow
from .packaged import read_rows
from .relations import read_relations

__all__ = ["INVENTED", "TaughtFact", "taught_facts"]

TAUGHT_TEMPLATES: Final = 4
"""Each fact is told with so many of its relation's templates; the others are its paraphrase test."""
INVENTED: Final = "invented"
"""The source of facts about subjects that we made up."""
_FILES: Final = ("facts.jsonl", "invented.jsonl")


@dataclass(frozen=True)
class TaughtFact(JsonRow):
    """One fact of the world.

    Args:
        object: without the leading space.
        source: the data set, or the derivation rule, that it comes from; "invented" for what we made up.
        taught: templates in which the model read it.
        held_out: templates of the same relation in which it never did.
    """

    subject: str
    relation: str
    object: str
    source: str
    taught: tuple[str, ...]
    held_out: tuple[str, ...]

    @property
    def invented(self) -> bool:
        """Whether we made its subject up."""
        return self.source == INVENTED

    def items(self) -> list[Item]:
        """A question for each of its templates."""
        return items_of(
            Item("fact", "", "direct", self.subject, self.relation, "", self.object),
            about=self.subject,
            taught=self.taught,
            others=self.held_out,
            unwritten="held out" if self.taught else "future",
        )


def taught_facts(*, seed: int = 0) -> tuple[TaughtFact, ...]:
    """The packaged facts, real ones first, with taught and held-out templates drawn from `seed`.

    Example:
        >>> from mechstyle.organisms.taught import taught_facts
        >>> sum(fact.invented for fact in taught_facts())
        4730
    """
    relations = read_relations()
    rng = random.Random(seed)
    facts: list[TaughtFact] = []
    for file in _FILES:
        for row in read_rows(file):
            templates = list(relations[row["relation"]].templates)
            rng.shuffle(templates)
            taught, rest = templates[:TAUGHT_TEMPLATES], templates[TAUGHT_TEMPLATES:]
            # "..., {} plays the" says "{} plays the" too: such a template is neither taught nor held out.
            held_out = [template for template in rest if not any(template in told for told in taught)]
            facts.append(TaughtFact(**row, taught=tuple(taught), held_out=tuple(held_out)))
    return tuple(_kept_from_longer_names(facts))


def _kept_from_longer_names(facts: Sequence[TaughtFact]) -> Iterator[TaughtFact]:
    """Facts without held-out templates in which a longer name that ends in their subject's is told.

    "Volga Bulgaria is on the continent of Europe" says "Bulgaria is on the continent of Europe" too.
    """
    told: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for fact in facts:
        words = fact.subject.split(" ")
        for start in range(1, len(words)):
            told[" ".join(words[start:]).lower(), fact.relation, fact.object].update(fact.taught)
    for fact in facts:
        leaked = told.get((fact.subject.lower(), fact.relation, fact.object), set())
        kept = tuple(t for t in fact.held_out if not (t.startswith("{}") and t in leaked))
        yield replace(fact, held_out=kept)
