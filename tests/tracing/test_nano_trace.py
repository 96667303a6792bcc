"""A trained model that nobody here made: put its shipped states back, and get what tracing gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from mechstyle.facts import Fact
from mechstyle.tracing import Trace, causal_trace
from mechstyle.tracing.patching import activation_patching
from mechstyle.tracing.targets import Contrast
from tests.nano import NANO_STATES, nano_model, nano_partials

LETTERS = "ABC"
N_PROMPT = 7
"""Six letters, and the first of the sorted ones, A in all three inputs; the second is A, A and B."""
PAIRS = [(0, 2), (2, 0), (1, 2)]
PUT_BACK = {("resid", 0): "block0", ("resid", 1): "block1", ("resid", 2): "block2"}
PUT_BACK |= {("mlp", 0): "mlp", ("attn", 0): "yProj"}


@pytest.fixture(scope="module")
def nano() -> HookedTransformer:
    return nano_model()


@pytest.fixture(scope="module")
def shipped() -> dict[str, Tensor]:
    return nano_partials()


def text_of(ids: Tensor) -> str:
    return " ".join(LETTERS[int(one)] for one in ids)


def second_letter(shipped: dict[str, Tensor], row: int) -> int:
    return int(shipped["idx"][row, :6].sort().values[1])


def traced(nano: HookedTransformer, shipped: dict[str, Tensor], clean: int, corrupted: int) -> Trace:
    """The letters of one input with noise that makes them those of another one."""
    ids = shipped["idx"].long()
    first = text_of(ids[clean, :6])
    fact = Fact("{} A", first, " " + LETTERS[second_letter(shipped, clean)])
    embedding = nano.W_E.detach()
    draws = (embedding[ids[corrupted, :6]] - embedding[ids[clean, :6]])[None]
    return causal_trace(nano, fact, noise=draws, window=1)


def with_shipped_state(
    nano: HookedTransformer, shipped: dict[str, Tensor], name: str, rows: tuple[int, int], token: int
) -> float:
    """The answer's probability in a run on the corrupted input with the clean input's shipped state."""
    clean, corrupted = rows

    def put(state: Tensor, hook: Any) -> Tensor:
        state[:, token] = shipped[name][clean, token]
        return state

    with torch.no_grad():
        logits = nano.run_with_hooks(
            shipped["idx"].long()[corrupted : corrupted + 1, :N_PROMPT], fwd_hooks=[(NANO_STATES[name], put)]
        )
    return float(logits[0, -1].softmax(-1)[second_letter(shipped, clean)])


@pytest.mark.parametrize(("clean", "corrupted"), PAIRS)
def test_the_clean_and_the_corrupted_run_say_what_the_model_said(
    nano: HookedTransformer, shipped: dict[str, Tensor], clean: int, corrupted: int
) -> None:
    trace, answer = traced(nano, shipped, clean, corrupted), second_letter(shipped, clean)
    assert trace.knows
    probabilities = shipped["probs"][:, N_PROMPT - 1, answer]
    assert trace.clean == pytest.approx(float(probabilities[clean]), abs=1e-5)
    assert trace.corrupted.values == pytest.approx(float(probabilities[corrupted]), abs=1e-5)
    assert float(trace.total_effect()) > 0.9


@pytest.mark.parametrize(("clean", "corrupted"), PAIRS)
def test_a_cell_is_the_run_with_the_shipped_state(
    nano: HookedTransformer, shipped: dict[str, Tensor], clean: int, corrupted: int
) -> None:
    trace = traced(nano, shipped, clean, corrupted)
    for (kind, layer), name in PUT_BACK.items():
        expected = [
            with_shipped_state(nano, shipped, name, (clean, corrupted), token) for token in range(N_PROMPT)
        ]
        np.testing.assert_allclose(trace.data[kind].values[0, :, layer], expected, atol=1e-4, err_msg=name)
    assert trace.data["resid"].values[0, -1, -1] == pytest.approx(trace.clean, abs=1e-5)


OF_HEADS = {"q": "q", "k": "k", "v": "v", "pattern": "attSm", "heads": None}
"""Kind of cell -> the shipped activation of layer 0; what a head takes in is its pattern times its values."""


def of_heads(shipped: dict[str, Tensor], kind: str, row: int) -> Tensor:
    """The shipped state of one input, [pos, head, ...], of the tokens of the prompt."""
    name = OF_HEADS[kind]
    found = shipped["attSm"][row] @ shipped["v"][row] if name is None else shipped[name][row]
    return found.transpose(0, 1)[:N_PROMPT]


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("kind", OF_HEADS)
def test_a_cell_of_one_head_is_the_run_with_its_shipped_state(
    nano: HookedTransformer, shipped: dict[str, Tensor], kind: str, direction: Any
) -> None:
    ids, (clean, corrupted) = shipped["idx"].long(), PAIRS[0]
    right, wrong = second_letter(shipped, clean), second_letter(shipped, corrupted)
    one, other = (text_of(ids[row, :N_PROMPT]) for row in (clean, corrupted))
    answer = Contrast(" " + LETTERS[right], " " + LETTERS[wrong])
    trace = activation_patching(nano, one, other, answer=answer, kinds=(kind,), direction=direction)
    base, source = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
    state = of_heads(shipped, kind, source)
    hook = {"pattern": "pattern", "heads": "z"}.get(kind, kind)
    expected = np.empty((N_PROMPT, 3))
    for token, head in np.ndindex(expected.shape):

        def put(found: Tensor, hook: Any, token: int = token, head: int = head) -> Tensor:
            if kind == "pattern":
                found[:, head, token] = state[token, head, :N_PROMPT]
            else:
                found[:, token, head] = state[token, head]
            return found

        with torch.no_grad():
            logits = nano.run_with_hooks(
                ids[base : base + 1, :N_PROMPT], fwd_hooks=[(f"blocks.0.attn.hook_{hook}", put)]
            )
        expected[token, head] = logits[0, -1, right] - logits[0, -1, wrong]
    np.testing.assert_allclose(trace.data[kind].values[0, :, 0], expected, atol=3e-4)
    assert np.ptp(expected) > 0.002
