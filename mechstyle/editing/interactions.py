"""What edits do to one another, read off their factors; no change is ever multiplied out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechstyle.editing.weight_edit import WeightEdit
from mechstyle.errors import InputError

__all__ = ["change_norms", "interactions"]


_WIDTH: Final = 2048
"""Columns of factors that are multiplied at once, so that many edits need no more memory than some."""


@dataclass(frozen=True, eq=False)
class _Factors:
    """All that one edit does to one parameter."""

    left: Float[Tensor, "d_in rank"]
    right: Float[Tensor, "rank d_out"]
    keys: Float[Tensor, "key d_in"]


@dataclass(frozen=True, eq=False)
class _Stack:
    """Matrices of several edits, one below the other, and whose each row is."""

    rows: Float[Tensor, "row width"]
    owner: Int[Tensor, " row"]

    def parts(self) -> Iterator[_Stack]:
        for rows, owner in zip(self.rows.split(_WIDTH), self.owner.split(_WIDTH), strict=True):
            yield _Stack(rows, owner)


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
    n = len(edits)
    factors = [_by_parameter(one) for one in edits]
    inner, squares = torch.zeros(n, n, dtype=torch.float64), torch.zeros(n, n, dtype=torch.float64)
    closest = torch.full((n, n), -math.inf, dtype=torch.float64)
    for name in dict.fromkeys(name for one in factors for name in one):
        own = {number: one[name] for number, one in enumerate(factors) if name in one}
        lefts = _stack({number: one.left.T for number, one in own.items()})
        rights = _stack({number: one.right for number, one in own.items()})
        keys = _stack({number: one.keys for number, one in own.items()})
        # ‖K L R‖ is ‖K L Tᵀ‖ for Rᵀ = Q T, since Q's columns are orthonormal.
        moving = _stack({number: _triangle(one.right) @ one.left.T for number, one in own.items()})
        for first, right in zip(lefts.parts(), rights.parts(), strict=True):
            for second, other in zip(lefts.parts(), rights.parts(), strict=True):
                _add(inner, (first.rows @ second.rows.T) * (right.rows @ other.rows.T), first, second)
        for some in keys.parts():
            for second in moving.parts():
                _add(squares, (some.rows @ second.rows.T).square(), some, second)
        units = _Stack(torch.nn.functional.normalize(keys.rows, dim=-1), keys.owner)
        for some in units.parts():
            for second in units.parts():
                _raise(closest, (some.rows @ second.rows.T).abs().clamp(max=1), some, second)
    norms, moved = inner.diagonal().clamp(min=0).sqrt(), squares.sqrt()
    keyless = torch.tensor(
        [not any(len(one.keys) for one in own.values()) for own in factors], dtype=torch.bool
    )
    moved[keyless] = math.nan
    i, j = (~torch.eye(n, dtype=torch.bool)).nonzero(as_tuple=True)
    called = np.array(names)
    columns = {
        "i": called[i.numpy()],
        "j": called[j.numpy()],
        "cosine": _ratio(inner, norms[:, None] * norms)[i, j].numpy(),
        "key_cosine": torch.where(closest < 0, math.nan, closest)[i, j].numpy(),
        "disturbance": _ratio(moved, moved.diagonal()[:, None])[i, j].numpy(),
        "norm_i": norms[i].numpy(),
        "norm_j": norms[j].numpy(),
    }
    return pd.DataFrame(columns)


def change_norms(edits: Sequence[WeightEdit]) -> dict[str, float]:
    """Frobenius norm of an edit's whole change, by parameter.

    >>> change_norms([WeightEdit("W", torch.ones(4, 1), torch.ones(1, 4))])
    {'W': 4.0}
    """
    return {
        name: max(float(((own.left.T @ own.left) * (own.right @ own.right.T)).sum()), 0.0) ** 0.5
        for name, own in _by_parameter(edits).items()
    }


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


def _stack(parts: Mapping[int, Float[Tensor, "row width"]]) -> _Stack:
    owner = [torch.full((len(rows),), number) for number, rows in parts.items()]
    return _Stack(torch.cat(list(parts.values())), torch.cat(owner))


def _triangle(right: Float[Tensor, "rank d_out"]) -> Float[Tensor, "small rank"]:
    """``T`` of ``Rᵀ = Q T``."""
    found: Tensor = torch.linalg.qr(right.T, mode="r").R
    return found


def _add(total: Float[Tensor, "edit edit"], part: Float[Tensor, "row column"], i: _Stack, j: _Stack) -> None:
    """Add to each pair of edits what stands at their rows and columns."""
    by_row = torch.zeros(len(total), part.shape[1], dtype=total.dtype).index_add_(0, i.owner, part)
    total.index_add_(1, j.owner, by_row)


def _raise(most: Float[Tensor, "edit edit"], part: Float[Tensor, "row column"], i: _Stack, j: _Stack) -> None:
    """Raise each pair of edits to the largest that stands at their rows and columns."""
    by_row = torch.full((len(most), part.shape[1]), -math.inf, dtype=most.dtype)
    by_row.scatter_reduce_(0, i.owner[:, None].expand_as(part), part, "amax")
    most.scatter_reduce_(1, j.owner.expand_as(by_row), by_row, "amax")


def _ratio(part: Float[Tensor, "edit edit"], whole: Tensor) -> Float[Tensor, "edit edit"]:
    return torch.where(whole > 0, part / whole, math.nan)
