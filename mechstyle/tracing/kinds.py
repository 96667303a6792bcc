"""The kinds of state that a trace puts in: one table for causal tracing and activation patching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from mechstyle.errors import InputError
from mechstyle.sites import Kind

__all__ = ["KINDS", "PARTS", "TRAILING_DIMS", "TracedKind", "count_of", "kinds_named"]

Index = Literal["head", "kv_head", "neuron"]
PARTS: Final = get_args(Index)
"""Axes of the parts of a state, beside layers."""
Reach = Literal["after", "own", "later"]


@dataclass(frozen=True)
class TracedKind:
    """One kind of cell.

    Attributes:
        name: what it is called in ``kinds=`` and in a trace.
        site: the state that is put in.
        reach: what it changes in its own layer: "after" is what leaves the layer, "own" changes that at its
            own tokens only, "later" changes all later tokens as well.
        index: the axis of the parts of the state that are put in one at a time; None puts in all of it. (An
            axis cannot have the name of a kind: they share a data set.)
        windowed: in a window of layers, not in one.
        one_layer: cells of one given layer only (there are too many otherwise).
        held: the state that stays as in the run that receives, at the same tokens of all later layers.
    """

    name: str
    site: Kind
    reach: Reach = "own"
    index: Index | None = None
    windowed: bool = False
    one_layer: bool = False
    held: Kind | None = None

    @property
    def dims(self) -> tuple[str, ...]:
        """The axes of its values in a trace."""
        last = () if self.index is None else (self.index,)
        return ("sample", "token", *(() if self.one_layer else ("layer",)), *last)


_ALL: Final = (
    TracedKind("resid", "resid", reach="after"),
    TracedKind("mlp", "mlp", windowed=True),
    TracedKind("attn", "attn", windowed=True),
    TracedKind("heads", "z", index="head"),
    TracedKind("severed_mlp", "resid", reach="after", held="mlp"),
    TracedKind("severed_attn", "resid", reach="after", held="attn"),
    TracedKind("neurons", "key", index="neuron", one_layer=True),
    TracedKind("q", "q", index="head"),
    TracedKind("k", "k", reach="later", index="kv_head"),
    TracedKind("v", "v", reach="later", index="kv_head"),
    TracedKind("pattern", "pattern", index="head"),
)
KINDS: Final[Mapping[str, TracedKind]] = MappingProxyType({kind.name: kind for kind in _ALL})
"""All kinds by name."""
TRAILING_DIMS: Final = frozenset(kind.dims[2:] for kind in _ALL)
"""What may come after the axes sample and token."""


def kinds_named(names: Sequence[str]) -> tuple[TracedKind, ...]:
    """The kinds with these names.

    Raises:
        InputError: none, one of them twice, or one that is unknown.

    Example:
        >>> [kind.site for kind in kinds_named(("heads", "severed_mlp"))]
        ['z', 'resid']
    """
    listed = isinstance(names, Sequence) and not isinstance(names, str)
    listed = listed and all(isinstance(name, str) for name in names)
    if not listed or not names or any(names.count(name) > 1 or name not in KINDS for name in names):
        raise InputError(
            f"kinds: expected one or more different ones of {', '.join(KINDS)} in a tuple, got {names!r}."
        )
    return tuple(KINDS[name] for name in names)


def count_of(cfg: Any, index: Index) -> int:
    """How many heads, key-and-value heads or neurons a layer has.

    Example:
        >>> count_of(model.cfg, "head")
        12
    """
    groups = cfg.n_heads if cfg.n_key_value_heads is None else cfg.n_key_value_heads
    split = getattr(cfg, "ungroup_grouped_query_attention", False)
    counts = {
        "head": cfg.n_heads,
        "kv_head": cfg.n_heads if split else groups,
        "neuron": cfg.d_mlp,
    }
    return int(counts[index])
