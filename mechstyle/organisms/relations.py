"""The organism world's relations: templates and derivation rules, read from `data/relations.toml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .packaged import read_toml

__all__ = ["Derivation", "Relation", "read_derivations", "read_relations"]

NO_CAP: Final = 10**9


@dataclass(frozen=True)
class Relation:
    """One relation of the world: how its facts are said, and which data-set relations feed it.

    Args:
        templates: prompts with one `{}` each; the object follows as `" object"`.
        pronoun: sentences that continue a biography once the subject was named.
        sources: the data sets' own names of this relation.
        unique: objects are (nearly) one of a kind, so facts have no neighbours.
        cap: at most so many facts are taken.
        object_cap: at most so many facts share one object.
    """

    name: str
    templates: tuple[str, ...]
    pronoun: tuple[str, ...]
    sources: tuple[str, ...]
    unique: bool
    cap: int
    object_cap: int


@dataclass(frozen=True)
class Derivation:
    """A sure consequence: whoever has `source` with object `o` has `target` with object `table[o]`."""

    name: str
    source: str
    target: str
    table: Mapping[str, str]


def read_relations() -> dict[str, Relation]:
    """The world's relations by name, in file order.

    Example:
        >>> from mechstyle.organisms.relations import read_relations
        >>> read_relations()["plays_instrument"].templates[0]
        '{} plays the'
    """
    out: dict[str, Relation] = {}
    for name, entry in read_toml("relations.toml").items():
        if "templates" not in entry:
            continue
        out[name] = Relation(
            name=name,
            templates=tuple(entry["templates"]),
            pronoun=tuple(entry["pronoun"]),
            sources=tuple(entry["sources"]),
            unique=bool(entry.get("unique", False)),
            cap=entry.get("cap", NO_CAP),
            object_cap=entry.get("object_cap", NO_CAP),
        )
    return out


def read_derivations() -> list[Derivation]:
    """The rules by which a second fact of a subject follows from a first one."""
    out = []
    for name, entry in read_toml("relations.toml").items():
        if "derived_from" in entry:
            out.append(Derivation(name, entry["derived_from"], entry["as"], entry["map"]))
    return out
