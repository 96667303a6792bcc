"""A world as readable JSON lines: a file for each kind of record, and a manifest; read back into records."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from mechstyle import __version__

from ..errors import FileError, RangeError
from ..files import atomic_folder
from .counts import world_counts
from .items import Item
from .mixing import documents
from .reversals import Reversal
from .style_devices import Device
from .style_records import Content, Style, StylePrompt
from .taught import TaughtFact
from .taxonomy_records import Category, Member, Pair, Property
from .two_hops import TwoHop
from .world import World, build_world, read_prose

__all__ = [
    "DOCUMENTS",
    "MANIFEST",
    "Record",
    "StyledContent",
    "json_lines",
    "read_world",
    "world_records",
    "write_world",
]

MANIFEST: Final = "manifest.json"
DOCUMENTS: Final = "documents.jsonl"
SCHEMA: Final = 1
"""Goes up when a field of a record changes its meaning."""


class Record(Protocol):
    """What a row of a file becomes."""

    def to_dict(self) -> dict[str, Any]:
        """The record as a JSON object."""


@dataclass(frozen=True)
class StyledContent:
    """A fact that is told in styles, and those in which it never is."""

    content: Content
    held_out_styles: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The content as a JSON object."""
        return {**self.content.to_dict(), "held_out_styles": list(self.held_out_styles)}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> StyledContent:
        """The content of a JSON object."""
        fact = {name: value for name, value in row.items() if name != "held_out_styles"}
        return cls(Content.from_dict(fact), tuple(row["held_out_styles"]))


_READERS: Final[Mapping[str, Callable[[Mapping[str, Any]], Record]]] = {
    "facts": TaughtFact.from_dict,
    "future": TaughtFact.from_dict,
    "reversals": Reversal.from_dict,
    "two_hops": TwoHop.from_dict,
    "properties": Property.from_dict,
    "categories": Category.from_dict,
    "members": Member.from_dict,
    "pairs": Pair.from_dict,
    "devices": Device.from_dict,
    "styles": Style.from_dict,
    "contents": StyledContent.from_dict,
    "style_prompts": StylePrompt.from_dict,
    "items": Item.from_dict,
}


def world_records(world: World) -> dict[str, Sequence[Record]]:
    """All records of a world, by the names of their files.

    Example:
        >>> from mechstyle import organisms
        >>> from mechstyle.organisms.export import world_records
        >>> len(world_records(organisms.world())["styles"])
        14
    """
    styles, taxonomy = world.styles, world.taxonomy
    return {
        "facts": world.facts,
        "future": world.future,
        "reversals": world.reversals.records,
        "two_hops": world.two_hops.records,
        "properties": tuple(taxonomy.properties.values()),
        "categories": tuple(taxonomy.categories.values()),
        "members": tuple(taxonomy.members.values()),
        "pairs": taxonomy.pairs,
        "devices": tuple(styles.devices.values()),
        "styles": styles.styles,
        "contents": tuple(_held_out(content, world) for content in styles.contents),
        "style_prompts": styles.prompts(),
        "items": world.items(),
    }


def _held_out(content: Content, world: World) -> StyledContent:
    names = (style.name for style in world.styles.styles)
    return StyledContent(content, tuple(n for n in names if (content, n) in world.styles.held_out))


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_world(folder: str | Path, *, seed: int = 0, sample: int = 0) -> dict[str, Any]:
    """Build a world and write its records, and return what `manifest.json` says of them.

    Args:
        folder: a new or empty one; it appears whole or not at all.
        seed: of the world; the embedded models' is 0.
        sample: so many training documents are written too, as `documents.jsonl`.

    Raises:
        FileError: the folder holds something, or cannot be written.
        RangeError: the sample is negative.

    Example:
        >>> write_world("world")["files"]["facts.jsonl"]["rows"]  # doctest: +SKIP
        9137
    """
    if sample < 0:
        raise RangeError(f"sample must be 0 or more documents, got {sample}.")
    world = build_world(seed=seed)
    rows = {f"{name}.jsonl": [r.to_dict() for r in records] for name, records in world_records(world).items()}
    if sample:
        texts = documents(world, read_prose(), seed=seed + 1)
        rows[DOCUMENTS] = [{"text": text} for text in itertools.islice(texts, sample)]
    files = {}
    with atomic_folder(folder) as part:
        for name, some in rows.items():
            data = json_lines(some).encode("utf-8")
            (part / name).write_bytes(data)
            files[name] = {"rows": len(some), "sha256": hashlib.sha256(data).hexdigest()}
        manifest = {
            "kind": "mechstyle world",
            "schema": SCHEMA,
            "mechstyle": __version__,
            "seed": seed,
            "files": files,
            "counts": world_counts(world),
        }
        text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
        (part / MANIFEST).write_text(text, encoding="utf-8")
    return manifest


def read_world(folder: str | Path) -> dict[str, tuple[Any, ...]]:
    """The records that `write_world` left, by the names of their files.

    Raises:
        FileError: a file is missing, or is not the one that the manifest names.

    Example:
        >>> read_world("world")["facts"][0].subject  # doctest: +SKIP
        'A las Barricadas'
    """
    place = Path(folder)
    sums = _sums(place / MANIFEST)
    found = {}
    for name, reader in _READERS.items():
        path = place / f"{name}.jsonl"
        data = _bytes(path)
        if hashlib.sha256(data).hexdigest() != sums.get(path.name):
            raise FileError(
                f"{path}: expected the file that {MANIFEST} names by its sha256, and it is another one. "
                "Build the world again: mechstyle organisms build."
            )
        found[name] = tuple(reader(json.loads(line)) for line in data.decode("utf-8").split("\n")[:-1])
    return found


def _sums(path: Path) -> dict[str, str]:
    """The sha256 of each file that a manifest names."""
    try:
        files = json.loads(_bytes(path))["files"]
        return {name: entry["sha256"] for name, entry in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(
            f"{path}: expected the manifest of a world, and it is not. Build the world again: "
            "mechstyle organisms build."
        ) from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(
            f"cannot read {path}: {reason}. Name a folder of mechstyle organisms build."
        ) from error
