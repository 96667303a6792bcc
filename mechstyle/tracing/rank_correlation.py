"""How well estimated effects order the cells: Spearman's rank correlation with exact ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from mechstyle.errors import InputError, RangeError, WorkError
from mechstyle.tracing.kinds import KINDS
from mechstyle.tracing.trace import Trace

__all__ = ["RankCorrelation", "rank_correlation", "ranked"]

EQUAL: Final = 1e-6
"""Effects count as equal when they differ by less than this times the largest: it is rounding."""
TINY: Final = float(np.finfo(np.float64).tiny)
SAME: Final = (
    "fact", "prompts", "answer", "answer_tokens", "contrast", "metric", "noise", "samples", "seed",
    "direction", "prepend_bos", "edited_weights", "hooks",
)  # fmt: skip
"""Settings that two traces of the same cells share."""


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation over some cells.

    Attributes:
        value: 1 is the same order, 0 none, -1 the reverse.
        low: lower end of a percentile bootstrap interval over cells.
        high: its upper end.
        n_cells: how many cells were compared.
        level: the share of resamples inside the interval.
    """

    value: float
    low: float
    high: float
    n_cells: int
    level: float

    def to_dict(self) -> dict[str, float]:
        """In JSON form."""
        return asdict(self)


def rank_correlation(
    exact: Trace,
    estimate: Trace,
    kind: str,
    *,
    tokens: Sequence[int] | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> RankCorrelation:
    """Spearman's rank correlation of exact and estimated mean indirect effects, over the cells of a kind.

    The interval resamples cells, not draws: it says how much the figure depends on which cells there are.
    Neighbouring cells are alike, so take it for a lower bound of the uncertainty.

    Args:
        exact: of `causal_trace` or `activation_patching`.
        estimate: of `attribution_patching`, with the same settings.
        tokens: the cells' tokens; None takes all from the subject on, or from the first in which two prompts
            differ. Cells before it would agree for no merit.
        level: share of resamples inside the interval.

    Raises:
        InputError: the traces are not of the same model, prompt and settings, or lack the kind.
        RangeError: a token is none of the traces', or `level` or `resamples` is out of range.
        WorkError: all effects of a trace are equal, so that there is no order.

    Example:
        >>> estimated = attribution_patching(model, fact)
        >>> rank_correlation(causal_trace(model, fact, metric="logprob"), estimated, "mlp").value
        0.82
    """
    effects = [trace.indirect_effect(kind).values for trace in (exact, estimate)]
    _require_same(exact, estimate, kind)
    chosen = _tokens(estimate, tokens)
    found = ranked(
        *(effect[chosen].ravel() for effect in effects), level=level, resamples=resamples, seed=seed
    )
    if found is None:
        raise WorkError(
            f"rank_correlation: all {kind!r} effects of a trace are equal, so that they have no order. "
            "Corrupt more, or take other tokens."
        )
    return found


def ranked(
    exact: Float[NDArray[np.float64], " cell"],
    estimate: Float[NDArray[np.float64], " cell"],
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> RankCorrelation | None:
    """The same of plain numbers; None where all of one side are equal. Equal ones share a rank.

    Raises:
        RangeError: `level` is outside of (0, 1), or fewer than one resample.

    Example:
        >>> ranked(np.array([1.0, 2.0, 3.0]), np.array([1.0, 5.0, 7.0])).value
        1.0
    """
    from scipy.stats import rankdata

    if not 0 < level < 1:
        raise RangeError(f"level: expected a share between 0 and 1, such as 0.95, got {level}.")
    if resamples < 1:
        raise RangeError(f"resamples: expected at least 1, got {resamples}.")
    pairs = np.stack([np.round(side / max(EQUAL * np.abs(side).max(), TINY)) for side in (exact, estimate)])
    if np.any(np.ptp(pairs, axis=1) == 0):
        return None
    picked = np.random.default_rng(seed).integers(len(exact), size=(resamples, len(exact)))
    ranks = rankdata(np.concatenate([pairs[:, None], pairs[:, picked]], axis=1), axis=-1)
    centred = ranks - ranks.mean(-1, keepdims=True)
    size = np.sqrt((centred**2).sum(-1)).prod(0)
    some = size > 0  # a resample may hold one value again and again
    values = (centred[0] * centred[1]).sum(-1)[some] / size[some]
    low, high = np.quantile(values[1:], [(1 - level) / 2, (1 + level) / 2])
    return RankCorrelation(float(values[0]), float(low), float(high), len(exact), level)


def _tokens(estimate: Trace, tokens: Sequence[int] | None) -> list[int]:
    n_tokens = int(estimate.data.sizes["token"])
    if tokens is None:
        return list(range(int(estimate.settings["first_token"]), n_tokens))
    if not len(tokens) or not all(0 <= token < n_tokens for token in tokens):
        raise RangeError(f"tokens: expected some of 0 to {n_tokens - 1}, got {list(tokens)}.")
    return list(tokens)


def _require_same(exact: Trace, estimate: Trace, kind: str) -> None:
    for name, trace, estimated in (("exact", exact, False), ("estimate", estimate, True)):
        if ("method" in trace.settings) != estimated:
            wanted = "an estimate of attribution_patching" if estimated else "a trace of cells that were run"
            raise InputError(f"{name}: expected {wanted}, got the other.")
    names = [*SAME]
    if kind in KINDS:
        names += ["window"] * KINDS[kind].windowed + ["neuron_layer"] * KINDS[kind].one_layer
    pairs: dict[str, tuple[Any, Any]] = {
        name: (exact.settings.get(name), estimate.settings.get(name)) for name in names
    }
    strings = [[str(text) for text in trace.data["token_str"].values] for trace in (exact, estimate)]
    pairs["tokens"] = (strings[0], strings[1])
    pairs["model"] = (exact.provenance["fingerprint"], estimate.provenance["fingerprint"])
    different = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    if different:
        told = "; ".join(f"{name}: {one!r} and {other!r}" for name, (one, other) in different.items())
        raise InputError(
            f"estimate: expected a trace with the model and settings of the exact one, got {told}."
        )
