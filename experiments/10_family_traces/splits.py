"""Effects fact by fact, and their means with intervals in each part of the facts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from subjects import LAST, Chosen

import mechstyle as ms

__all__ = ["effects", "explained", "parts", "peak", "splits"]

RESAMPLES = 2000
Row = dict[str, object]


def effects(traces: Iterable[ms.Trace], chosen: Sequence[Chosen]) -> pd.DataFrame:
    """A row a fact, kind, set of tokens and layer: the indirect effect, the mean of its draws."""
    by_fact = {one.fact: one for one in chosen}
    return pd.DataFrame(
        row for trace in traces for row in _rows(trace, by_fact[ms.Fact.from_dict(trace.settings["fact"])])
    )


def _rows(trace: ms.Trace, one: Chosen) -> Iterator[Row]:
    about = {name: value for name, value in asdict(one).items() if name != "fact"}
    about |= {"relation": one.fact.relation, "prompt": one.fact.prompt, "answer": one.fact.target}
    about["total"] = float(trace.total_effect())
    for kind in trace.kinds:
        found = trace.indirect_effect(kind)
        for place, values in zip(trace.data["role"].values, found.values, strict=True):
            for layer, effect in enumerate(values):
                yield {**about, "kind": kind, "place": str(place), "layer": layer, "effect": float(effect)}


def parts(frame: pd.DataFrame) -> pd.DataFrame:
    """The part of each split that a row belongs to, a column a split."""
    shared = pd.cut(frame["last_shared"], [0, 4, 19, 1000], labels=["1-4", "5-19", "20+"]).astype(str)
    first = pd.cut(frame["first_shared"], [-1, 1, 4, 1000], labels=["0-1", "2-4", "5+"]).astype(str)
    after = pd.cut(frame["after"], [0, 2, 5, 1000], labels=["1-2", "3-5", "6+"]).astype(str)
    tokens = pd.cut(frame["tokens"], [1, 2, 3, 1000], labels=["2", "3", "4+"]).astype(str)
    invented = frame["name"] != "real"
    table = pd.DataFrame({"all": "all", "tokens after": after, "tokens of the subject": tokens})
    table["kind of name"] = frame["name"].where(invented)
    table["names with its last token"] = shared.where(invented)
    table["names with its first word"] = first.where(invented)
    table["name, tokens after"] = (frame["name"] + ", " + after).where(invented)
    return table


def splits(frame: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """The largest mean effect in each part: its layer, its size, and its share of the total effect.

    Intervals are over facts, at that layer.
    """
    belongs = parts(frame)
    rows: list[Row] = []
    for split in belongs:
        for part, here in frame.groupby(belongs[split], sort=True):
            for (kind, place), cells in here.groupby(["kind", "place"], sort=False):
                found = peak(cells, seed=seed)
                rows.append({"split": split, "part": part, "kind": kind, "place": place, **found})
    return pd.DataFrame(rows)


def peak(cells: pd.DataFrame, *, seed: int) -> Row:
    """The layer with the largest mean effect, with intervals over facts at it."""
    table = cells.pivot(index="prompt", columns="layer", values="effect")
    total = cells.groupby("prompt")["total"].first().loc[table.index].to_numpy()
    layer = int(table.mean().idxmax())
    values = table[layer].to_numpy()
    draws = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    shares = values[draws].mean(1) / total[draws].mean(1)
    return {
        "n": len(values),
        "layer": layer,
        "depth": layer / max(1, table.shape[1] - 1),
        **_ends("effect", float(values.mean()), values[draws].mean(1)),
        **_ends("share", float(values.mean() / total.mean()), shares),
        **_ends("total", float(total.mean()), total[draws].mean(1)),
    }


def _ends(name: str, value: float, resampled: np.ndarray) -> Row:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return {name: value, f"{name}_low": float(low), f"{name}_high": float(high)}


def explained(frame: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """What goes with a high effect at the last subject token, all explanations in one regression.

    The effect is that of the residual stream at the layer where its mean is largest; coefficients are per
    token, per doubling of the number of names, and of real as against invented subjects.
    """
    here = frame[(frame["kind"] == "resid") & (frame["place"] == LAST)]
    here = here[here["layer"] == here.groupby("layer")["effect"].mean().idxmax()]
    real = here["name"] == "real"
    given = {
        "tokens after the subject": here["after"],
        "tokens of the subject": here["tokens"],
        "doublings of names with its last token": np.log2(here["last_shared"].clip(lower=1)).where(~real, 0),
        "doublings of names with its first word": np.log2(here["first_shared"].clip(lower=1)).where(~real, 0),
        "real, one fact": (here["group"] == "real, one fact").astype(float),
        "real, two facts": (here["group"] == "real, two facts").astype(float),
        "total effect": here["total"],
    }
    table = pd.DataFrame({"1": 1.0, **given}).astype(float)
    table = table.loc[:, [name for name in table if name == "1" or table[name].nunique() > 1]]
    x, y, rng = table.to_numpy(), here["effect"].to_numpy(), np.random.default_rng(seed)
    drawn = rng.integers(len(y), size=(RESAMPLES, len(y)))
    fits = [np.linalg.lstsq(x[rows], y[rows], rcond=None)[0] for rows in drawn]
    whole = np.linalg.lstsq(x, y, rcond=None)[0]
    low, high = np.quantile(fits, [0.025, 0.975], axis=0)
    found = {"explained by": list(table), "coefficient": whole, "low": low, "high": high, "n": len(y)}
    return pd.DataFrame(found).iloc[1:]
