"""Future facts: no model is told them, so that experiments can teach a model something new.

`python -m mechstyle.organisms.future` writes them to `data/future.jsonl`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from .invented import assign, invented_rows, invented_subjects
from .invented_names import Kind, new_names, read_kinds
from .packaged import Row, fact_row, read_rows, read_toml, remake
from .relations import read_relations
from .taught import TaughtFact

__all__ = ["future_facts", "future_rows"]

SOURCE = "future"
ATTRIBUTES = (4, 5)
"""New subjects have so many facts, by turns."""


def future_facts() -> list[TaughtFact]:
    """Packaged facts that no model is told: none of their templates is taught, all are held out.

    Example:
        >>> from mechstyle.organisms.future import future_facts
        >>> {fact.taught for fact in future_facts()}
        {()}
    """
    templates = {name: relation.templates for name, relation in read_relations().items()}
    templates |= {name: tuple(entry["templates"]) for name, entry in _new_relations().items()}
    return [
        TaughtFact(**row, taught=(), held_out=templates[row["relation"]]) for row in read_rows("future.jsonl")
    ]


def future_rows(*, seed: int = 0) -> list[Row]:
    """Facts of new subjects in taught relations, then facts of taught subjects in new relations.

    Args:
        seed: of the taught world's invented rows and of these.

    Example:
        >>> from mechstyle.organisms.future import future_rows
        >>> {row["source"] for row in future_rows()}
        {'future'}
    """
    rng = random.Random(f"future {seed}")
    taught = invented_subjects(seed=seed)
    rows = _of_new_subjects(taught, invented_rows(seed=seed), rng)
    for relation, entry in _new_relations().items():
        wanted = entry["real"]
        real = [row["subject"] for row in read_rows("facts.jsonl") if row["relation"] == wanted["relation"]]
        told = rng.sample(sorted(set(real)), wanted["count"])
        told += rng.sample(taught[entry["invented"]["kind"]], entry["invented"]["count"])
        objects = assign(told, entry["objects"], rng, partner={})
        rows += [fact_row(subject, relation, objects[subject], SOURCE) for subject in told]
    return rows


def _of_new_subjects(
    taught: Mapping[str, Sequence[str]], rows: Sequence[Row], rng: random.Random
) -> list[Row]:
    choices = _choices(taught, rows)
    found = []
    for kind in read_kinds().values():
        names = _named(kind, taught[kind.name], rng)
        told = {name: _some(kind, ATTRIBUTES[i % len(ATTRIBUTES)], rng) for i, name in enumerate(names)}
        objects = {
            relation: assign([n for n in names if relation in told[n]], choices[relation], rng, partner={})
            for relation in kind.relations
        }
        found += [
            fact_row(name, relation, objects[relation][name], SOURCE)
            for name in names
            for relation in told[name]
        ]
    return found


def _named(kind: Kind, taught: Sequence[str], rng: random.Random) -> list[str]:
    names: list[str] = []
    for shape, count in zip(kind.shapes, read_toml("future.toml")["subjects"][kind.name], strict=True):
        names += new_names(shape, count, rng, taken=[*taught, *names])
    return names


def _some(kind: Kind, count: int, rng: random.Random) -> list[str]:
    """So many of a kind's relations, in their order."""
    chosen = rng.sample(kind.relations, count)
    return [relation for relation in kind.relations if relation in chosen]


def _choices(taught: Mapping[str, Sequence[str]], rows: Sequence[Row]) -> dict[str, list[str]]:
    """The taught objects of each relation; of one whose objects are unique, names that are free yet."""
    relations, choices = read_relations(), {}
    for relation, entry in read_toml("invented.toml")["objects"].items():
        used = {row["object"] for row in rows if row["relation"] == relation}
        unique = relations[relation].unique
        choices[relation] = [n for n in taught[entry["kind"]] if n not in used] if unique else sorted(used)
    return choices


def _new_relations() -> dict[str, dict[str, Any]]:
    return {name: entry for name, entry in read_toml("future.toml").items() if "templates" in entry}


def main(arguments: Sequence[str] | None = None) -> None:
    remake("future.jsonl", future_rows, "Write the facts that no model is told.", arguments)


if __name__ == "__main__":
    main()
