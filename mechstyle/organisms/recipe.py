"""How an organism is made: sizes, budget and seeds, read from a TOML file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import InputError, RangeError

__all__ = ["Recipe", "packaged_recipe", "packaged_sizes", "read_recipe"]

_DATA = Path(__file__).parent / "data"


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

    def lasting(self, steps: int) -> Recipe:
        """The recipe with a budget of so many steps, over which its schedule of rates is laid out.

        Raises:
            RangeError: less than one step.

        Example:
            >>> from mechstyle.organisms.recipe import packaged_recipe
            >>> packaged_recipe("s").lasting(50).tokens
            204800
        """
        if steps < 1:
            raise RangeError(f"steps must be at least 1, got {steps}.")
        return replace(self, tokens=steps * self.batch * self.n_ctx)


def read_recipe(path: str | Path) -> Recipe:
    """The recipe of a TOML file.

    Example:
        >>> from mechstyle.organisms.recipe import read_recipe
        >>> recipe = read_recipe("mechstyle/organisms/data/organism-m.toml")
        >>> recipe.n_layers
        10
    """
    return Recipe(**tomllib.loads(Path(path).read_text(encoding="utf-8")))


def packaged_sizes() -> list[str]:
    """Sizes of organisms whose recipes come with the package.

    Example:
        >>> from mechstyle.organisms.recipe import packaged_sizes
        >>> packaged_sizes()
        ['l', 'm', 's']
    """
    return sorted(path.stem.removeprefix("organism-") for path in _DATA.glob("organism-*.toml"))


def packaged_recipe(size: str) -> Recipe:
    """The recipe of an embedded organism.

    Raises:
        InputError: there is none of this size.

    Example:
        >>> from mechstyle.organisms.recipe import packaged_recipe
        >>> packaged_recipe("m").n_layers
        10
    """
    if size not in packaged_sizes():
        raise InputError(f"size must be one of {', '.join(packaged_sizes())}, got {size!r}.")
    return read_recipe(_DATA / f"organism-{size}.toml")
