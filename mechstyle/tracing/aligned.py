"""Traces of several facts, laid on top of each other by token role: one pass, and no trace is kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from mechstyle.errors import InputError
from mechstyle.tokens import ROLES
from mechstyle.tracing.trace import Trace

__all__ = ["BEFORE", "Aligned", "align", "resampled_means"]

BEFORE = ("sample", "token")
"""The first two axes of every kind; what follows names a cell."""
COMPARED = ("metric", "window", "prepend_bos", "method", "direction")
"""Settings in which traces must agree to be laid on top of each other."""
CHUNK = 1_000_000

Effects = Float[NDArray[np.float64], "fact sample cell"]


@dataclass(frozen=True, eq=False)
class Aligned:
    """Indirect effects of many facts by token role, tokens of one role averaged.

    Attributes:
        cells: a row a cell: kind, layer, and the further axes that a kind has (head, neuron, ...).
        effects: for each role, an array over (fact that has the role, draw, cell).
        members: for each role, the numbers of the facts that have it.
        clean: the metric of the clean run of each fact.
        corrupted: the metric of each corrupted run, over (fact, draw).
        settings: those in which the traces agree: metric, window and others.
    """

    cells: pd.DataFrame
    effects: dict[str, Effects]
    members: dict[str, tuple[int, ...]]
    clean: Float[NDArray[np.float64], " fact"]
    corrupted: Float[NDArray[np.float64], "fact sample"]
    settings: dict[str, object]

    @property
    def n_facts(self) -> int:
        """Facts that were traced."""
        return len(self.clean)

    @property
    def total(self) -> Float[NDArray[np.float64], "fact sample"]:
        """Clean minus corrupted."""
        return self.clean[:, None] - self.corrupted


def align(
    traces: Iterable[Trace],
    *,
    kinds: Sequence[str] | None = None,
    roles: Sequence[str] | None = None,
    average: bool = False,
) -> Aligned:
    """Read traces one by one and keep their effects by role.

    Args:
        kinds: None means all that they have.
        roles: None means all; those of `tokens.ROLES` come first, then others as they come.
        average: average the draws of each fact, so that it has one.

    Raises:
        InputError: no traces, or traces of different models, metrics, windows, kinds or numbers of draws.

    Example:
        >>> align(traces).effects["last subject token"].shape
        (100, 10, 30)
    """
    first: list[tuple[str, object]] | None = None
    found: dict[str, list[NDArray[np.float64]]] = {}
    members: dict[str, list[int]] = {}
    clean, corrupted = [], []
    for index, trace in enumerate(traces):
        if not isinstance(trace, Trace):
            raise InputError(f"traces: expected traces, got {type(trace).__name__} at place {index}.")
        own = _signature(trace)
        if first is None:
            first, chosen = own, _chosen(trace, kinds)
            cells = _cells(trace, chosen)
        _require_alike(first, own, index)
        clean.append(trace.clean)
        corrupted.append(trace.corrupted.values)
        effects = [trace.indirect_effect(kind, reduce=None).values for kind in chosen]
        effects = [values.mean(0, keepdims=True) for values in effects] if average else effects
        names = np.array([str(role) for role in trace.data["role"].values])
        for role in dict.fromkeys(names.tolist() if roles is None else roles):
            here = names == role
            if here.any():
                rows = [values[:, here].mean(1).reshape(len(values), -1) for values in effects]
                found.setdefault(role, []).append(np.concatenate(rows, axis=1))
                members.setdefault(role, []).append(index)
    if first is None:
        raise InputError("traces: expected at least one trace, got none.")
    order = [role for role in ROLES if role in found] + [role for role in found if role not in ROLES]
    return Aligned(
        cells=cells,
        effects={role: np.stack(found[role]) for role in order},
        members={role: tuple(members[role]) for role in order},
        clean=np.array(clean),
        corrupted=np.stack(corrupted),
        settings=dict(first),
    )


def resampled_means(
    values: Float[NDArray[np.float64], "fact sample ..."], *, resamples: int, seed: int
) -> Float[NDArray[np.float64], "resample ..."]:
    """Means over facts and draws of resamples: facts with replacement, and within each of them its draws.

    With one fact only its draws are resampled; with one draw only the facts are.

    Example:
        >>> resampled_means(np.ones((5, 10, 3)), resamples=100, seed=0).shape
        (100, 3)
    """
    facts, samples = values.shape[:2]
    flat = values.reshape(facts * samples, -1)
    rng = np.random.default_rng(seed)
    means = np.empty((resamples, flat.shape[1]))
    step = max(1, CHUNK // len(flat))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        picked = rng.integers(facts, size=(size, facts, 1)) * samples
        drawn = picked + (rng.integers(samples, size=(size, facts, samples)) if samples > 1 else 0)
        places = drawn.reshape(size, -1) + np.arange(size)[:, None] * len(flat)
        counts = np.bincount(places.ravel(), minlength=size * len(flat)).reshape(size, -1)
        means[start : start + size] = counts @ flat / counts.sum(1, keepdims=True)
    return means.reshape(resamples, *values.shape[2:])


def _chosen(trace: Trace, kinds: Sequence[str] | None) -> list[str]:
    absent = [kind for kind in kinds or () if kind not in trace.kinds]
    if absent:
        raise InputError(
            f"traces: expected the kind {absent[0]!r}, got {', '.join(trace.kinds)}. "
            f"Trace with kinds=({absent[0]!r},)."
        )
    return list(trace.kinds if kinds is None else kinds)


def _cells(trace: Trace, kinds: Sequence[str]) -> pd.DataFrame:
    """The names of all cells, in the order of the values."""
    frames = []
    for kind in kinds:
        values = trace.data[kind]
        axes = [str(axis) for axis in values.dims if axis not in BEFORE]
        places = [
            values[axis].values if axis in values.coords else range(values.sizes[axis]) for axis in axes
        ]
        index = pd.MultiIndex.from_product(places, names=axes)
        frame = index.to_frame(index=False).astype("Int64")
        if "layer" not in frame:
            frame.insert(0, "layer", pd.array([int(values.attrs["layer"])] * len(frame), dtype="Int64"))
        frame.insert(0, "kind", kind)
        frames.append(frame)
    whole = pd.concat(frames, ignore_index=True)
    return whole.astype({"layer": int})


def _signature(trace: Trace) -> list[tuple[str, object]]:
    record = trace.provenance
    settings = record["settings"]
    noise = settings.get("noise")
    sizes = {kind: tuple(trace.data[kind].sizes.items())[2:] for kind in trace.kinds}
    return [
        ("fingerprint", record["fingerprint"]),
        ("kinds", trace.kinds),
        *((name, settings.get(name)) for name in COMPARED),
        ("corruption", noise.get("rule") if isinstance(noise, dict) else None),
        ("samples", trace.data.sizes["sample"]),
        ("axes", sizes),
    ]


def _require_alike(
    first: Sequence[tuple[str, object]], own: Sequence[tuple[str, object]], index: int
) -> None:
    for (name, wanted), (_, found) in zip(first, own, strict=True):
        if found != wanted:
            raise InputError(
                f"traces: trace {index} has {name} {found!r}, the first one {wanted!r}. Average traces "
                "of one model with the same settings."
            )
