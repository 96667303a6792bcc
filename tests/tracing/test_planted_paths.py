"""Path patching where the path is known: which part tells which other part what, and nothing beside it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mechstyle.facts import Fact
from mechstyle.tracing import Trace
from mechstyle.tracing.path_ends import Receiver
from mechstyle.tracing.path_patching import path_patching
from tests.planted import HEAD, OTHER_HEAD, Planted, attention_fact, key_hop, mlp_fact, query_hop

FORMS: dict[str, dict[str, Any]] = {
    "bare": {},
    "grouped": {"grouped": True},
    "layer norm": {"norm": "LN"},
}
STRANGER = "Miles Einstein"


def patched(planted: Planted, *receivers: Receiver, **settings: Any) -> Trace:
    """The planted fact against the same prompt about a stranger."""
    fact = planted.fact
    corrupted = Fact(fact.template, STRANGER, fact.target)
    return path_patching(planted.model, fact, corrupted, receivers=receivers, **settings)


def share(trace: Trace, kind: str) -> NDArray[np.float64]:
    """The effect of every sender as a share of the total."""
    found: NDArray[np.float64] = trace.indirect_effect(kind).values[0] / float(trace.total_effect())
    return found


def only(trace: Trace, heads: Iterable[tuple[int, int]], mlps: Iterable[int], *, tolerance: float) -> None:
    """These senders carry everything, all others nothing; noising takes away what denoising gives."""
    sign = -1 if trace.settings["direction"] == "noising" else 1
    for kind, cells in (("heads", heads), ("mlp", mlps)):
        found = share(trace, kind)
        expected = np.zeros_like(found)
        for cell in cells:
            expected[cell] = sign
        np.testing.assert_allclose(found, expected, atol=tolerance, err_msg=kind)


def loose(form: str) -> float:
    return 0.02 if "norm" in form else 1e-4


def kv(head: int, form: str) -> int:
    return head // 2 if form == "grouped" else head


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("engine", ["resume", "whole"])
@pytest.mark.parametrize("form", FORMS)
def test_the_first_head_tells_the_second_ones_query_and_no_key_or_value(
    form: str, engine: Any, direction: Any
) -> None:
    planted = query_hop(**FORMS[form])
    write, read = planted.write, planted.read
    settings: dict[str, Any] = {"engine": engine, "direction": direction}
    truth = {
        Receiver(read, "q", head=HEAD): [(write, OTHER_HEAD)],
        Receiver(read, "k", head=kv(HEAD, form)): [],
        Receiver(read, "v", head=kv(HEAD, form)): [],
        Receiver(read, "q", head=OTHER_HEAD): [],
        Receiver(None, "logits"): [(read, HEAD)],
    }
    for receiver, heads in truth.items():
        only(patched(planted, receiver, **settings), heads, [], tolerance=loose(form))


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("form", FORMS)
def test_the_first_head_tells_the_second_ones_key_and_no_query_or_value(form: str, direction: Any) -> None:
    planted = key_hop(**FORMS[form])
    write, read = planted.write, planted.read
    for kind, heads in (("k", [(write, OTHER_HEAD)]), ("v", []), ("q", [])):
        head = HEAD if kind == "q" else kv(HEAD, form)
        receiver = Receiver(read, kind, head=head)
        only(patched(planted, receiver, direction=direction), heads, [], tolerance=loose(form))


@pytest.mark.parametrize("form", FORMS)
def test_the_first_head_tells_the_second_ones_value_and_no_query_or_key(form: str) -> None:
    planted = attention_fact(**FORMS[form])
    write, read = planted.write, planted.read
    for kind, heads in (("v", [(write, HEAD)]), ("k", []), ("q", [])):
        head = HEAD if kind == "q" else kv(HEAD, form)
        only(patched(planted, Receiver(read, kind, head=head)), heads, [], tolerance=loose(form))


@pytest.mark.parametrize("through_mlps", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_an_mlp_tells_the_value_of_the_head_that_reads_it(form: str, through_mlps: bool) -> None:
    planted = mlp_fact(**FORMS[form])
    write, read = planted.write, planted.read
    told = patched(planted, Receiver(read, "v", head=kv(HEAD, form)), through_mlps=through_mlps)
    only(told, [], [write], tolerance=loose(form))
    direct = patched(planted, Receiver(None, "logits"), through_mlps=through_mlps)
    only(direct, [(read, HEAD)], [], tolerance=loose(form))


def test_a_path_to_the_residual_stream_ends_where_the_next_head_would_read() -> None:
    planted = attention_fact()
    write, read = planted.write, planted.read
    for layer in range(6):
        # Up to the reading head, the stream at the name is what counts; above it, only what that head wrote.
        heads = [(write, HEAD)] if write <= layer < read else [(read, HEAD)] if layer >= read else []
        only(patched(planted, Receiver(layer, "resid")), heads, [], tolerance=1e-4)


def test_a_path_may_lead_through_an_mlp_or_past_all() -> None:
    """Head 1 of layer 1 moves both names, the MLP of layer 2 answers: seen through MLPs, unseen past them."""
    from tests.planted import both_tokens

    planted = both_tokens()
    fact = planted.fact
    corrupted = Fact(fact.template, "Chet Davis", fact.target)
    receiver = [Receiver(None, "logits")]
    through = path_patching(planted.model, fact, corrupted, receivers=receiver)
    only(through, [(planted.write, OTHER_HEAD)], [planted.read], tolerance=1e-4)
    past = path_patching(planted.model, fact, corrupted, receivers=receiver, through_mlps=False)
    only(past, [], [planted.read], tolerance=1e-4)
    to_mlp = path_patching(
        planted.model, fact, corrupted, receivers=[Receiver(planted.read, "mlp")], through_mlps=False
    )
    only(to_mlp, [(planted.write, OTHER_HEAD)], [], tolerance=1e-4)


def test_senders_are_patched_at_the_named_tokens_only() -> None:
    planted = query_hop()
    sets: dict[str, Any] = {"name": [5], "last": "last prompt token", "all after": [5, 6, 7]}
    trace = patched(planted, Receiver(planted.read, "q", head=HEAD), tokens=sets, senders=("heads",))
    found = trace.indirect_effect("heads").values / float(trace.total_effect())
    expected = np.zeros_like(found)
    expected[1:, planted.write, OTHER_HEAD] = 1
    np.testing.assert_allclose(found, expected, atol=1e-4)
