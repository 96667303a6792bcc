"""Traces whose every value is known, of any size, with any kinds and any token texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from mechstyle.tracing.trace import Trace

ROLES = ("first subject token", "last subject token", "first subsequent token", "last prompt token")
AXES = {"heads": "head", "k": "kv_head", "neurons": "neuron"}


def planted_trace(
    effects: Mapping[str, np.ndarray],
    *,
    tokens: Sequence[str] = (" Miles", " Davis", " plays", " the"),
    roles: Sequence[str] = ROLES,
    samples: int = 3,
    **settings: Any,
) -> Trace:
    """A trace with these mean indirect effects, (token, layer), (token, layer, head) or (token, neuron).

    Draws differ from each other, and their mean is exact; the corrupted metric is 0.1 everywhere.
    """
    corrupted = np.full(samples, 0.1)
    noise = np.linspace(-0.01, 0.01, samples)
    variables = {}
    for kind, mean in effects.items():
        last = (AXES[kind],) if kind in AXES else ()
        dims = ("token", *(() if kind == "neurons" else ("layer",)), *last)
        shape = (samples, *[1] * mean.ndim)
        about = {"layer": 2} if kind == "neurons" else {}
        variables[kind] = (("sample", *dims), 0.1 + mean[None] + noise.reshape(shape), about)
    fact = {"subject": "Miles Davis", "template": "{} plays the", "target": " trumpet"}
    known = {
        "fact": fact,
        "answer": " trumpet",
        "knows": True,
        "window": 2,
        "metric": "prob",
        "samples": samples,
    }
    record = {
        "model": "planted",
        "fingerprint": "0" * 64,
        "versions": {"mechstyle": "0"},
        "settings": {"prepend_bos": False, "seed": 0, **known, **settings},
    }
    n_layers = max((mean.shape[1] for kind, mean in effects.items() if kind != "neurons"), default=1)
    coords = {
        "sample": np.arange(samples),
        "token": np.arange(len(tokens)),
        "layer": np.arange(n_layers),
        "token_str": ("token", np.array(tokens, dtype=object)),
        "role": ("token", np.array(roles, dtype=object)),
        "clean": ((), 0.9),
        "corrupted": ("sample", corrupted),
    }
    return Trace(xr.Dataset(variables, coords, {"provenance": json.dumps(record)}))


def grid(*shape: int, seed: int = 0) -> np.ndarray:
    """Effects that are all different, some of them below 0."""
    found: np.ndarray = np.random.default_rng(seed).uniform(-0.1, 0.5, shape)
    return found
