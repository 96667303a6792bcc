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
from mechstyle.tracing.aligned import Aligned, align, mean_of_facts, resampled_means
from mechstyle.tracing.trace import Trace

__all__ = ["ModelComparison", "compare_models"]

Values = NDArray[np.float64]
MUST_AGREE = ("metric", "method", "direction")
"""Settings that mean the same in every model; windows are scaled to the depth and may differ."""


@dataclass(frozen=True, eq=False)
class ModelComparison:
    """Average maps of several models on one grid of relative depth: 0 is the first layer, 1 the last.

    Attributes:
        curves: model, kind, role, depth, mean, low, high, n_facts; interpolated between layers.
        peaks: model, kind, role, layer and depth of the largest mean effect with the interval of that depth
            (low, high), effect, n_layers, n_facts.
        similarity: model, other, kind, and Pearson's r of the two maps (role by depth) with its interval.
    """

    curves: pd.DataFrame
    peaks: pd.DataFrame
    similarity: pd.DataFrame


@dataclass(frozen=True, eq=False)
class _Map:
    """One model, kind and role: the mean of each layer, in the data and in resamples."""

    mean: Float[Values, " layer"]
    means: Float[Values, "resample layer"]
    n_facts: int

    def at(self, depths: Float[Values, " point"]) -> tuple[Float[Values, " point"], Float[Values, "..."]]:
        """Mean and resampled means at relative depths, by linear interpolation."""
        places = depths * (len(self.mean) - 1)
        below = np.floor(places).astype(int)
        above = np.minimum(below + 1, len(self.mean) - 1)
        share = places - below
        return (
            self.mean[below] * (1 - share) + self.mean[above] * share,
            self.means[:, below] * (1 - share) + self.means[:, above] * share,
        )


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

    Depths, widths and tokenizers may differ, and so may the facts: roles align them. Intervals are over facts
    and draws, as in `average_by_role`. Layer l of L is at depth l / (L - 1); a window of layers stands where
    its centre does. Heads of a layer are averaged.

    Args:
        models: traces of each model by a name, such as a `TraceSet`.
        kinds: None means all that every model has and that go through the layers.
        points: of the common grid of depths.
        share: divide effects by the model's average total effect, so that models that know their facts more
            or less surely can be compared in size too.

    Raises:
        InputError: fewer than two models, other metrics or methods, no kind in common, or traces of one model
            that cannot be averaged.
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
        (name, kind, role): _map(one, kind, role, share=share, resamples=resamples, seed=seed + number)
        for number, (name, one) in enumerate(aligned.items())
        for kind in chosen
        for role in one.effects
        if any(effects.any() for effects in one.effects[role])
    }
    depths = np.linspace(0, 1, points)
    curves, peaks = [], []
    for (name, kind, role), found in maps.items():
        key = {"model": name, "kind": kind, "role": role}
        mean, means = found.at(depths)
        low, high = band(means, level)
        curve = {"depth": depths, "mean": mean, "low": low, "high": high, "n_facts": found.n_facts}
        curves.append(pd.DataFrame({**key, **curve}))
        peaks.append({**key, **_peak(found, level)})
    return ModelComparison(
        curves=pd.concat(curves, ignore_index=True),
        peaks=pd.DataFrame(peaks),
        similarity=_similarity(list(aligned), chosen, maps, depths, level),
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


def _map(one: Aligned, kind: str, role: str, *, share: bool, resamples: int, seed: int) -> _Map:
    groups = one.cells[one.cells["kind"] == kind].groupby("layer").groups
    values = []
    for fact, effects in zip(one.members[role], one.effects[role], strict=True):
        layers = [effects[:, list(cells)].mean(1) for cells in groups.values()]
        values.append(np.stack([*layers, one.total[fact]], axis=-1))
    mean, means = mean_of_facts(values), resampled_means(values, resamples=resamples, seed=seed)
    if share:
        mean, means = mean / mean[-1], means / means[:, -1:]
    return _Map(mean[:-1], means[:, :-1], len(values))


def _peak(found: _Map, level: float) -> dict[str, object]:
    last = max(1, len(found.mean) - 1)
    layer = int(found.mean.argmax())
    low, high = band(found.means.argmax(1) / last, level)
    return {
        "layer": layer,
        "depth": layer / last,
        "low": float(low),
        "high": float(high),
        "effect": float(found.mean[layer]),
        "n_layers": len(found.mean),
        "n_facts": found.n_facts,
    }


def _similarity(
    names: Sequence[str],
    kinds: Sequence[str],
    maps: Mapping[tuple[str, str, str], _Map],
    depths: Float[Values, " point"],
    level: float,
) -> pd.DataFrame:
    rows = []
    for kind in kinds:
        for one, other in combinations(names, 2):
            roles = [role for name, of, role in maps if (name, of) == (one, kind)]
            roles = [role for role in roles if (other, kind, role) in maps]
            if not roles:
                continue
            sides = [[maps[name, kind, role].at(depths) for role in roles] for name in (one, other)]
            mean = [np.concatenate([found[0] for found in side]) for side in sides]
            means = [np.concatenate([found[1] for found in side], axis=1) for side in sides]
            low, high = band(_correlations(*means), level)
            r = float(_correlations(*(values[None] for values in mean))[0])
            rows.append(
                {"model": one, "other": other, "kind": kind, "r": r, "low": float(low), "high": float(high)}
            )
    return pd.DataFrame(rows, columns=["model", "other", "kind", "r", "low", "high"])


def _correlations(one: Float[Values, "row cell"], other: Float[Values, "row cell"]) -> Float[Values, " row"]:
    """Pearson's r of each two rows; 0 where a row is flat."""
    first, second = (values - values.mean(1, keepdims=True) for values in (one, other))
    size = np.sqrt(np.square(first).sum(1) * np.square(second).sum(1))
    found: Values = np.divide((first * second).sum(1), size, out=np.zeros(len(size)), where=size > 0)
    return found
