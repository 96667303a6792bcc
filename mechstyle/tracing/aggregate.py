"""Traces of several facts together: effects by token role, and the layer to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from mechstyle.errors import InputError, RangeError
from mechstyle.metrics import bootstrap_means, interval
from mechstyle.tokens import ROLES
from mechstyle.tracing.trace import Trace

__all__ = ["LayerSuggestion", "average_by_role", "suggest_layers"]

LAST_SUBJECT = "last subject token"
CAVEAT = (
    "Where tracing localises a fact does not predict where an edit works best (Hase et al. 2023): "
    "compare with a sweep over layers."
)


@dataclass(frozen=True)
class LayerSuggestion:
    """A layer to edit, and why.

    Attributes:
        layer: the layer.
        effect: mean indirect effect of the mlp window centred there, restored at the last subject token.
        interval: percentile bootstrap interval (low, high) of the effect.
        share: share of bootstrap resamples in which this layer is the peak.
        reason: the choice in a sentence.
        caveat: what the choice does not tell.
    """

    layer: int
    effect: float
    interval: tuple[float, float]
    share: float
    reason: str
    caveat: str = CAVEAT


def average_by_role(
    traces: Sequence[Trace], *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Average indirect effect by kind, token role and layer, with bootstrap intervals (Meng et al. 2022).

    Inside a fact, draws and tokens of one role are averaged first, so that every fact has one vote. A role
    counts the facts that have it.

    Returns:
        a tidy table with the columns kind, role, layer, mean, low, high, n_facts.

    Raises:
        InputError: no traces, or traces of different models, metrics, windows or kinds.
        RangeError: `level` or `resamples` is out of range.

    Example:
        >>> table = average_by_role([causal_trace(model, fact) for fact in facts])
        >>> table[table.role == "last subject token"]
    """
    _check_alike(traces)
    rows: list[dict[str, object]] = []
    for kind in traces[0].kinds:
        for role in ROLES:
            effects = _role_effects(traces, kind, role)
            if len(effects) == 0:
                continue
            low, high = interval(effects, level=level, resamples=resamples, seed=seed)
            mean = effects.mean(0)
            rows += [
                {
                    "kind": kind,
                    "role": role,
                    "layer": layer,
                    "mean": mean[layer],
                    "low": low[layer],
                    "high": high[layer],
                    "n_facts": len(effects),
                }
                for layer in range(effects.shape[1])
            ]
    return pd.DataFrame(rows)


def suggest_layers(
    traces: Trace | Sequence[Trace], n: int = 1, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> list[LayerSuggestion]:
    """The layers whose mlp has the largest mean indirect effect at the last subject token, best first.

    This is the rule of Meng et al. (2022).

    Several traces are resampled over facts, a single one over its noise draws.

    Raises:
        InputError: no traces, no "mlp" in them, or traces that cannot be compared.
        RangeError: `n` is not one to the number of layers.

    Example:
        >>> suggest_layers(traces)[0].layer
        4
    """
    traces = [traces] if isinstance(traces, Trace) else list(traces)
    _check_alike(traces)
    if "mlp" not in traces[0].kinds:
        raise InputError(
            f"traces: expected the kind 'mlp', got {', '.join(traces[0].kinds)}. Trace with kinds=('mlp',)."
        )
    if len(traces) == 1:
        one = traces[0]
        effects = one.indirect_effect("mlp", reduce=None).values[:, one.token(LAST_SUBJECT)]
        unit = "noise draws of one fact"
    else:
        effects, unit = _role_effects(traces, "mlp", LAST_SUBJECT), "facts"
    n_layers = effects.shape[1]
    if not 1 <= n <= n_layers:
        raise RangeError(f"n: expected 1 to {n_layers}, the number of layers, got {n}.")
    mean = effects.mean(0)
    low, high = interval(effects, level=level, resamples=resamples, seed=seed)
    peaks = bootstrap_means(effects, resamples=resamples, seed=seed).argmax(1)
    share = np.bincount(peaks, minlength=n_layers) / resamples
    window = traces[0].settings["window"]
    suggestions = []
    for rank, layer in enumerate(int(found) for found in np.argsort(-mean, kind="stable")[:n]):
        place = "the largest" if rank == 0 else f"number {rank + 1} in"
        doubt = (
            ""
            if low[layer] > 0
            else " The interval holds 0: this site recovers nothing that can be told from noise."
        )
        suggestions.append(
            LayerSuggestion(
                layer=layer,
                effect=float(mean[layer]),
                interval=(float(low[layer]), float(high[layer])),
                share=float(share[layer]),
                reason=(
                    f"Layer {layer} has {place} mean indirect effect of the MLP (window of {window}) "
                    f"at the last subject token: {mean[layer]:.3g}, {level:.0%} interval {low[layer]:.3g} "
                    f"to {high[layer]:.3g} over {len(effects)} {unit}; "
                    f"the peak in {share[layer]:.0%} of resamples.{doubt}"
                ),
            )
        )
    return suggestions


def _role_effects(traces: Sequence[Trace], kind: str, role: str) -> Float[NDArray[np.float64], "fact layer"]:
    """One row for every fact that has the role: the mean over draws, and over the role's tokens."""
    rows = []
    for trace in traces:
        effect = trace.indirect_effect(kind)
        chosen = effect["role"].values == role
        if chosen.any():
            rows.append(effect.values[chosen].mean(0))
    return np.stack(rows) if rows else np.empty((0, traces[0].data.sizes["layer"]))


def _check_alike(traces: Sequence[Trace]) -> None:
    if not traces:
        raise InputError("traces: expected at least one trace, got none.")
    first = _signature(traces[0])
    for index, trace in enumerate(traces[1:], start=1):
        for (name, wanted), (_, found) in zip(first, _signature(trace), strict=True):
            if found != wanted:
                raise InputError(
                    f"traces: trace {index} has {name} {found!r}, the first one {wanted!r}. Average traces "
                    "of one model with the same settings."
                )


def _signature(trace: Trace) -> list[tuple[str, object]]:
    record = trace.provenance
    named: list[tuple[str, object]] = [("fingerprint", record["fingerprint"]), ("kinds", trace.kinds)]
    return named + [(name, record["settings"][name]) for name in ("metric", "window", "prepend_bos")]
