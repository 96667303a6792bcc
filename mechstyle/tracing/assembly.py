"""From values to a `Trace`: axes, names of tokens and provenance, the same for every experiment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray

from mechstyle.models import HookedModel, provenance
from mechstyle.tracing.setup import Setup
from mechstyle.tracing.trace import Trace

__all__ = ["Variable", "assemble"]


@dataclass(frozen=True, eq=False)
class Variable:
    """The metric of one kind of cells.

    Attributes:
        dims: the first two are sample and token.
        about: what is said of it, beside the units.
    """

    dims: tuple[str, ...]
    values: Float[NDArray[np.float64], "sample token *rest"]
    about: Mapping[str, Any] = field(default_factory=dict)


def assemble(
    model: HookedModel,
    setup: Setup,
    variables: Mapping[str, Variable],
    *,
    clean: float,
    corrupted: Float[NDArray[np.float64], " sample"],
    sets: Iterable[str] | None,
    settings: Mapping[str, Any],
) -> Trace:
    """Put a trace together.

    Args:
        variables: by kind.
        sets: names of the sets of tokens on the token axis; None for the prompt's tokens one by one.
        settings: what belongs into the provenance besides what the setup says.

    Example:
        >>> assemble(  # doctest: +SKIP
        ...     model, setup, grids, clean=0.9, corrupted=scores, sets=None, settings={"engine": "resume"}
        ... )
    """
    encoded = setup.encoded
    names = encoded.strings[: encoded.n_prompt] if sets is None else tuple(sets)
    roles = encoded.roles if sets is None else names
    axes = {
        name: np.arange(size)
        for one in variables.values()
        for name, size in zip(one.dims, one.values.shape, strict=True)
    }
    record = provenance(model, **setup.record, **settings)
    return Trace(
        xr.Dataset(
            {
                kind: (one.dims, one.values, {"units": setup.units, **one.about})
                for kind, one in variables.items()
            },
            coords={
                **axes,
                "token_str": ("token", np.array(names, dtype=object)),
                "role": ("token", np.array(roles, dtype=object)),
                "clean": ((), clean),
                "corrupted": ("sample", corrupted),
            },
            attrs={"provenance": json.dumps(record, sort_keys=True)},
        )
    )
