"""Where do models of several depths recall facts? Average effects by relative depth and token role."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from mechstyle.errors import InputError, RangeError
from mechstyle.tracing.aggregate import band
from mechstyle.tracing.aligned import Aligned, Draws, align, mean_of_facts, resampled_jointly
from mechstyle.tracing.map_correlation import FactMap, map_correlation
from mechstyle.tracing.trace import Trace

__all__ = ["ModelComparison", "compare_models"]

Values = NDArray[np.float64]
MUST_AGREE = ("metric", "answer_source", "contrast per_token", "method", "direction")
"""Settings that mean the same in every model; windows are scaled to the depth and may differ."""
LEAST = 1e-6
"""Smallest total effect, in the metric's units, of which shares are taken: below, it may be rounding."""


@dataclass(frozen=True, eq=False)
class ModelComparison:
    """Average maps of several models on one grid of relative depth: 0 is the first layer, 1 the last.

    Attributes:
        curves: model, kind, role, depth, mean, low, high, n_facts; interpolated between layers.
        peaks: model, kind, role, layer and depth of the largest mean effect with the interval of that depth
            (low, high), effect, n_layers, n_facts. In noising, of the largest mean loss, clean minus run, and
            effect is that loss; curves keep the sign of run minus clean.
        similarity: model, other, kind, and Pearson's r of the two maps (role by depth) with the interval of
            `map_correlation`.
    """

    curves: pd.DataFrame
    peaks: pd.DataFrame
    similarity: pd.DataFrame


@dataclass(frozen=True, eq=False)
class _Map:
    """One model, kind and role.

    Attributes:
        mean: of each layer.
        means: the same in resamples; NaN where nothing can be resampled.
        members: the facts that have the role.
        facts: the effects of each of them; of a model's only fact, of each of its draws.
    """

    mean: Float[Values, " layer"]
    means: Float[Values, "resample layer"]
    members: tuple[int, ...]
    facts: Float[Values, "fact layer"]

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return len(self.mean)


def _at(values: Float[Values, "row layer"], depths: Float[Values, " point"]) -> Float[Values, "row point"]:
    """Values of layers at relative depths, by linear interpolation."""
    layers = values.shape[1]
    places = depths * (layers - 1)
    below = np.floor(places).astype(int)
    above = np.minimum(below + 1, layers - 1)
    share = places - below
    found: Values = values[:, below] * (1 - share) + values[:, above] * share
    return found


