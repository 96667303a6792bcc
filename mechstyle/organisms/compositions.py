"""Prompts of inverse and compound questions, from `data/compositions.toml`, and blocks of sentences."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

__all__ = ["TwoHopKind", "blocks_of", "read_inverse_prompts", "read_two_hop_kinds"]


@dataclass(frozen=True)
class TwoHopKind:
    """A relation, another one of its objects, and prompts that ask for the end of the chain.

    Args:
        prompts: about the first relation's subject, with one `{}` each; the last object follows.
    """

    first: str
    second: str
    prompts: tuple[str, ...]


@cache
def read_inverse_prompts() -> Mapping[str, tuple[str, ...]]:
    """Prompts about an object that its one subject continues, by relation, in file order.

    Example:
        >>> from mechstyle.organisms.compositions import read_inverse_prompts
        >>> read_inverse_prompts()["capital"][0]
        '{} is the capital of'
    """
    return {name: tuple(entry["prompts"]) for name, entry in _document()["reversal"].items()}


@cache
def read_two_hop_kinds() -> tuple[TwoHopKind, ...]:
    """The kinds of chains, in file order.

    Example:
        >>> from mechstyle.organisms.compositions import read_two_hop_kinds
        >>> read_two_hop_kinds()[0].first
        'person_home'
    """
    return tuple(
        TwoHopKind(entry["first"], entry["second"], tuple(entry["prompts"]))
        for entry in _document()["two_hop"]
    )


def blocks_of(sentences: Iterable[str], rng: random.Random) -> list[str]:
    """All sentences in random order, two to four a block; the last block may be a single one."""
    rest = list(sentences)
    rng.shuffle(rest)
    blocks = []
    while rest:
        count = rng.choice((2, 3, 4))
        blocks.append(" ".join(rest[:count]))
        rest = rest[count:]
    return blocks


def _document() -> dict[str, Any]:
    data = resources.files("mechstyle.organisms").joinpath("data/compositions.toml")
    return tomllib.loads(data.read_text(encoding="utf-8"))
