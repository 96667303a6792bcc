"""Folders of traces: what was made in another way is refused or made again; two runs may share one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

from mechstyle.errors import InputError
from mechstyle.facts import Fact
from mechstyle.tracing import Trace, causal_trace
from mechstyle.tracing.manifest import settings_of
from mechstyle.tracing.patching import activation_patching
from mechstyle.tracing.trace_facts import trace_facts
from mechstyle.tracing.trace_set import TraceSet

FACTS = [
    Fact("{} plays the", name, " trumpet") for name in ("Miles Davis", "Chet Baker", "Roy Hargrove", "Jo")
]
quickly = partial(causal_trace, kinds=("resid",), samples=1)
traced = partial(trace_facts, skip_unknown=False)


def at(token: int, sign: float = 1.0) -> Callable[[Tensor], Tensor]:
    """A metric that is a closure."""
    return lambda logits: sign * logits[:, 0, token]


def logit(logits: Tensor, token: int = 5) -> Tensor:
    return logits[:, 0, token]


class Logit:
    """A metric that is an object."""

    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, logits: Tensor) -> Tensor:
        return logits[:, 0, self.token]

    def score(self, logits: Tensor) -> Tensor:
        return logits[:, 0, self.token]


def test_another_function_of_the_same_name_is_refused(tiny_model: HookedTransformer, tmp_path: Path) -> None:
    first = partial(quickly, metric=lambda logits: logits[:, 0, 5])
    traced(tiny_model, FACTS[:1], tracer=first, folder=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = partial(quickly, metric=lambda logits: logits[:, 0, 7] - logits[:, 0, 9])
    with pytest.raises(InputError, match=r"has traces with metric '.*<lambda> \(code .*', but '.*<lambda> "):
        traced(tiny_model, FACTS[:2], tracer=other, folder=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "made",
    [
        at,
        lambda token: lambda logits: logits[:, 0, token],
        lambda token: lambda logits, chosen=token: logits[:, 0, chosen],
        lambda token: partial(logit, token=token),
        Logit,
        lambda token: Logit(token).score,
        lambda token: eval(f"lambda logits: logits[:, 0, {token}]"),
        lambda token: eval(f"lambda logits: (lambda: logits[:, 0, {token}])()"),
    ],
)
def test_functions_are_described_by_what_they_do(tiny_model: HookedTransformer, made: Any) -> None:
    def metric(token: int) -> object:
        return settings_of(tiny_model, partial(quickly, metric=made(token)))["metric"]

    assert metric(5) == metric(5)  # another object each time
    assert metric(5) != metric(6)
    assert " at 0x" not in str(metric(5))


def test_functions_of_a_module_are_their_names_and_a_tracer_is_told_from_another(
    tiny_model: HookedTransformer,
) -> None:
    assert settings_of(tiny_model, partial(quickly, metric=logit))["metric"] == f"{__name__}.logit"

    def tracers(samples: int) -> Callable[..., Trace]:
        return lambda model, fact: causal_trace(model, fact, samples=samples)

    one, same, other = (settings_of(tiny_model, tracers(number))["tracer"] for number in (1, 1, 2))
    assert one == same != other


def test_a_function_that_holds_itself_is_described(tiny_model: HookedTransformer) -> None:
    def metric(logits: Tensor) -> Tensor:
        return logits[:, 0, 5] if len(logits) else metric(logits)

    found = settings_of(tiny_model, partial(quickly, metric=metric))["metric"]
    assert found.startswith(
        f"{__name__}.test_a_function_that_holds_itself_is_described.<locals>.metric (code "
    )


def zeroed(state: Tensor, hook: object) -> Tensor:
    return state * 0


def halved(state: Tensor, hook: object) -> Tensor:
    return state / 2


def test_a_model_with_other_hooks_is_refused_and_traces_name_their_places(
    tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    place = "blocks.1.hook_mlp_out"
    plain = traced(tiny_model, FACTS[:1], tracer=quickly, folder=tmp_path / "plain")
    assert plain[0].settings["hooks"] == []
    with tiny_model.hooks([(place, zeroed)]):
        with pytest.raises(InputError, match=f"has traces with hooks {{}}, but .*{place}"):
            traced(tiny_model, FACTS[:1], tracer=quickly, folder=tmp_path / "plain")
        hooked = traced(tiny_model, FACTS[:1], tracer=quickly, folder=tmp_path / "hooked")
        pair = activation_patching(tiny_model, FACTS[0], "Paris Davis plays the", kinds=("mlp",))
    assert hooked[0].settings["hooks"] == pair.settings["hooks"] == [place]
    assert hooked[0].clean != plain[0].clean
    with tiny_model.hooks([(place, zeroed)]):
        assert traced(tiny_model, FACTS[:1], tracer=quickly, folder=tmp_path / "hooked")[0] == hooked[0]
    with (
        tiny_model.hooks([(place, halved)]),
        pytest.raises(InputError, match="has traces with hooks"),
    ):
        traced(tiny_model, FACTS[:1], tracer=quickly, folder=tmp_path / "hooked")


def test_hooks_that_a_bridge_puts_on_itself_are_no_settings(tiny_folder: Path, tmp_path: Path) -> None:
    bridge = TransformerBridge.boot_transformers(str(tiny_folder), device="cpu")
    tracer = partial(quickly, kinds=("mlp",))
    first = traced(bridge, FACTS[:1], tracer=tracer, folder=tmp_path)
    assert first[0].settings["hooks"] == []
    assert len(traced(bridge, FACTS[:2], tracer=tracer, folder=tmp_path)) == 2


def test_traces_of_other_settings_are_not_taken_over_without_a_manifest(
    tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    traced(tiny_model, FACTS[:2], tracer=partial(quickly, samples=2), folder=tmp_path)
    (tmp_path / "manifest.json").unlink()
    tracer = partial(quickly, samples=3, noise=1.0)
    found = traced(tiny_model, FACTS[:3], tracer=tracer, folder=tmp_path)
    assert list(found) == list(traced(tiny_model, FACTS[:3], tracer=tracer))
    assert {trace.settings["samples"] for trace in TraceSet.load(tmp_path)} == {3}


def test_traces_of_the_same_settings_are_taken_over_without_a_manifest(
    tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    first = traced(tiny_model, FACTS[:2], tracer=quickly, folder=tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.nc")}
    (tmp_path / "manifest.json").unlink()
    again = traced(tiny_model, FACTS[:2], tracer=quickly, folder=tmp_path)
    assert list(again) == list(first)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.nc")} == times


BETWEEN: list[Callable[[], object]] = []


def interleaved(model: HookedTransformer, fact: Fact, seed: int = 0) -> Trace:
    """Lets another run have its turn while this one is under way."""
    if BETWEEN:
        BETWEEN.pop()()
    return causal_trace(model, fact, kinds=("resid",), samples=1, seed=seed)


@pytest.mark.parametrize("turn", [0, 1], ids=["in its first trace", "in its second trace"])
def test_two_runs_share_a_folder_and_all_their_facts_are_in_the_set(
    tiny_model: HookedTransformer, tmp_path: Path, turn: int
) -> None:
    share = partial(traced, tiny_model, tracer=interleaved, folder=tmp_path)
    BETWEEN[:] = [lambda: share(FACTS[2:]), *[lambda: None] * turn]
    own = share(FACTS[:2])
    assert not BETWEEN
    assert own.facts == tuple(FACTS[:2])
    together = TraceSet.load(tmp_path)
    assert set(together.facts) == set(FACTS)
    assert list(traced(tiny_model, together.facts, tracer=interleaved)) == list(together)


def test_a_run_whose_lines_another_one_overwrote_has_them_in_the_end(
    tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    share = partial(traced, tiny_model, tracer=interleaved, folder=tmp_path)

    def overwritten() -> None:
        """As when both read before either wrote: this one's manifest knows nothing of the other."""
        (tmp_path / "manifest.json").unlink()
        share(FACTS[2:])

    BETWEEN[:] = [overwritten, lambda: None]
    share(FACTS[:2])
    assert set(TraceSet.load(tmp_path).facts) == set(FACTS)


def test_a_folder_that_another_run_began_with_other_settings_is_refused(
    tiny_model: HookedTransformer, tmp_path: Path
) -> None:
    BETWEEN[:] = [lambda: traced(tiny_model, FACTS[2:], tracer=quickly, folder=tmp_path)]
    with pytest.raises(InputError, match="has traces with tracer"):
        traced(tiny_model, FACTS[:2], tracer=interleaved, folder=tmp_path)
    assert TraceSet.load(tmp_path).facts == tuple(FACTS[2:])
