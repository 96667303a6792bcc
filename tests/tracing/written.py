"""Traces written by hand, whose effects are known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from mechstyle.facts import Fact
from mechstyle.tracing import Trace

ROLES = ("first subject token", "middle subject tokens", "middle subject tokens", "last subject token")


def written(
    effects: Mapping[str, ArrayLike],
    *,
    roles: Sequence[str] = ROLES,
    samples: int = 4,
    jitter: ArrayLike = 0.0,
    axes: Mapping[str, tuple[str, ...]] | None = None,
    layer: int | None = None,
    fact: Fact | None = None,
    fingerprint: str = "f",
    clean: float = 0.9,
    **settings: object,
) -> Trace:
    """A trace whose mean indirect effects [token][layer] of each kind are known.

    Args:
        jitter: what each draw adds to the effects, times its distance from the middle one.
        axes: of a kind whose effects have other ones than the layer; their values are whole numbers from 0.
        layer: of a kind that has none.
    """
    axes = axes or {}
    corrupted = np.linspace(0.1, 0.3, samples)
    steps = np.arange(samples) - (samples - 1) / 2
    variables: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    for kind, values in effects.items():
        array = np.asarray(values, dtype=float)
        own = axes.get(kind, ("layer",))
        sizes |= dict(zip(own, array.shape[1:], strict=True))
        shape = (samples, *(1 for _ in array.shape))
        grid = corrupted.reshape(shape) + array + steps.reshape(shape) * np.asarray(jitter)
        attributes = {} if layer is None else {"layer": layer}
        variables[kind] = (("sample", "token", *own), grid, attributes)
    tokens = len(roles)
    chosen = {"metric": "prob", "window": 2, "prepend_bos": False, **settings}
    if fact is not None:
        chosen |= {"fact": fact.to_dict(), "knows": True}
    return Trace(
        xr.Dataset(
            variables,
            coords={
                "sample": np.arange(samples),
                "token": np.arange(tokens),
                **{name: np.arange(size) for name, size in sizes.items() if name == "layer"},
                "token_str": ("token", np.array(list("abcdefgh"[:tokens]), dtype=object)),
                "role": ("token", np.array(roles, dtype=object)),
                "clean": ((), clean),
                "corrupted": ("sample", corrupted),
            },
            attrs={"provenance": json.dumps({"fingerprint": fingerprint, "settings": chosen})},
        )
    )
