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

__all__ = ["Aligned", "Draws", "align", "mean_of_facts", "resampled_jointly", "resampled_means"]

BEFORE = ("sample", "token")
"""The first two axes of every kind; what follows names a cell."""
COMPARED = (
    "metric", "answer_source", "window", "neuron_layer", "prepend_bos", "method", "direction", "receivers",
    "through_mlps", "answer_limit", "edited_weights", "active_edits", "hooks",
)  # fmt: skip
"""Settings in which traces must agree to be laid on top of each other."""
NOISE = ("rule", "multiple", "width", "sigma", "sigma_source", "reference")
"""Those of a corruption; what else it records may be the fact's own, such as counterparts that were found."""
CHUNK = 1_000_000

Draws = Sequence[Float[NDArray[np.float64], "sample ..."]]
"""For each fact, a value a draw; facts may have several numbers of draws."""


@dataclass(frozen=True, eq=False)
class Aligned:
    """Indirect effects of many facts by token role, tokens of one role averaged.

    Attributes:
        cells: a row a cell: kind, layer, and the further axes that a kind has (head, neuron, ...).
        layered: the kinds that go through the layers.
        effects: for each role and each fact that has it, an array over (draw, cell).
        members: for each role, the numbers of the facts that have it.
        clean: the metric of the clean run of each fact.
        corrupted: for each fact, the metric of each corrupted run.
        settings: those in which the traces agree: metric, window and others; None where they have none.
    """

    cells: pd.DataFrame
    layered: tuple[str, ...]
    effects: dict[str, Draws]
    members: dict[str, tuple[int, ...]]
    clean: Float[NDArray[np.float64], " fact"]
    corrupted: Draws
    settings: dict[str, object]

    @property
    def n_facts(self) -> int:
        """Facts that were traced."""
        return len(self.clean)

    @property
    def total(self) -> Draws:
        """Clean minus corrupted."""
        return [clean - corrupted for clean, corrupted in zip(self.clean, self.corrupted, strict=True)]


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
        InputError: no traces, or traces of different models, edits, metrics, corruptions (or other sizes of
            them), windows, kinds or other settings that change what their numbers mean.

    Example:
        >>> align(traces).effects["last subject token"][0].shape
        (10, 30)
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
            layered = tuple(kind for kind in chosen if "layer" in trace.data[kind].dims)
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
        layered=layered,
        effects={role: found[role] for role in order},
        members={role: tuple(members[role]) for role in order},
        clean=np.array(clean),
        corrupted=corrupted,
        settings=dict(first),
    )


def mean_of_facts(values: Draws) -> Float[NDArray[np.float64], "..."]:
    """Mean over facts of the mean over their draws: every fact has one vote.

    Example:
        >>> mean_of_facts([np.zeros((10, 3)), np.ones((2, 3))])
        array([0.5, 0.5, 0.5])
    """
    found: NDArray[np.float64] = np.mean([one.mean(0) for one in values], axis=0)
    return found


def resampled_means(
    values: Draws, *, resamples: int, seed: int
) -> Float[NDArray[np.float64], "resample ..."]:
    """Means over facts and draws of resamples: facts with replacement, and within each of them its draws.

    With one fact only its draws are resampled; where a fact has one draw, only facts are. Of one draw of one
    fact nothing can be resampled: then all are NaN.

    Example:
        >>> resampled_means([np.ones((10, 3))] * 5, resamples=100, seed=0).shape
        (100, 3)
    """
    (means,) = resampled_jointly([(range(len(values)), values)], resamples=resamples, seed=seed)
    return means


def resampled_jointly(
    groups: Sequence[tuple[Sequence[int], Draws]], *, resamples: int, seed: int
) -> list[Float[NDArray[np.float64], "resample ..."]]:
    """Means as of `resampled_means` of several values of the same facts, which are resampled once for all.

    Args:
        groups: numbers of facts, and the values of each of these. The first has all facts, from 0; a fact has
            as many draws in each.

    Returns:
        an array a group; NaN in resamples without any fact of the group.

    Example:
        >>> everywhere, somewhere = resampled_jointly(
        ...     [(range(5), [np.ones((10, 3))] * 5), ((0, 2), [np.ones((10, 3))] * 2)], resamples=100, seed=0
        ... )
    """
    sizes = np.array([len(one) for one in groups[0][1]])
    facts, most, starts = len(sizes), int(sizes.max()), np.cumsum(sizes) - sizes
    flat = [np.concatenate([one.reshape(len(one), -1) for one in values]) for _, values in groups]
    owned = [np.concatenate([starts[fact] + np.arange(sizes[fact]) for fact in own]) for own, _ in groups]
    means = [np.full((resamples, rows.shape[1]), np.nan) for rows in flat]
    rng, total = np.random.default_rng(seed), int(sizes.sum())
    step = max(1, CHUNK // (facts * most))
    for first in range(0, resamples, step):
        count = min(step, resamples - first)
        picked = rng.integers(facts, size=(count, facts, 1))
        drawn = (rng.random((count, facts, most)) * sizes[picked]).astype(int)
        places = starts[picked] + drawn + np.arange(count)[:, None, None] * total
        weights = (np.arange(most) < sizes[picked]) / (sizes[picked] * facts)
        shares = np.bincount(places.ravel(), weights.ravel(), minlength=count * total).reshape(count, total)
        for mean, rows, own in zip(means, flat, owned, strict=True):
            if len(own) > 1:
                whole = shares[:, own].sum(1)
                there = np.flatnonzero(whole)
                mean[first + there] = (shares[there][:, own] @ rows) / whole[there, None]
    return [
        mean.reshape(resamples, *values[0].shape[1:]) for mean, (_, values) in zip(means, groups, strict=True)
    ]


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
    """What traces must agree in, by names; what a trace does not say, such as one made before, is None."""
    record = trace.provenance
    settings = record["settings"]
    noise, contrast, sets = (settings.get(name) or {} for name in ("noise", "contrast", "tokens"))
    sizes = {kind: tuple(trace.data[kind].sizes.items())[2:] for kind in trace.kinds}
    return [
        ("fingerprint", record["fingerprint"]),
        ("kinds", trace.kinds),
        *((name, settings.get(name)) for name in COMPARED),
        ("contrast per_token", contrast.get("per_token")),
        ("token sets", sorted(sets)),
        *((f"noise {name}", noise.get(name)) for name in NOISE),
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
