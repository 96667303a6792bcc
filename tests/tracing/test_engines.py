"""Both engines of a trace give the numbers of the textbook, on every architecture."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

from mechstyle.blocks import can_resume
from mechstyle.editing.application import apply_edits
from mechstyle.editing.weight_edit import WeightEdit
from mechstyle.errors import InputError
from mechstyle.facts import Fact
from mechstyle.runs import default_memory, rows_within
from mechstyle.tokens import encode_fact
from mechstyle.tracing import Trace, average_by_role, causal_trace
from tests.checkpoints import KINDS
from tests.oracles import textbook, trace_loop

TRACED = ("resid", "mlp", "attn")
PLACES = {"first": "{} plays the", "middle": "The instrument of {} is the", "last": "He was born in {}"}
ANSWERS = {1: " trumpet", 2: " trumpet too", 3: " trumpet too,"}
WINDOWS = (1, 2, 10)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Of the largest log-probability: in nats it is some 20 times more."""


class Case(NamedTuple):
    """What a trace is of."""

    bos: bool
    place: str
    n_answer: int
    window: int

    @property
    def fact(self) -> Fact:
        """Its fact."""
        return Fact(PLACES[self.place], "Miles Davis", ANSWERS[self.n_answer])


EVERY = [Case(*values) for values in product((True, False), PLACES, ANSWERS, WINDOWS)]
SOME = [
    Case(row == column, place, n_answer, WINDOWS[(row + column) % 3])
    for (row, place), (column, n_answer) in product(enumerate(PLACES), enumerate(ANSWERS))
]
"""Every place, length, window and BOS meets every other at least once."""
MIDDLE = Case(False, "middle", 2, 2)
Models = Callable[..., HookedTransformer]


def draws_for(case: Case, model: HookedTransformer, samples: int = 2) -> Tensor:
    subject = encode_fact(model, case.fact, prepend_bos=case.bos).subject
    assert subject is not None
    generator = torch.Generator().manual_seed(3)
    return torch.randn(samples, len(subject), model.cfg.d_model, generator=generator)


def traced(model: Any, case: Case, *, draws: Tensor, **options: Any) -> Trace:
    return causal_trace(
        model, case.fact, noise=draws, window=case.window, prepend_bos=case.bos,
        **{"metric": "logprob", **options},
    )  # fmt: skip


def cells(trace: Trace) -> NDArray[np.float64]:
    """Clean, corrupted and all restored scores, one after the other."""
    return np.concatenate(
        [[trace.clean], trace.corrupted.values, *(trace.data[kind].values.ravel() for kind in trace.kinds)]
    )


def textbook_cells(model: HookedTransformer, case: Case, draws: Tensor) -> NDArray[np.float64]:
    """The same by the textbook form."""
    encoded = encode_fact(model, case.fact, prepend_bos=case.bos)
    assert encoded.subject is not None
    assert len(encoded.target_ids) == case.n_answer
    found: list[Tensor] = []
    for kind in TRACED:
        clean, corrupted, restored = textbook.trace(
            model,
            encoded.ids.tolist(),
            n_prompt=encoded.n_prompt,
            subject=encoded.subject,
            draws=draws,
            kind=kind,
            width=1 if kind == "resid" else case.window,
            tokens_at_once=encoded.n_prompt,
        )
        found = found or [clean[None], corrupted]
        found.append(restored.flatten())
    return torch.cat(found).double().numpy()


def loop_cells(model: HookedTransformer, case: Case, draws: Tensor, metric: str) -> NDArray[np.float64]:
    """The same by one run a cell."""
    encoded = encode_fact(model, case.fact, prepend_bos=case.bos)
    assert encoded.subject is not None
    parts: list[Any] = []
    for kind in TRACED:
        clean, corrupted, restored = trace_loop.trace(
            model,
            encoded.ids.tolist(),
            n_prompt=encoded.n_prompt,
            subject=encoded.subject,
            draws=draws,
            kind=kind,
            width=case.window,
            metric=metric,
        )
        parts = parts or [[clean], corrupted]
        parts.append(np.ravel(restored))
    return np.concatenate(parts)


def same(found: Trace, wanted: NDArray[np.float64], tolerance: float) -> None:
    np.testing.assert_allclose(cells(found), wanted, rtol=0, atol=tolerance * float(np.abs(wanted).max()))


