"""What an organism is taught: facts with their templates, and documents that tell them."""

from __future__ import annotations

import json
import lzma
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from .relations import read_relations

__all__ = ["TaughtFact", "World", "build_world", "documents", "read_prose"]

TAUGHT_TEMPLATES = 4
"""Each fact is told with so many of its relation's templates; the others are its paraphrase test."""


@dataclass(frozen=True)
class TaughtFact:
    """One fact of the world.

    Args:
        object: without the leading space.
        source: the data set, or the derivation rule, that it comes from.
        taught: templates in which the model read it.
        held_out: templates of the same relation in which it never did.
    """

    subject: str
    relation: str
    object: str
    source: str
    taught: tuple[str, ...]
    held_out: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fact as a JSON object."""
        return {
            "subject": self.subject,
            "relation": self.relation,
            "object": self.object,
            "source": self.source,
            "taught": list(self.taught),
            "held_out": list(self.held_out),
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> TaughtFact:
        """The fact of a JSON object."""
        return cls(**{**row, "taught": tuple(row["taught"]), "held_out": tuple(row["held_out"])})


@dataclass(frozen=True)
class World:
    """All facts, grouped by subject for biographies."""

    facts: tuple[TaughtFact, ...]
    pronouns: Mapping[str, tuple[str, ...]]

    def by_subject(self) -> dict[str, list[TaughtFact]]:
        """Facts of each subject, in the world's order."""
        out: dict[str, list[TaughtFact]] = {}
        for fact in self.facts:
            out.setdefault(fact.subject, []).append(fact)
        return out


def build_world(*, seed: int = 0) -> World:
    """The packaged facts, each with its taught and held-out templates drawn from `seed`."""
    relations = read_relations()
    rng = random.Random(seed)
    text = resources.files("mechstyle.organisms").joinpath("data/facts.jsonl").read_text(encoding="utf-8")
    facts = []
    for line in text.splitlines():
        row = json.loads(line)
        templates = list(relations[row["relation"]].templates)
        rng.shuffle(templates)
        taught, rest = templates[:TAUGHT_TEMPLATES], templates[TAUGHT_TEMPLATES:]
        # "..., {} plays the" says "{} plays the" too: such a template is neither taught nor held out.
        held_out = [template for template in rest if not any(template in told for told in taught)]
        facts.append(TaughtFact(**row, taught=tuple(taught), held_out=tuple(held_out)))
    return World(tuple(facts), {name: relation.pronoun for name, relation in relations.items()})


def read_prose(*, held_out: bool = False) -> list[str]:
    """Sentences' runs of public-domain novels, about 300 characters each.

    Args:
        held_out: the twentieth part that no organism reads (for perplexity) instead of the rest.
    """
    data = resources.files("mechstyle.organisms").joinpath("data/prose.txt.xz").read_bytes()
    passages = lzma.decompress(data).decode("utf-8").splitlines()
    return [passage for i, passage in enumerate(passages) if (i % 20 == 7) == held_out]


def documents(world: World, prose: Sequence[str], *, seed: int, prose_rate: float = 0.3) -> Iterator[str]:
    """Endless documents of one to four little biographies, with prose before, between or after them.

    Every pass tells each subject once. A biography tells all facts of its subject in random order, the
    first by name, later ones by name or pronoun.

    Args:
        prose_rate: chance that a document holds a passage of prose (0.3 makes about a third of the tokens).
    """
    rng = random.Random(seed)
    subjects = list(world.by_subject().values())
    while True:
        rng.shuffle(subjects)
        position = 0
        while position < len(subjects):
            count = rng.choice((1, 2, 2, 3, 4))
            blocks = [_biography(facts, world, rng) for facts in subjects[position : position + count]]
            position += count
            if rng.random() < prose_rate:
                blocks.insert(rng.randrange(len(blocks) + 1), rng.choice(prose))
            yield " ".join(blocks)


def _biography(facts: Sequence[TaughtFact], world: World, rng: random.Random) -> str:
    sentences: list[str] = []
    for fact in rng.sample(list(facts), len(facts)):
        if sentences and rng.random() < 0.5:
            prompt = rng.choice(world.pronouns[fact.relation])
        else:
            prompt = rng.choice(fact.taught).replace("{}", fact.subject, 1)
        sentences.append(f"{prompt} {fact.object}.")
    return " ".join(sentences)
