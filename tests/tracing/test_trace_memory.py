"""What a trace holds: the recorded runs, and besides them what the rows of one batch need."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

from benchmarks.memory import LiveTensors
from mechstyle.metrics import token_logprobs
from mechstyle.runs import Recording, rows_within
from mechstyle.tracing.corrupted import Corrupted
from mechstyle.tracing.engines import Engine, clean_run
from mechstyle.tracing.plan import plan_cells
from mechstyle.tracing.resumed import RecordedCleanRun, ResumedRuns
from mechstyle.tracing.sides import Side

SUBJECT = range(1, 3)
SAMPLES = 4
WINDOW = 4


@dataclass(frozen=True)
class Held:
    """Bytes: what the recorded runs hold, the most that was held besides, and what was left besides them."""

    cached: int
    besides: int
    left: int
    n_cells: int


def test_live_bytes_are_counted_as_they_come_and_go() -> None:
    before = torch.ones(1000)
    with LiveTensors() as live:
        first = torch.zeros(1000)
        view = first[10:]
        assert live.now == 4000
        second = first + before[:1]
        assert live.now == 8000
        del first
        assert live.now == 8000
        del view
        assert live.now == 4000
        second.add_(before)
        assert (live.now, live.peak) == (4000, 8000)


def build(n_layers: int, n_tokens: int, **fields: Any) -> HookedTransformer:
    settings = {
        "n_layers": n_layers, "d_model": 32, "n_heads": 4, "d_head": 8, "d_mlp": 128, "d_vocab": 50,
        "n_ctx": n_tokens + 4, "act_fn": "gelu", "seed": 0, "default_prepend_bos": False,
    }  # fmt: skip
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", "HookedTransformer is deprecated", DeprecationWarning)
        return HookedTransformer(HookedTransformerConfig(**{**settings, **fields})).eval()


def held(
    model: HookedTransformer,
    n_tokens: int,
    *,
    batch_size: int,
    kind: str,
    engine: Engine,
    n_answer: int = 1,
) -> Held:
    ids = torch.arange(n_tokens + n_answer - 1)[None] % 50
    draws = torch.randn(SAMPLES, len(SUBJECT), 32, generator=torch.Generator().manual_seed(0))
    noise = Corrupted(draws, True, SUBJECT, {}).hook()
    layer = 1 if kind == "neurons" else None
    plan = plan_cells(model, (kind,), window=WINDOW, neuron_layer=layer, engine=engine)
    cells = plan.cells([(token,) for token in range(n_tokens)], first=SUBJECT.start)

    def score(logits: Tensor) -> Any:
        return token_logprobs(logits, ids[:, -n_answer:]).sum(-1).double().numpy()

    with LiveTensors() as live:
        clean = clean_run(engine, model, Side(ids), plan.exchange(first=SUBJECT.start, n_last=n_answer))
        runs = clean.against(Side(ids.expand(SAMPLES, -1), (noise,)), max_rows=batch_size)
        cached = live.now
        if isinstance(clean, RecordedCleanRun) and isinstance(runs, ResumedRuns):
            assert cached == reachable(clean, runs)
        done = sum(len(some) for some, _ in runs.changed(cells, score))
        return Held(cached, live.peak - cached, live.now - cached, done)


def reachable(clean: RecordedCleanRun, runs: ResumedRuns) -> int:
    """Bytes of the recorded runs, each memory once."""
    parts = [*tensors(runs.source), *tensors(runs.base), clean.logits, runs.logits, *runs.after.values()]
    return sum({part.untyped_storage()._cdata: part.untyped_storage().nbytes() for part in parts}.values())


def tensors(recording: Recording) -> Iterator[Tensor]:
    yield from recording.residuals
    yield from (part for pair in recording.past for part in pair)
    yield from recording.states.values()


ENGINES: tuple[Engine, ...] = ("resume", "whole")
TRACED = ("resid", "mlp")
BATCH = 40
SIZES = {"small": (4, 8), "deep": (12, 8), "large": (12, 24)}
"""Layers and tokens."""
ROTARY = {"positional_embedding_type": "rotary", "rotary_dim": 8}
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "gated, grouped queries": {
        **ROTARY, "gated_mlp": True, "normalization_type": "RMS", "n_key_value_heads": 2, "act_fn": "silu",
    },
    "parallel": {**ROTARY, "parallel_attn_mlp": True},
    "many tokens to predict": {"d_vocab": 5000},
    "wide heads": {**ROTARY, "n_heads": 16, "d_head": 16, "d_mlp": 32},
    "many neurons": {"d_mlp": 1024},
    "bf16": {"dtype": torch.bfloat16},
}  # fmt: skip
Measure = Callable[..., Held]


@pytest.fixture(scope="module")
def measure() -> Measure:
    """A function (name of a size, engine, kind, batch_size) -> what was held."""
    models = {name: build(*size) for name, size in SIZES.items()}

    @cache
    def measured(size: str, engine: Engine, kind: str, batch_size: int = BATCH) -> Held:
        return held(models[size], SIZES[size][1], batch_size=batch_size, kind=kind, engine=engine)

    return measured


@pytest.mark.parametrize("kind", TRACED)
@pytest.mark.parametrize("engine", ENGINES)
def test_besides_the_recorded_runs_a_trace_holds_no_more_for_more_layers(
    measure: Measure, engine: Engine, kind: str
) -> None:
    few, many = (measure(size, engine, kind, BATCH // 2) for size in ("small", "deep"))
    assert many.n_cells >= 3 * few.n_cells
    assert many.besides < 1.3 * few.besides


@pytest.mark.parametrize("kind", TRACED)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("size", SIZES)
def test_besides_the_recorded_runs_a_trace_holds_what_the_rows_of_a_batch_need(
    measure: Measure, size: str, engine: Engine, kind: str
) -> None:
    """Bytes of fp32: some copies of residual stream (32), MLP neurons (128) and scores of four heads."""
    n_tokens, found = SIZES[size][1], measure(size, engine, kind)
    row = 4 * n_tokens * (10 * 32 + 2 * 128 + 3 * 4 * n_tokens)
    assert found.besides <= BATCH * row
    assert found.n_cells * SAMPLES > 2 * BATCH


@pytest.mark.parametrize("kind", TRACED)
@pytest.mark.parametrize("engine", ENGINES)
def test_in_one_huge_batch_a_trace_holds_more_for_more_layers_and_tokens(
    measure: Measure, engine: Engine, kind: str
) -> None:
    small, large = (measure(size, engine, kind, 10**6) for size in ("small", "large"))
    assert large.n_cells > 8 * small.n_cells
    assert large.besides > 8 * small.besides
    assert large.besides > 8 * measure("large", engine, kind).besides


@pytest.mark.parametrize("engine", ENGINES)
def test_the_recorded_runs_are_all_that_stays(measure: Measure, engine: Engine) -> None:
    """At each layer and position: residual stream, keys, values, clean outputs, states after them."""
    found = measure("large", engine, "mlp")
    assert found.left == 0
    states = 12 * 24 * 32 * 4
    assert found.cached < (2 * states if engine == "whole" else (SAMPLES + 1) * 5 * states)


@pytest.mark.parametrize("n_tokens", [6, 16])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_rows_that_are_said_to_fit_into_some_memory_do(shape: str, n_tokens: int) -> None:
    model, memory, n_answer = build(2, n_tokens, **SHAPES[shape]), 2**20, 3
    width = n_tokens + n_answer - 1
    rows = rows_within(model, memory, width=width, n_positions=width, n_last=n_answer)
    assert SAMPLES <= rows < 200
    for engine in ENGINES:
        for kind in TRACED:
            found = held(model, n_tokens, batch_size=rows, kind=kind, engine=engine, n_answer=n_answer)
            assert found.besides <= memory


@pytest.mark.parametrize("kind", ["severed_attn", "heads", "v", "pattern", "neurons"])
def test_cells_of_heads_and_neurons_fit_as_well(kind: str) -> None:
    model, memory = build(2, 6, d_mlp=64, n_key_value_heads=2), 2**20
    rows = rows_within(model, memory, width=6, n_positions=6, n_last=1)
    assert 10 * SAMPLES <= rows < 200
    for engine in ENGINES:
        assert held(model, 6, batch_size=rows, kind=kind, engine=engine).besides <= memory
