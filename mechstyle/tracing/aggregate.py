"""Traces of several facts together: effects by token role, total effects, and the layer to look at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from mechstyle.errors import InputError, RangeError
from mechstyle.tracing.aligned import align, mean_of_facts, resampled_means
from mechstyle.tracing.trace import Trace

__all__ = ["LayerSuggestion", "Over", "average_by_role", "band", "suggest_layers", "total_effects"]

Over = Literal["facts and draws", "facts"]
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
        effect: mean indirect effect of the mlp window centred there, restored at the last subject token; in
            noising, the mean loss.
        interval: percentile bootstrap interval (low, high) of the effect; NaN of one draw of one fact.
        share: share of bootstrap resamples in which this layer is the peak; NaN where there is no interval.
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
    traces: Iterable[Trace],
    *,
    over: Over = "facts and draws",
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Average indirect effect by kind, token role and cell, with bootstrap intervals (Meng et al. 2022).

    Inside a fact, tokens of one role are averaged first, so that every fact has one vote; a role counts the
    facts that have it. Traces are read once, one after the other: what is kept are their effects by role.

    Args:
        over: what is resampled. "facts and draws" takes facts with replacement, and within each its draws; it
            counts the noise of the draws twice and so errs on the wide side (Davison and Hinkley 1997, 3.8).
            "facts" is sharp, wants a dozen facts or more and a tenth of the memory.

    Returns:
        a tidy table with the columns kind, role, layer, those of further axes if a kind has them (head,
        kv_head, neuron), mean, low, high, n_facts. Where there is nothing to resample, which is one draw of
        one fact, or one fact over "facts", low and high are NaN. In noising effects are run minus clean:
        what matters is negative.

    Raises:
        InputError: no traces, or traces of different models, metrics, corruptions, windows or kinds.
        RangeError: `level` or `resamples` is out of range.

    Example:
        >>> table = average_by_role(trace_facts(model, facts))
        >>> table[table.role == "last subject token"]
    """
    _check(over, level, resamples)
    aligned = align(traces, average=over == "facts")
    tables = []
    for role, effects in aligned.effects.items():
        low, high = band(resampled_means(effects, resamples=resamples, seed=seed), level)
        table = aligned.cells.assign(mean=mean_of_facts(effects), low=low, high=high, n_facts=len(effects))
        table.insert(1, "role", role)
        tables.append(table)
    whole = pd.concat(tables, ignore_index=True)
    kinds = pd.Categorical(whole["kind"], categories=whole["kind"].unique())
    return whole.iloc[np.argsort(kinds.codes, kind="stable")].reset_index(drop=True)


def total_effects(
    traces: Iterable[Trace],
    *,
    over: Over = "facts and draws",
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """The metric of the clean and of the corrupted runs, and their difference, averaged over facts.

    The average total effect is the yardstick of all indirect effects (Meng et al. 2022, 2.1).

    Args:
        over: as in `average_by_role`.

    Returns:
        a table with the rows "clean", "corrupted" and "total effect", and the columns mean, low, high and
        n_facts; low and high are NaN where there is nothing to resample.

    Raises:
        InputError: as `average_by_role`.
        RangeError: `level` or `resamples` is out of range.

    Example:
        >>> total_effects(traces)["mean"]["total effect"]
        0.71
    """
    _check(over, level, resamples)
    aligned = align(traces, roles=())
    values = []
    for clean, runs in zip(aligned.clean, aligned.corrupted, strict=True):
        corrupted = runs if over == "facts and draws" else runs.mean(keepdims=True)
        values.append(np.stack([np.full(len(corrupted), clean), corrupted, clean - corrupted], axis=-1))
    low, high = band(resampled_means(values, resamples=resamples, seed=seed), level)
    return pd.DataFrame(
        {"mean": mean_of_facts(values), "low": low, "high": high, "n_facts": aligned.n_facts},
        index=pd.Index(["clean", "corrupted", "total effect"], name="quantity"),
    )


def suggest_layers(
    traces: Trace | Iterable[Trace],
    n: int = 1,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> list[LayerSuggestion]:
    """The layers whose mlp has the largest mean indirect effect at the last subject token, best first.

    This is the rule of Meng et al. (2022). In noising it takes the largest mean loss, clean minus run. Facts
    and their noise draws are resampled; of a single trace, its draws; one draw of one fact has no interval.

    Raises:
        InputError: no traces, no "mlp" or no last subject token in them, or traces that cannot be compared.
        RangeError: `n` is not one to the number of layers.

    Example:
        >>> suggest_layers(traces)[0].layer
        4
    """
    _check("facts and draws", level, resamples)
    aligned = align([traces] if isinstance(traces, Trace) else traces, kinds=("mlp",), roles=(LAST_SUBJECT,))
    if LAST_SUBJECT not in aligned.effects:
        raise InputError(f"traces: expected the role {LAST_SUBJECT!r}, which none of them has.")
    lost = aligned.settings["direction"] == "noising"
    effects = [-one if lost else one for one in aligned.effects[LAST_SUBJECT]]
    facts, (draws, n_layers) = len(effects), effects[0].shape
    unit = f"{facts} facts" if facts > 1 else f"{draws} noise draws of one fact"
    if not 1 <= n <= n_layers:
        raise RangeError(f"n: expected 1 to {n_layers}, the number of layers, got {n}.")
    what = "loss from noising" if lost else "indirect effect of"
    mean = mean_of_facts(effects)
    means = resampled_means(effects, resamples=resamples, seed=seed)
    low, high = band(means, level)
    share = np.bincount(means.argmax(1), minlength=n_layers) / np.where(np.isnan(low), np.nan, resamples)
    suggestions = []
    for rank, layer in enumerate(int(found) for found in np.argsort(-mean, kind="stable")[:n]):
        place = "the largest" if rank == 0 else f"number {rank + 1} in"
        if np.isnan(low[layer]):
            doubt = "; one draw of one fact has no interval, so that this may be chance."
        else:
            doubt = (
                f", {level:.0%} interval {low[layer]:.3g} to {high[layer]:.3g} over {unit}; "
                f"the peak in {share[layer]:.0%} of resamples."
            )
            if low[layer] <= 0:
                verb = "loses" if lost else "recovers"
                doubt += f" The interval holds 0: this site {verb} nothing that can be told from noise."
        suggestions.append(
            LayerSuggestion(
                layer=layer,
                effect=float(mean[layer]),
                interval=(float(low[layer]), float(high[layer])),
                share=float(share[layer]),
                reason=(
                    f"Layer {layer} has {place} mean {what} the MLP (window of "
                    f"{aligned.settings['window']}) at the last subject token: {mean[layer]:.3g}{doubt}"
                ),
            )
        )
    return suggestions


def band(
    means: Float[NDArray[np.float64], "resample ..."], level: float
) -> tuple[Float[NDArray[np.float64], "..."], Float[NDArray[np.float64], "..."]]:
    """Percentile interval (low, high) of resampled means; NaN where they are.

    Example:
        >>> low, high = band(resampled_means(effects, resamples=1000, seed=0), 0.95)
    """
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def _check(over: str, level: float, resamples: int) -> None:
    if over not in get_args(Over):
        raise InputError(f"over: expected 'facts and draws' or 'facts', got {over!r}.")
    if not 0 < level < 1:
        raise RangeError(f"level: expected a share between 0 and 1, such as 0.95, got {level}.")
    if isinstance(resamples, bool) or not isinstance(resamples, int) or resamples < 1:
        raise RangeError(f"resamples: expected a whole number of at least 1, got {resamples!r}.")
