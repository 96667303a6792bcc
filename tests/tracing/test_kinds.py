"""Every kind of cell, by both engines, gives the numbers of one run a cell, on every architecture."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer

from tests.checkpoints import KINDS
from tests.tracing.cells import CASES, TOLERANCE, TRACED, Case, check, traced

Models = Callable[..., HookedTransformer]


@pytest.mark.parametrize(("number", "kind"), list(enumerate([*KINDS, "mistral-local"])))
def test_both_engines_equal_one_run_a_cell(architectures: Models, kind: str, number: int) -> None:
    check(architectures(kind), CASES[number % len(CASES)], torch.float64, count=4)


def test_both_engines_equal_one_run_a_cell_in_single_precision(architectures: Models) -> None:
    check(architectures("llama-gqa", torch.float32), CASES[1], torch.float32, count=2)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "fp64"])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("kind", [*KINDS, "mistral-local"])
def test_both_engines_equal_one_run_a_cell_in_every_case(
    architectures: Models, kind: str, case: Case, dtype: torch.dtype
) -> None:
    check(architectures(kind, dtype), case, dtype, count=40)


@pytest.mark.parametrize("kind", ["neox", "qwen2"])
def test_in_bf16_cells_are_those_of_exact_arithmetic_but_for_rounding(
    architectures: Models, kind: str
) -> None:
    exact = copy.deepcopy(architectures(kind, torch.float32))
    with torch.no_grad():
        for weight in exact.parameters():
            weight.copy_(weight.bfloat16())
    rough = copy.deepcopy(exact).to(torch.bfloat16, print_details=False)
    kinds = tuple(name for name in TRACED if name != "neurons")
    wanted, found = (traced(model, CASES[2], kinds=kinds) for model in (exact, rough))
    effects, rounded = (
        np.concatenate([trace.indirect_effect(name).values.ravel() for name in kinds])
        for trace in (wanted, found)
    )
    assert np.abs(effects).max() > 0.1
    assert np.corrcoef(rounded, effects)[0, 1] > 0.98
    np.testing.assert_allclose(rounded, effects, rtol=0, atol=4 * 2**-8 * abs(wanted.clean))