def check(model: HookedTransformer, case: Case, dtype: torch.dtype) -> None:
    draws = draws_for(case, model)
    wanted = textbook_cells(model, case, draws)
    assert np.ptp(wanted) > 0.1
    for engine in ("resume", "whole"):
        same(traced(model, case, draws=draws, engine=engine), wanted, TOLERANCE[dtype])


@pytest.mark.parametrize("case", SOME, ids=str)
@pytest.mark.parametrize("kind", [*KINDS, "mistral-local"])
def test_both_engines_equal_the_textbook(architectures: Models, kind: str, case: Case) -> None:
    check(architectures(kind), case, torch.float64)


@pytest.mark.parametrize("case", SOME[::4], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_both_engines_equal_the_textbook_in_single_precision(
    architectures: Models, kind: str, case: Case
) -> None:
    check(architectures(kind, torch.float32), case, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "fp64"])
@pytest.mark.parametrize("kind", KINDS)
def test_both_engines_equal_the_textbook_in_every_case(
    architectures: Models, kind: str, dtype: torch.dtype
) -> None:
    for case in EVERY:
        check(architectures(kind, dtype), case, dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_equal_those_of_one_run_a_cell(architectures: Models, kind: str) -> None:
    draws = draws_for(MIDDLE, architectures(kind), samples=1)
    wanted = loop_cells(architectures(kind), MIDDLE, draws, "prob")
    same(traced(architectures(kind), MIDDLE, draws=draws, metric="prob", engine="resume"), wanted, 1e-10)


@pytest.mark.parametrize("engine", ["resume", "whole"])
@pytest.mark.parametrize("kind", ["gpt2", "llama-gqa"])
def test_any_batch_size_gives_the_same(architectures: Models, kind: str, engine: str) -> None:
    options = {
        "draws": draws_for(MIDDLE, architectures(kind), samples=4),
        "kinds": ("attn",),
        "engine": engine,
    }
    wanted = cells(traced(architectures(kind), MIDDLE, **options))
    for batch_size in (1, 3, 7, 10**6):
        found = traced(architectures(kind), MIDDLE, batch_size=batch_size, **options)
        same(found, wanted, 1e-12)
        assert found.settings["max_batch"] == batch_size


@pytest.mark.parametrize("kind", KINDS)
def test_in_bf16_the_order_of_the_top_cells_is_that_of_exact_arithmetic(
    architectures: Models, kind: str
) -> None:
    exact = copy.deepcopy(architectures(kind))
    with torch.no_grad():
        for weight in exact.parameters():
            weight.copy_(weight.bfloat16())
    rough = copy.deepcopy(exact).to(torch.bfloat16, print_details=False)
    draws = draws_for(MIDDLE, exact, samples=4).bfloat16().float()
    wanted, found = (traced(model, MIDDLE, draws=draws, engine="resume") for model in (exact, rough))
    effects, rounded = (
        np.concatenate([trace.indirect_effect(kind).values.ravel() for kind in TRACED])
        for trace in (wanted, found)
    )
    rounding = torch.finfo(torch.bfloat16).eps / 2 * abs(wanted.clean)
    top = sorted(np.argsort(-np.abs(effects))[:20], key=lambda cell: -effects[cell])
    apart = [(high, low) for high, low in combinations(top, 2) if effects[high] - effects[low] > rounding]
    assert len(apart) > 20
    assert all(rounded[high] > rounded[low] for high, low in apart)


@pytest.mark.parametrize("kind", ["gpt2", "gptj", "llama-gqa"])
def test_active_edits_are_traced(architectures: Models, kind: str) -> None:
    model = copy.deepcopy(architectures(kind))
    draws = draws_for(MIDDLE, model)
    before = textbook_cells(model, MIDDLE, draws)
    d_mlp = model.cfg.d_mlp
    edit = WeightEdit("blocks.1.mlp.W_out", torch.ones(d_mlp, 1) * 0.2, torch.arange(32.0)[None] / 32)
    handle = apply_edits(model, [edit])
    wanted = textbook_cells(model, MIDDLE, draws)
    assert np.abs(wanted - before).max() > 0.01
    found = traced(model, MIDDLE, draws=draws)
    assert found.settings["engine"] == "resume"
    assert found.settings["active_edits"] == ["blocks.1.mlp.W_out"]
    stronger = apply_edits(model, [edit])
    again = traced(model, MIDDLE, draws=draws)
    assert again.settings["active_edits"] == found.settings["active_edits"]
    with pytest.raises(InputError, match="edited_weights"):
        average_by_role([found, again])
    stronger.undo()
    same(found, wanted, 1e-10)
    handle.undo()
    same(traced(model, MIDDLE, draws=draws), before, 1e-10)


@pytest.mark.parametrize("kind", ["gpt2", "neox", "llama"])
def test_processed_models_are_resumed_too(architectures: Models, kind: str) -> None:
    model = copy.deepcopy(architectures(kind))
    model.process_weights_()
    assert model.cfg.normalization_type in ("LNPre", "RMSPre")
    draws = draws_for(MIDDLE, model)
    found = traced(model, MIDDLE, draws=draws)
    assert found.settings["engine"] == "resume"
    same(found, textbook_cells(model, MIDDLE, draws), 1e-10)


@pytest.mark.parametrize("kind", ["gpt2", "phi", "llama-gqa"])
def test_hooks_that_the_user_left_on_the_model_count(architectures: Models, kind: str) -> None:
    model, draws = copy.deepcopy(architectures(kind)), draws_for(MIDDLE, architectures(kind), samples=1)
    plain = textbook_cells(model, MIDDLE, draws)

    def ablate(state: Tensor, hook: Any) -> Tensor:
        return torch.cat([state[:, :, :1] * 0, state[:, :, 1:]], dim=2)

    model.add_hook("blocks.1.attn.hook_z", ablate)
    wanted = loop_cells(model, MIDDLE, draws, "logprob")
    assert np.abs(wanted - plain).max() > 0.01
    found = traced(model, MIDDLE, draws=draws)
    assert found.settings["engine"] == "whole"
    same(found, wanted, 1e-10)
    same(traced(model, MIDDLE, draws=draws, engine="resume"), wanted, 1e-10)


def test_a_hook_that_needs_whole_sequences_gets_them(architectures: Models) -> None:
    model, widths = copy.deepcopy(architectures("gpt2")), set()
    model.add_hook("blocks.2.hook_mlp_out", lambda state, hook: widths.add(state.shape[1]))
    traced(model, MIDDLE, draws=draws_for(MIDDLE, model))
    assert widths == {len(encode_fact(model, MIDDLE.fact, prepend_bos=False)) - 1}


def test_the_trace_says_how_it_was_run(architectures: Models) -> None:
    model, draws = architectures("gpt2"), draws_for(MIDDLE, architectures("gpt2"))
    width = len(encode_fact(model, MIDDLE.fact, prepend_bos=False)) - 1
    fitting = rows_within(model, default_memory(model), width=width, n_positions=width, n_last=2)
    for engine, used in (("auto", "resume"), ("resume", "resume"), ("whole", "whole")):
        trace = traced(model, MIDDLE, draws=draws, engine=engine)
        assert (trace.settings["engine"], trace.settings["max_batch"]) == (used, fitting)


def test_models_that_cannot_resume_are_run_whole_and_never_resumed(
    architectures: Models, tiny_folder: Path
) -> None:
    split, draws = copy.deepcopy(architectures("gpt2")), draws_for(MIDDLE, architectures("gpt2"))
    wanted = textbook_cells(split, MIDDLE, draws)
    split.set_use_split_qkv_input(True)
    bridge = TransformerBridge.boot_transformers(str(tiny_folder), device="cpu")
    for model, tolerance in ((split, 1e-10), (bridge, 1e-5)):
        assert not can_resume(model)
        found = traced(model, MIDDLE, draws=draws)
        assert found.settings["engine"] == "whole"
        same(found, wanted, tolerance)
        name = type(model).__name__
        with pytest.raises(InputError, match=f"engine: runs of this {name} cannot be resumed; use 'auto' or"):
            traced(model, MIDDLE, draws=draws, engine="resume")


def test_an_unknown_engine_is_refused(architectures: Models) -> None:
    with pytest.raises(InputError, match="engine: expected 'auto', 'resume' or 'whole', got 'fast'"):
        causal_trace(architectures("gpt2"), MIDDLE.fact, engine="fast")  # type: ignore[arg-type]
