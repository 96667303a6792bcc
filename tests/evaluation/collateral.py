"""What the tests of collateral share: a model destroyed by an edit, and a measurement read in one stage."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformer_lens import HookedTransformer

from mechstyle.editing.edit import EditSet, WeightEdit
from mechstyle.evaluation.measure import Conditions, Measure, Row
from mechstyle.models import fingerprint, parameter_value

PLAIN = Conditions(prepend_bos=False)


def destroying_edit(model: HookedTransformer, seed: int = 0) -> EditSet:
    """Noise of the same size in place of what every MLP writes with."""
    generator = torch.Generator().manual_seed(seed)
    changes = []
    for layer in range(model.cfg.n_layers):
        weight = parameter_value(model, f"blocks.{layer}.mlp.W_out").double()
        noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        delta = noise * weight.norm() / noise.norm() - weight
        changes.append(
            WeightEdit(f"blocks.{layer}.mlp.W_out", torch.eye(len(weight), dtype=torch.float64), delta)
        )
    return EditSet(tuple(changes), fingerprint(model))


def stages(
    model: HookedTransformer, measure: Measure, edit: Any, conditions: Conditions = PLAIN
) -> tuple[list[Row], list[Row]]:
    """Rows before an edit and under it."""
    read = measure.prepare(model, [], conditions)
    before = read(None, [])
    with edit.applied(model):
        return before, read(edit, [])


def values(measure: Measure, rows: list[Row]) -> dict[str, float]:
    """Each metric of the rows, as its definition says."""
    found = {}
    for metric in measure.metrics:
        own = [row for row in rows if metric.kind is None or row["kind"] == metric.kind]
        weight = sum(1 if metric.weight is None else row[metric.weight] for row in own)
        ratio = math.fsum(row[metric.column] for row in own) / weight
        found[metric.name] = math.exp(ratio) if metric.exponential else ratio
    return found
