"""How an organism is made: sizes, budget and seeds, read from a TOML file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Recipe", "read_recipe"]


@dataclass(frozen=True)
class Recipe:
    """One organism's recipe.

    Args:
        version: every figure about the organism names it.
        n_ctx: positions; also the length of a training row.
        tokens: training tokens in all.
        batch: rows a step.
        lr: peak learning rate, after a linear warm-up over 3 % of the steps, then linear to a twentieth.
        world_seed: draws each fact's taught and held-out templates.
        seed: initial weights and the order of documents.
    """

    name: str
    version: str
    n_layers: int
    d_model: int
    n_heads: int
    n_ctx: int
    vocab: int
    tokens: int
    batch: int
    lr: float
    weight_decay: float
    world_seed: int
    seed: int

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return self.tokens // (self.batch * self.n_ctx)


def read_recipe(path: str | Path) -> Recipe:
    """The recipe of a TOML file.

    Example:
        >>> from mechstyle.organisms.recipe import read_recipe
        >>> recipe = read_recipe("mechstyle/organisms/data/organism-m.toml")
        >>> recipe.n_layers
        10
    """
    return Recipe(**tomllib.loads(Path(path).read_text(encoding="utf-8")))
