"""What edits do to one another, read off their factors; no change is ever multiplied out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from mechstyle.editing.weight_edit import WeightEdit
from mechstyle.errors import InputError

__all__ = ["change_norms", "interactions"]


@dataclass(frozen=True, eq=False)
class _Factors:
    """All that one edit does to one parameter."""

    left: Float[Tensor, "d_in rank"]
    right: Float[Tensor, "rank d_out"]
    keys: Float[Tensor, "key d_in"]


def interactions(edits: Sequence[Sequence[WeightEdit]], numbers: Sequence[int] | None = None) -> pd.DataFrame:
    """Compare every edit with every other one: a row for each ordered pair ``i != j``.

    ``cosine`` is that of the two changes, over all parameters. ``key_cosine`` is the largest (absolute) of a
    key of ``i`` with a key of ``j`` in the same parameter. ``disturbance`` says how much ``j`` moves what
    ``i`` has written, ``‖K_i ΔW_j‖ / ‖K_i ΔW_i‖`` at the keys ``K_i`` of ``i``: 1 is as much as ``i`` wrote
    itself. ``norm_i, norm_j`` are the Frobenius norms. What needs keys that an edit does not have is NaN.

    Args:
        edits: the changes of each edit.
        numbers: what ``i`` and ``j`` are called; None counts from 0.

    Raises:
        InputError: not one number for each edit.

    >>> one = WeightEdit("W", torch.eye(2)[:, :1], torch.ones(1, 2), keys=torch.eye(2)[:1])
    >>> two = WeightEdit("W", torch.eye(2)[:, :1], -torch.ones(1, 2), keys=torch.eye(2)[1:])
    >>> interactions([[one], [two]])[["cosine", "key_cosine", "disturbance"]].loc[0].round(6).tolist()
    [-1.0, 0.0, 1.0]
    """
    names = range(len(edits)) if numbers is None else numbers
    if len(names) != len(edits):
        raise InputError(f"numbers: expected one for each of {len(edits)} edits, got {len(names)}.")
    factors = [_by_parameter(one) for one in edits]
    products = [[_inner(one, other) for other in factors[: place + 1]] for place, one in enumerate(factors)]
    norms = [row[-1] ** 0.5 for row in products]
    rows = []
    for i, one in enumerate(factors):
        written = _moved(one, one)
        for j, other in enumerate(factors):
            if i == j:
                continue
            rows.append(
                {
                    "i": names[i],
                    "j": names[j],
                    "cosine": _ratio(products[max(i, j)][min(i, j)], norms[i] * norms[j]),
                    "key_cosine": _key_cosine(one, other),
                    "disturbance": _ratio(_moved(one, other), written),
                    "norm_i": norms[i],
                    "norm_j": norms[j],
                }
            )
    columns = ["i", "j", "cosine", "key_cosine", "disturbance", "norm_i", "norm_j"]
    return pd.DataFrame(rows, columns=columns)


def change_norms(edits: Sequence[WeightEdit]) -> dict[str, float]:
    """Frobenius norm of an edit's whole change, by parameter.

    >>> change_norms([WeightEdit("W", torch.ones(4, 1), torch.ones(1, 4))])
    {'W': 4.0}
    """
    found = _by_parameter(edits)
    return {name: _inner({name: own}, {name: own}) ** 0.5 for name, own in found.items()}


def _by_parameter(edits: Sequence[WeightEdit]) -> dict[str, _Factors]:
    found = {}
    for name in dict.fromkeys(edit.parameter for edit in edits):
        own = [edit for edit in edits if edit.parameter == name]
        keys = [edit.keys for edit in own if edit.keys is not None]
        found[name] = _Factors(
            torch.cat([edit.left for edit in own], 1),
            torch.cat([edit.right for edit in own]),
            torch.cat(keys) if keys else own[0].left.new_zeros(0, own[0].left.shape[0]),
        )
    return found


def _inner(one: dict[str, _Factors], other: dict[str, _Factors]) -> float:
    """``Σ ⟨ΔW, ΔW'⟩`` over shared parameters, as ``Σ (LᵀL') ∘ (R R'ᵀ)``."""
    total = 0.0
    for name in one.keys() & other.keys():
        left, right = one[name].left.T @ other[name].left, one[name].right @ other[name].right.T
        total += float((left * right).sum())
    return max(total, 0.0) if one is other else total


def _moved(one: dict[str, _Factors], other: dict[str, _Factors]) -> float:
    """``‖K ΔW'‖`` at the keys of one edit under the change of another; NaN without keys."""
    places = {name: own.keys for name, own in one.items() if len(own.keys)}
    if not places:
        return float("nan")
    squares = [
        float((keys @ other[name].left @ other[name].right).square().sum())
        for name, keys in places.items()
        if name in other
    ]
    return float(sum(sorted(squares)) ** 0.5)


def _key_cosine(one: dict[str, _Factors], other: dict[str, _Factors]) -> float:
    shared = [name for name in one if name in other and len(one[name].keys) and len(other[name].keys)]
    found = [
        float((_unit(one[name].keys) @ _unit(other[name].keys).T).abs().max().clamp(max=1)) for name in shared
    ]
    return max(found, default=float("nan"))


def _unit(keys: Float[Tensor, "key d_in"]) -> Float[Tensor, "key d_in"]:
    return torch.nn.functional.normalize(keys, dim=-1)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")
