"""Both engines of path patching give the logits of the textbook, on every architecture."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from mechstyle.tracing.path_ends import Receiver, Sender, places_of, senders_of
from mechstyle.tracing.path_resumed import ResumedPaths
from mechstyle.tracing.path_states import Pair
from mechstyle.tracing.path_whole import WholePaths
from tests.checkpoints import KINDS
from tests.oracles import path_loop

Models = Callable[..., HookedTransformer]
WIDTH, FIRST = 7, 2
RECEIVERS: dict[str, tuple[Receiver, ...]] = {
    "queries": (Receiver(1, "q", 3), Receiver(2, "q", 0), Receiver(2, "q", 2)),
    "keys and values": (Receiver(1, "k", 1), Receiver(1, "v", 0), Receiver(2, "v", 1)),
    "mlps": (Receiver(0, "mlp"), Receiver(2, "mlp")),
    "residual": (Receiver(1, "resid"),),
    "logits": (Receiver(None, "logits"),),
    "logits, which hide the others": (Receiver(1, "q", 1), Receiver(2, "mlp"), Receiver(None, "logits")),
    "a residual in between": (
        Receiver(0, "mlp"), Receiver(0, "resid"), Receiver(1, "mlp"), Receiver(2, "q", 1),
        Receiver(1, "k", 0), Receiver(2, "v", 1), Receiver(1, "q", 2),
    ),
    "all but residuals": (
        Receiver(0, "q", 0), Receiver(1, "mlp"), Receiver(2, "q", 1), Receiver(1, "k", 0), Receiver(2, "mlp"),
    ),
}  # fmt: skip


def prompts(model: HookedTransformer) -> tuple[Tensor, Tensor]:
    """Two prompts that differ at two tokens, the first of which is token 2."""
    generator = torch.Generator().manual_seed(1)
    base = torch.randint(1, int(model.cfg.d_vocab), (1, WIDTH), generator=generator)
    source = base.clone()
    source[0, [FIRST, FIRST + 2]] = (source[0, [FIRST, FIRST + 2]] + 7) % int(model.cfg.d_vocab)
    return base, source


def patched(
    engine: type[Any],
    model: HookedTransformer,
    receivers: Sequence[Receiver],
    *,
    positions: Sequence[int],
    run_mlps: bool,
    n_answer: int = 2,
    max_rows: int = 100,
) -> dict[Sender, Tensor]:
    base, source = prompts(model)
    places = places_of(model.cfg, receivers)
    runs = engine.of(model, Pair(base, source, places, n_answer, run_mlps))
    senders = senders_of(model.cfg, ("heads", "mlp"))
    found = dict.fromkeys(senders, runs.base_logits[0])
    for some, logits in runs.patched(senders, positions, max_rows=max_rows):
        assert len(logits) == len(some) <= max_rows
        found.update(zip(some, logits, strict=True))
    return found


def check(
    model: HookedTransformer,
    several: Iterable[Sequence[Receiver]],
    *,
    positions: Sequence[int] = range(FIRST, WIDTH),
    run_mlps: bool = True,
    n_answer: int = 2,
    tolerance: float = 1e-9,
) -> None:
    """Both engines against the textbook, for two heads and the MLP of each layer."""
    several = list(several)
    options: dict[str, Any] = {"positions": positions, "run_mlps": run_mlps}
    # Heads of both groups, where there are groups.
    senders = [one for one in senders_of(model.cfg, ("heads", "mlp")) if one.head in (None, 1, 2)]
    logits = path_loop.path_patching(
        model,
        *prompts(model),
        [(one.kind, one.layer, one.head) for one in senders],
        [[(one.kind, one.layer or 0, one.head) for one in some] for some in several],
        **options,
    )
    for receivers, wanted in zip(several, logits, strict=True):
        for engine in (ResumedPaths, WholePaths):
            found = patched(engine, model, receivers, n_answer=n_answer, **options)
            together = torch.stack([found[sender] for sender in senders])
            expected = torch.stack([one[-n_answer:] for one in wanted])
            assert (expected - expected[-1]).abs().max() > 1e-4, "nothing was changed"
            torch.testing.assert_close(together, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("run_mlps", [True, False], ids=["MLPs run", "MLPs held"])
@pytest.mark.parametrize("kind", [*KINDS, "mistral-local"])
def test_both_engines_equal_two_passes_a_sender(architectures: Models, kind: str, run_mlps: bool) -> None:
    every = kind in (("gpt2", "llama-gqa") if run_mlps else ("gptj",))
    names = RECEIVERS if every else ("a residual in between", "all but residuals")
    check(architectures(kind), [RECEIVERS[name] for name in names], run_mlps=run_mlps)


@pytest.mark.parametrize("positions", [[3], [0, 4, WIDTH - 1]], ids=str)
def test_any_set_of_positions_is_patched(architectures: Models, positions: list[int]) -> None:
    names = ("a residual in between", "all but residuals", "queries", "mlps")
    check(architectures("llama-gqa"), [RECEIVERS[name] for name in names], positions=positions)


@pytest.mark.parametrize("kind", ["gpt2", "neox", "llama-gqa"])
def test_single_precision_gives_the_same(architectures: Models, kind: str) -> None:
    check(architectures(kind, torch.float32), [RECEIVERS["all but residuals"]], tolerance=1e-4)


@pytest.mark.parametrize("engine", [ResumedPaths, WholePaths])
def test_in_bf16_effects_are_those_of_exact_arithmetic_but_for_rounding(
    architectures: Models, engine: type[Any]
) -> None:
    exact = copy.deepcopy(architectures("gptj"))
    with torch.no_grad():
        for weight in exact.parameters():
            weight.copy_(weight.bfloat16())
    rough = copy.deepcopy(exact).to(torch.bfloat16, print_details=False)
    wanted, found = (
        torch.stack(
            list(
                patched(
                    engine, model, RECEIVERS["logits"], positions=range(FIRST, WIDTH), run_mlps=True
                ).values()
            )
        )
        for model in (exact, rough)
    )
    assert found.dtype == torch.bfloat16
    rounding = torch.finfo(torch.bfloat16).eps * wanted.abs().max()
    assert (found.double() - wanted).abs().max() < 4 * rounding
    assert (wanted - wanted.mean(0)).abs().max() > 8 * rounding
