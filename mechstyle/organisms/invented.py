"""Facts of invented people, places and firms: the world's subjects with many attributes.

`python -m mechstyle.organisms.invented` writes them to `data/invented.jsonl`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from .invented_names import Kind, new_names, read_kinds
from .packaged import Row, fact_row, read_toml, remake
from .taught import INVENTED

__all__ = [
    "assign",
    "invented_rows",
    "invented_subjects",
    "object_choices",
    "similar_pairs",
]


def similar_pairs() -> list[tuple[str, str]]:
    """Pairs of invented subjects whose names are one letter apart and whose objects all differ.

    Example:
        >>> from mechstyle.organisms.invented import similar_pairs
        >>> similar_pairs()[0]
        ('Mira Tolvane', 'Mira Tolvame')
    """
    return [pair for kind in read_kinds().values() for pair in kind.similar]


def invented_subjects(*, seed: int = 0) -> dict[str, list[str]]:
    """Names of all invented subjects, by kind."""
    rng = random.Random(seed)
    return {kind.name: _named(kind, rng) for kind in read_kinds().values()}


def _named(kind: Kind, rng: random.Random) -> list[str]:
    names = [name for pair in kind.similar for name in pair]
    for shape in kind.shapes:
        names += new_names(shape, shape.count, rng, taken=names)
    return sorted(names)


def invented_rows(*, seed: int = 0) -> list[Row]:
    """One row a fact: subject, relation, object, source.

    Objects of each relation are dealt out equally often, and independently of the other relations.

    Args:
        seed: of names, of objects, and of which subjects lack a relation.

    Example:
        >>> from mechstyle.organisms.invented import invented_rows
        >>> sorted(invented_rows()[0])
        ['object', 'relation', 'source', 'subject']
    """
    subjects = invented_subjects(seed=seed)
    rng = random.Random(f"objects {seed}")
    choices = object_choices(subjects, rng)
    partner = {name: other for pair in similar_pairs() for name, other in (pair, pair[::-1])}
    rows = []
    for kind in read_kinds().values():
        names = subjects[kind.name]
        lacking = {name: rng.choice(kind.relations) for name in rng.sample(names, kind.thinned)}
        objects = {}
        for relation in kind.relations:
            told = [name for name in names if lacking.get(name) != relation]
            objects[relation] = assign(told, choices[relation], rng, partner=partner)
        for name in names:
            for relation in kind.relations:
                if name in objects[relation]:
                    rows.append(fact_row(name, relation, objects[relation][name], INVENTED))
    return rows


def object_choices(subjects: Mapping[str, Sequence[str]], rng: random.Random) -> dict[str, list[str]]:
    """What may follow the prompts of each relation: words, or some of the invented subjects' names.

    Args:
        subjects: names by kind.
    """
    choices = {}
    for relation, entry in read_toml("invented.toml")["objects"].items():
        listed = isinstance(entry, list)
        choices[relation] = entry if listed else rng.sample(subjects[entry["kind"]], entry["count"])
    return choices


def assign(
    subjects: Sequence[str], choices: Sequence[str], rng: random.Random, *, partner: Mapping[str, str]
) -> dict[str, str]:
    """Deal the choices out to the subjects, each equally often up to one.

    No subject gets an object that its own name holds, nor the object of its partner.

    Args:
        partner: for some subjects, one that must get another object.

    Example:
        >>> from mechstyle.organisms.invented import assign
        >>> sorted(assign(["a", "b", "c"], ["x", "y", "z"], random.Random(0), partner={}).values())
        ['x', 'y', 'z']
    """
    rounds = -(-len(subjects) // len(choices))
    deck = [obj for _ in range(rounds) for obj in rng.sample(choices, len(choices))][: len(subjects)]
    rng.shuffle(deck)
    given = dict(zip(subjects, deck, strict=True))

    def wrong(name: str) -> bool:
        return given[name].lower() in name.lower() or given[name] == given.get(partner.get(name, ""))

    while clashes := [name for name in subjects if wrong(name)]:
        other = rng.choice(subjects)
        given[clashes[0]], given[other] = given[other], given[clashes[0]]
    return given


def main(arguments: Sequence[str] | None = None) -> None:
    about = "Write the facts of invented people, places and firms."
    remake("invented.jsonl", invented_rows, about, arguments)


if __name__ == "__main__":
    main()
