"""Runs of single positions give what whole runs give there, on every architecture."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from mechstyle.errors import InputError, MechstyleError, RangeError
from mechstyle.runs import Hook, Recording, logits, record, record_again
from mechstyle.runs.columns import run_columns
from mechstyle.sites import Site
from tests.checkpoints import KINDS

POSITIONS = [0, 2, 5]
Models = Callable[..., HookedTransformer]
Seen = dict[int, Tensor]


def inputs(model: HookedTransformer, rows: int = 2) -> Tensor:
    return torch.randint(model.cfg.d_vocab, (rows, 7), generator=torch.Generator().manual_seed(0))


def reading(seen: Seen, model: HookedTransformer) -> list[Hook]:
    """Hooks that keep what every MLP gives."""

    def reader(layer: int) -> Callable[..., None]:
        def read(state: Tensor, hook: Any) -> None:
            seen[layer] = state.clone()

        return read

    return [(Site(layer, "mlp").hook, reader(layer)) for layer in range(model.cfg.n_layers)]


def changed(base: Recording, layer: int, rows: int = 1) -> Tensor:
    """What enters a layer at the positions, other than in the recorded run."""
    entering = base.entering(layer, 0)[:, POSITIONS].repeat(rows, 1, 1)
    return entering + torch.randn(entering.shape, generator=torch.Generator().manual_seed(layer)).to(entering)


def whole(model: HookedTransformer, ids: Tensor, layer: int, state: Tensor, position: int) -> Seen:
    """The same by a whole run with a hook; what each MLP gives at the position."""
    seen: Seen = {}

    def put(old: Tensor, hook: Any) -> Tensor:
        old = old.clone()
        old[:, position] = state
        return old

    logits(model, ids, hooks=[(f"blocks.{layer}.hook_resid_pre", put), *reading(seen, model)])
    return {at: found[:, position] for at, found in seen.items()}


@pytest.mark.parametrize("kind", [*KINDS, "mistral-local"])
def test_single_positions_are_as_in_whole_runs(architectures: Models, kind: str) -> None:
    model = architectures(kind)
    ids, seen = inputs(model), {}
    base = record(model, ids)
    states = {layer: changed(base, layer, rows=2) for layer in (0, 1)}
    run_columns(model, states, base=base, positions=POSITIONS, depth=9, hooks=reading(seen, model))
    for number, (layer, state) in enumerate(states.items()):
        for column, position in enumerate(POSITIONS):
            wanted = whole(model, ids.repeat(2, 1), layer, state[:, column], position)
            for at in range(layer, model.cfg.n_layers):
                found = seen[at][:, 0].unflatten(0, (-1, 4, len(POSITIONS)))[number, :, column]
                torch.testing.assert_close(found, wanted[at], rtol=0, atol=1e-10)


def test_rows_leave_after_as_many_layers_as_they_are_to_go_through(architectures: Models) -> None:
    model = architectures("gpt2")
    base, seen = record(model, inputs(model)), dict[int, Tensor]()
    states = {0: changed(base, 0), 2: changed(base, 2)}
    run_columns(model, states, base=base, positions=POSITIONS, depth=1, hooks=reading(seen, model))
    assert {layer: len(state) for layer, state in seen.items()} == {0: 6, 2: 6}
    run_columns(model, states, base=base, positions=POSITIONS, depth=3, hooks=reading(seen, model))
    assert {layer: len(state) for layer, state in seen.items()} == {0: 6, 1: 6, 2: 12}


def test_bad_input_is_named(architectures: Models) -> None:
    model = architectures("gpt2")
    ids = inputs(model)
    base = record(model, ids)
    good: dict[str, Any] = {
        "entering": {1: changed(base, 1)}, "base": base, "positions": POSITIONS, "depth": 1, "hooks": [],
    }  # fmt: skip
    mask = torch.ones_like(ids)
    mask[0, 0] = 0
    late = record_again(model, base, ids, start=2)
    cases: list[tuple[dict[str, Any], type[MechstyleError], str]] = [
        ({"depth": 0}, RangeError, "depth: expected at least 1 layer, got 0"),
        ({"positions": []}, RangeError, "positions: expected some of 0 to 6, got []"),
        ({"positions": [7]}, RangeError, "positions: expected some of 0 to 6, got [7]"),
        ({"base": record(model, ids, attention_mask=mask)}, InputError, "base: expected a recording from"),
        ({"base": late}, InputError, "base: expected a recording from position 0 on, without padding"),
        ({"entering": {}}, InputError, "entering: expected, by layer, [a multiple of 2 rows, 3 positions"),
        ({"positions": [1]}, InputError, "entering: expected, by layer, [a multiple of 2 rows, 1 positions"),
    ]
    for options, error, message in cases:
        with pytest.raises(error, match=re.escape(message)):
            run_columns(model, **{**good, **options})
