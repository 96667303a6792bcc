"""How much of a table of results the layer explains, and how much another measure adds to it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from mechstyle.errors import InputError, RangeError

__all__ = ["trace_ranks", "variance_explained"]

Panel = Float[NDArray[np.float64], "fact layer"]
TINY = 1e-12
"""Sums of squares below this share of the total are rounding."""


def variance_explained(
    success: Panel, effect: Panel, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """R² of linear models of success: by the layer (a category), by the effect, by both, and what it adds.

    Intervals are percentile bootstraps over facts, each with all of its layers. What the effect adds beyond
    the layer is never negative, so its interval cannot hold 0; its ``p`` says how often effects that were
    dealt out anew among the facts (each fact gets the whole row of another one) add as much.

    Args:
        success: what to explain, such as rewrite scores.
        effect: the same facts and layers.

    Returns:
        the rows layer, effect, both and added with the columns r2, low, high, p (only of added). NaN where
        success does not vary at all.

    Raises:
        InputError: other than two tables of one shape, with two facts and two layers at least, all finite.
        RangeError: `level` is outside of (0, 1), or fewer than one resample.

    Hase et al. 2023, section 4.

    Example:
        >>> variance_explained(np.array([[0.0, 1.0], [0.0, 1.0]]), np.zeros((2, 2))).loc["layer", "r2"]
        1.0
    """
    success, effect = _panels(success, effect)
    if not 0 < level < 1:
        raise RangeError(f"level: expected a share between 0 and 1, such as 0.95, got {level}.")
    if resamples < 1:
        raise RangeError(f"resamples: expected at least 1, got {resamples}.")
    n_facts = len(success)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n_facts, np.full(n_facts, 1 / n_facts), size=resamples).astype(float)
    found = _shares(np.ones((1, n_facts)), success, effect)
    spread = _shares(drawn, success, effect)
    bounds = ((1 - level) / 2, (1 + level) / 2)
    rows = {
        name: [value[0], *(np.nanquantile(spread[name], bounds) if np.isfinite(value[0]) else [np.nan] * 2)]
        for name, value in found.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["r2", "low", "high"])
    table["p"] = np.nan
    if np.isfinite(found["added"][0]):
        table.loc["added", "p"] = _permuted(success, effect, resamples, rng)
    return table


def trace_ranks(success: Panel, effect: Panel) -> pd.DataFrame:
    """Where the best layer of each fact stands in the order of its effects: rank 1 is the peak of the trace.

    Returns:
        a row a fact: ``best`` and ``peak`` (columns of `success` and `effect`, the first of equal ones) and
        ``rank`` (of equal effects, and over equally good layers, the mean). Chance is (n layers + 1) / 2.

    Raises:
        InputError: other than two tables of one shape, all finite.

    Example:
        >>> trace_ranks(np.array([[0.0, 1.0]] * 2), np.array([[0.1, 0.4]] * 2))["rank"].tolist()
        [1.0, 1.0]
    """
    success, effect = _panels(success, effect)
    order = pd.DataFrame(effect).rank(axis=1, ascending=False).to_numpy()
    best = success == success.max(axis=1, keepdims=True)
    return pd.DataFrame(
        {
            "best": success.argmax(1),
            "peak": effect.argmax(1),
            "rank": (order * best).sum(1) / best.sum(1),
        }
    )


def _panels(success: Panel, effect: Panel) -> tuple[Panel, Panel]:
    pair = np.asarray(success, dtype=np.float64), np.asarray(effect, dtype=np.float64)
    shapes = [panel.shape for panel in pair]
    if shapes[0] != shapes[1] or len(shapes[0]) != 2 or min(shapes[0]) < 2:
        raise InputError(
            "success, effect: expected two tables [fact, layer] of one shape, with two facts and two layers "
            f"at least, got {list(shapes[0])} and {list(shapes[1])}."
        )
    if not all(np.isfinite(panel).all() for panel in pair):
        raise InputError("success, effect: expected finite numbers, got NaN or infinity.")
    return pair


def _shares(
    counts: Float[NDArray[np.float64], "resample fact"], success: Panel, effect: Panel
) -> dict[str, Float[NDArray[np.float64], " resample"]]:
    """The four R² for every resample, from sums over facts: regressions on a category have closed forms."""
    size = counts.sum(1) * success.shape[1]

    def products(one: Panel, other: Panel) -> tuple[NDArray[np.float64], ...]:
        """Sums of products about the overall means, and about the means of each layer."""
        raw = counts @ (one * other).sum(1)
        total = raw - (counts @ one.sum(1)) * (counts @ other.sum(1)) / size
        within = raw - ((counts @ one) * (counts @ other)).sum(1) / counts.sum(1)
        return total, within

    y, e = success - success.mean(), effect - effect.mean()
    (yy, yy_in), (ee, ee_in), (ye, ye_in) = products(y, y), products(e, e), products(y, e)
    varies = yy > TINY * max(float((success**2).sum()), np.finfo(float).tiny)
    moves = float((effect**2).sum())
    whole = np.where(varies, yy, np.nan)
    layer = 1 - np.maximum(yy_in, 0) / whole
    alone = _explained(ye, ee, TINY * moves) / whole
    added = np.minimum(_explained(ye_in, ee_in, TINY * moves) / whole, 1 - layer)
    return {"layer": layer, "effect": alone, "both": layer + added, "added": added}


def _explained(
    product: NDArray[np.float64], square: NDArray[np.float64], least: float
) -> NDArray[np.float64]:
    """The sum of squares that a regressor explains; none, where it does not vary."""
    return np.where(square > least, product**2 / np.where(square > least, square, 1.0), 0.0)


def _permuted(success: Panel, effect: Panel, resamples: int, rng: np.random.Generator) -> float:
    """Share of permutations of the facts' effects (the true one among them) that add as much as the true one.

    Within layers the sums of squares stay the same under a permutation, so products alone decide.
    """
    left, right = success - success.mean(0), effect - effect.mean(0)
    products = left @ right.T
    facts = np.arange(len(left))
    dealt = np.array([products[facts, rng.permutation(facts)].sum() for _ in range(resamples)])
    true = abs(float(np.trace(products)))
    slack = TINY * float(np.abs(products).sum())
    return float((1 + (np.abs(dealt) >= true - slack).sum()) / (1 + resamples))