def compare_models(
    models: Mapping[str, Iterable[Trace]],
    *,
    kinds: Sequence[str] | None = None,
    points: int = 21,
    share: bool = False,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> ModelComparison:
    """Lay average traces of several models over each other by relative depth and token role.

    Depths, widths and tokenizers may differ, and so may the facts: roles align them. Intervals of curves and
    peaks are over facts and draws, as in `average_by_role`, all roles and kinds of a model in the same
    resamples; NaN for one draw of one fact. Layer l of L is at depth l / (L - 1); a window of layers stands
    where its centre does. Heads of a layer are averaged.

    Args:
        models: traces of each model by a name, such as a `TraceSet`.
        kinds: None means all that every model has and that go through the layers.
        points: of the common grid of depths.
        share: divide effects by the model's average total effect, one for all roles, so that models that
            know their facts more or less surely can be compared in size too.

    Raises:
        InputError: fewer than two models, other metrics or methods, no kind in common, traces of one model
            that cannot be averaged, or with `share` a model whose average total effect is about 0.
        RangeError: `points`, `level` or `resamples` is out of range.

    Example:
        >>> found = compare_models({"small": small_traces, "large": large_traces})
        >>> found.peaks.query("kind == 'mlp' and role == 'last subject token'")
    """
    if not isinstance(models, Mapping) or len(models) < 2:
        raise InputError(
            'models: expected traces of at least two models by name, such as {"small": ..., "large": ...}.'
        )
    for name, number, least in (("points", points, 2), ("resamples", resamples, 1)):
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise RangeError(f"{name}: expected a whole number of at least {least}, got {number!r}.")
    if not 0 < level < 1:
        raise RangeError(f"level: expected a share between 0 and 1, such as 0.95, got {level}.")
    aligned = {name: align(traces) for name, traces in models.items()}
    _require_one_question(aligned)
    chosen = _common_kinds(aligned, kinds)
    maps = {
        (name, *place): found
        for number, (name, one) in enumerate(aligned.items())
        for place, found in _maps(
            one, chosen, total=_total(name, one) if share else None, resamples=resamples, seed=seed + number
        ).items()
    }
    depths = np.linspace(0, 1, points)
    curves, peaks = [], []
    for (name, kind, role), found in maps.items():
        key = {"model": name, "kind": kind, "role": role}
        low, high = band(_at(found.means, depths), level)
        curve = {"depth": depths, "mean": _at(found.mean[None], depths)[0], "low": low, "high": high}
        curves.append(pd.DataFrame({**key, **curve, "n_facts": len(found.members)}))
        lost = aligned[name].settings["direction"] == "noising"
        peaks.append({**key, **_peak(found, -1 if lost else 1, level)})
    return ModelComparison(
        curves=pd.concat(curves, ignore_index=True),
        peaks=pd.DataFrame(peaks),
        similarity=_similarity(aligned, chosen, maps, depths, level=level, seed=seed),
    )


def _require_one_question(aligned: Mapping[str, Aligned]) -> None:
    (first, one), *others = aligned.items()
    for name, other in others:
        for setting in MUST_AGREE:
            wanted, found = one.settings.get(setting), other.settings.get(setting)
            if wanted != found:
                raise InputError(
                    f"models: {name!r} has traces with {setting} {found!r}, {first!r} with {wanted!r}. "
                    "Trace all models with the same settings."
                )


def _common_kinds(aligned: Mapping[str, Aligned], kinds: Sequence[str] | None) -> list[str]:
    """Kinds that all models have, and in all layers."""
    having = {name: one.layered for name, one in aligned.items()}
    common = [kind for kind in next(iter(having.values())) if all(kind in own for own in having.values())]
    if kinds is not None:
        common = [kind for kind in kinds if kind in common]
    if not common or (kinds is not None and len(common) < len(kinds)):
        listed = "; ".join(f"{name}: {', '.join(own)}" for name, own in having.items())
        raise InputError(f"kinds: expected kinds that all models have layer by layer; they have {listed}.")
    return common


def _total(name: str, one: Aligned) -> Draws:
    """The total effects of a model's facts, if their average is one to take shares of."""
    total = float(mean_of_facts(one.total))
    if not abs(total) >= LEAST:
        raise InputError(
            f"share: the average total effect of {name!r} is {total:.2g} ({one.settings['metric']}), about "
            "0, so that shares of it say nothing. Compare with share=False, or corrupt more."
        )
    return one.total


def _maps(
    one: Aligned, kinds: Sequence[str], *, total: Draws | None, resamples: int, seed: int
) -> dict[tuple[str, str], _Map]:
    """The maps of a model by kind and role; all are of the same resamples.

    Args:
        total: the total effects of all facts, of whose average maps are shares.
    """
    groups = {
        kind: [list(cells) for cells in rows.groupby("layer").groups.values()]
        for kind, rows in one.cells.groupby("kind", sort=False)
        if kind in kinds
    }
    roles = [role for role, effects in one.effects.items() if any(values.any() for values in effects)]
    effects = {
        role: [
            np.stack([values[:, cells].mean(1) for kind in kinds for cells in groups[kind]], axis=-1)
            for values in one.effects[role]
        ]
        for role in roles
    }
    totals, *resampled = resampled_jointly(
        [(range(one.n_facts), one.total), *((one.members[role], effects[role]) for role in roles)],
        resamples=resamples,
        seed=seed,
    )
    ends = np.cumsum([0, *(len(groups[kind]) for kind in kinds)])
    maps = {}
    for number, kind in enumerate(kinds):
        layers = slice(ends[number], ends[number + 1])
        for role, means in zip(roles, resampled, strict=True):
            values, members = [draws[:, layers] for draws in effects[role]], one.members[role]
            mean, means = mean_of_facts(values), means[:, layers]
            if total is not None:
                mean, means = mean / mean_of_facts(total), means / totals[:, None]
            there = np.isfinite(means).all(1)  # a resample may have no fact with the role
            facts = values[0] if one.n_facts == 1 else np.stack([draws.mean(0) for draws in values])
            maps[kind, role] = _Map(mean, means[there] if there.any() else means, members, facts)
    return maps


def _peak(found: _Map, sign: int, level: float) -> dict[str, object]:
    """The largest mean effect, or with the sign -1 the largest loss."""
    last = max(1, found.n_layers - 1)
    mean, means = sign * found.mean, sign * found.means
    layer = int(mean.argmax())
    low, high = band(np.where(np.isnan(means[:, 0]), np.nan, means.argmax(1) / last), level)
    return {
        "layer": layer,
        "depth": layer / last,
        "low": float(low),
        "high": float(high),
        "effect": float(mean[layer]),
        "n_layers": found.n_layers,
        "n_facts": len(found.members),
    }


def _similarity(
    aligned: Mapping[str, Aligned],
    kinds: Sequence[str],
    maps: Mapping[tuple[str, str, str], _Map],
    depths: Float[Values, " point"],
    *,
    level: float,
    seed: int,
) -> pd.DataFrame:
    rows = []
    for kind in kinds:
        for one, other in combinations(aligned, 2):
            roles = [role for name, of, role in maps if (name, of) == (one, kind)]
            roles = [role for role in roles if (other, kind, role) in maps]
            if roles:
                sides = (
                    _fact_map([maps[name, kind, role] for role in roles], depths, aligned[name].n_facts)
                    for name in (one, other)
                )
                r, low, high = map_correlation(*sides, level=level, seed=seed)
                rows.append({"model": one, "other": other, "kind": kind, "r": r, "low": low, "high": high})
    return pd.DataFrame(rows, columns=["model", "other", "kind", "r", "low", "high"])


def _fact_map(maps: Sequence[_Map], depths: Float[Values, " point"], n_facts: int) -> FactMap:
    """The maps of all roles of a model side by side, a row a fact, or of its only fact a row a draw."""
    rows = len(maps[0].facts) if n_facts == 1 else n_facts
    values = np.zeros((rows, len(maps), len(depths)))
    there = np.zeros(values.shape, dtype=bool)
    for column, found in enumerate(maps):
        own = list(range(rows)) if n_facts == 1 else list(found.members)
        values[own, column] = _at(found.facts, depths)
        there[own, column] = True
    return FactMap(values.reshape(rows, -1), there.reshape(rows, -1))
