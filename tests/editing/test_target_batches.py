"""Many targets searched together, on every architecture: each as if alone, resumed as if whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformers import PreTrainedTokenizerFast

from mechstyle.editing import target_runs
from mechstyle.editing.targets import Target, TargetOptions, optimise_target, optimise_targets
from mechstyle.errors import InputError, RangeError, WorkError
from mechstyle.facts import EditRequest, Fact
from mechstyle.models import load_model
from mechstyle.sites import Site
from mechstyle.tokens import encode, encode_fact
from tests.checkpoints import KINDS, random_hf

REQUESTS = (
    EditRequest(Fact("The instrument of {} is the", "Miles Davis", " trumpet"), " guitar"),
    EditRequest(Fact("{} is the capital of the", "Paris", " France"), " Italy too"),
    EditRequest(Fact("The mother tongue of {}", "Danielle Darrieux", " French"), " London in Italy"),
    EditRequest(Fact("He was born in the city of {}", "Zürich", "."), ", London"),
)
CONTEXTS = ("{}", "The day was long. {}")

FIXED = TargetOptions(steps=4, early_stop=0.0, clamp_norm=30.0, weight_decay=0.1)
"""All steps are taken, and the clamp lets them be."""


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tiny_tokenizer: PreTrainedTokenizerFast) -> HookedTransformer:
    """A random model of each architecture, in fp64."""
    hf = random_hf(request.param, len(tiny_tokenizer))
    return load_model(hf, tokenizer=tiny_tokenizer, dtype=torch.float64, check_parity=False)


def same(found: Target, expected: Target, atol: float = 1e-10) -> None:
    for name in ("delta", "output"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=atol)
    assert found.losses == pytest.approx(expected.losses, rel=0, abs=atol)
    assert found.answer_nll == pytest.approx(expected.answer_nll, rel=0, abs=atol)


def subject_last(model: Any, text: str, subject: str, bos: bool) -> int:
    found = encode(model, text, subject=subject, prepend_bos=bos).subject
    assert found is not None
    return found[-1]


def plain_loss(
    model: Any,
    request: EditRequest,
    delta: Tensor,
    size: Tensor,
    site: Site,
    options: TargetOptions,
    bos: bool,
) -> Tensor:
    """The objective by whole runs of one sequence each, with one plain hook."""

    def logprobs(ids: Tensor, at: int, change: Tensor) -> Tensor:
        def add(state: Tensor, hook: Any) -> Tensor:
            return torch.cat([state[:, :at], state[:, at : at + 1] + change, state[:, at + 1 :]], dim=1)

        mask = torch.ones_like(ids)[None]
        scores = model.run_with_hooks(ids[None], fwd_hooks=[(site.hook, add)], attention_mask=mask)
        return torch.log_softmax(scores[0], dim=-1)

    loss = torch.zeros((), dtype=torch.float64)
    for context in CONTEXTS:
        one = encode_fact(model, request.fact, target=request.new_target, template=context, prepend_bos=bos)
        assert one.subject is not None
        found = logprobs(one.ids, one.subject[-1], delta)
        said = [found[place - 1, one.ids[place]] for place in range(one.n_prompt, len(one))]
        loss = loss - sum(said) / len(said) / len(CONTEXTS)
    if options.kl_factor:
        text = options.kl_prompt.replace("{}", request.fact.subject)
        ids = encode(model, text, prepend_bos=bos).ids
        last = subject_last(model, text, request.fact.subject, bos)
        read = last if options.kl_position == "subject" else -1
        old, new = (logprobs(ids, last, change)[read] for change in (torch.zeros_like(delta), delta))
        loss = loss + options.kl_factor * (new.exp() * (new - old.detach())).sum()
    return loss + options.weight_decay * torch.linalg.vector_norm(delta) / size**2


@contextmanager
def watched(model: HookedTransformer) -> Iterator[None]:
    """A user's hook that changes nothing: searches then take whole runs."""
    model.add_hook("blocks.0.hook_resid_post", lambda state, hook: state)
    try:
        yield
    finally:
        model.reset_hooks()


def test_the_requests_are_ragged(tiny_model: HookedTransformer) -> None:
    encoded = [encode_fact(tiny_model, one.fact, target=one.new_target) for one in REQUESTS]
    subjects = [one.subject or range(0) for one in encoded]
    assert {len(one) - one.n_prompt for one in encoded} == {1, 2, 3}
    assert len({len(subject) for subject in subjects}) >= 3
    assert len({one.n_prompt - subject.stop for one, subject in zip(encoded, subjects, strict=True)}) >= 3


@pytest.mark.parametrize(("kind", "clamp"), [("mlp", 30.0), ("resid", 0.5)])
def test_requests_that_share_batches_are_each_as_if_alone_and_in_order(
    model: HookedTransformer, kind: target_runs.TargetKind, clamp: float
) -> None:
    options = replace(FIXED, clamp_norm=clamp)
    settings: dict[str, Any] = {"layer": 1, "contexts": CONTEXTS, "options": options, "kind": kind}
    alone = [optimise_target(model, one, **settings) for one in REQUESTS]
    reached = [bool(one.delta.norm() >= (1 - 1e-12) * clamp * one.output.norm()) for one in alone]
    assert any(reached) == (clamp < 1)
    for size in (None, 2, 3):
        for found, expected in zip(
            optimise_targets(model, REQUESTS, batch_size=size, **settings), alone, strict=True
        ):
            same(found, expected)
    for found, expected in zip(optimise_targets(model, REQUESTS[::-1], **settings), alone[::-1], strict=True):
        same(found, expected)


def test_each_request_stops_by_itself(model: HookedTransformer) -> None:
    options = TargetOptions(steps=9, early_stop=0.0, clamp_norm=100.0, weight_decay=0.0)
    settings: dict[str, Any] = {"layer": 1, "contexts": CONTEXTS}
    endless = optimise_targets(model, REQUESTS, options=options, **settings)
    lowest = sorted(min(one.losses) for one in endless)
    enough = (lowest[1] + lowest[2]) / 2
    options = replace(options, early_stop=enough)
    together = optimise_targets(model, REQUESTS, options=options, **settings)
    for request, found, whole in zip(REQUESTS, together, endless, strict=True):
        n_steps = next((step for step, loss in enumerate(whole.losses, 1) if loss < enough), 9)
        assert found.losses == pytest.approx(whole.losses[:n_steps], rel=0, abs=1e-10)
        same(found, optimise_target(model, request, options=options, **settings))
    assert len({len(one.losses) for one in together}) >= 2


@pytest.mark.parametrize(
    ("kind", "layer", "bos", "changes"),
    [
        ("mlp", 0, False, {}),
        ("mlp", 1, True, {"kl_position": "end", "kl_factor": 2.0}),
        ("resid", 0, True, {"kl_factor": 0.0}),
        ("resid", 1, False, {"kl_position": "end"}),
    ],
)
def test_resumed_runs_whole_runs_and_plain_hooks_give_the_same_search(
    model: HookedTransformer,
    kind: target_runs.TargetKind,
    layer: int,
    bos: bool,
    changes: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = TargetOptions(steps=2, early_stop=0.0, clamp_norm=30.0, weight_decay=0.1, **changes)
    settings: dict[str, Any] = {
        "layer": layer, "contexts": CONTEXTS, "options": options, "kind": kind, "prepend_bos": bos
    }  # fmt: skip
    resumed = optimise_targets(model, REQUESTS, **settings)
    with watched(model), monkeypatch.context() as patched:
        patched.delattr(target_runs, "resume")
        whole = optimise_targets(model, REQUESTS, **settings)
    for found, expected in zip(resumed, whole, strict=True):
        same(found, expected)

    site = Site(layer, kind)
    for request, found in list(zip(REQUESTS, resumed, strict=True))[::2]:
        size = torch.linalg.vector_norm(found.output)
        zero = torch.zeros_like(found.delta).requires_grad_()
        first = plain_loss(model, request, zero, size, site, options, bos)
        (gradient,) = torch.autograd.grad(first, zero)
        # Adam's first update, which the clamp leaves as it is.
        step = -options.lr * gradient / (gradient.abs() + 1e-8)
        assert step.norm() < options.clamp_norm * size
        torch.testing.assert_close(found.delta, step, rtol=0, atol=1e-9)
        second = plain_loss(model, request, found.delta, size, site, options, bos)
        assert found.losses == pytest.approx([first.item(), second.item()], rel=0, abs=1e-10)


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("kind", ["mlp", "resid"])
def test_the_output_is_the_state_on_the_bare_prompt(
    model: HookedTransformer, kind: target_runs.TargetKind, bos: bool
) -> None:
    options = TargetOptions(steps=1)
    found = optimise_targets(
        model, REQUESTS, layer=1, contexts=CONTEXTS, options=options, kind=kind, prepend_bos=bos
    )
    for request, target in zip(REQUESTS, found, strict=True):
        ids = encode(model, request.fact.prompt, prepend_bos=bos).ids[None]
        _, cache = model.run_with_cache(ids)
        at = subject_last(model, request.fact.prompt, request.fact.subject, bos)
        torch.testing.assert_close(target.output, cache[Site(1, kind).hook][0, at], rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa"])
def test_in_fp32_batches_differ_by_rounding_which_adam_amplifies(
    name: str, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """A gradient's entry near zero may change its sign by rounding, and Adam steps by ``lr`` either way.

    So there is no sharp bound. Measured were relative differences of 8e-7 here, and of 3e-5 with default
    options over 20 steps; only a gross error fails.
    """
    model = load_model(random_hf(name, len(tiny_tokenizer)), tokenizer=tiny_tokenizer)
    options = TargetOptions(steps=10, early_stop=0.0, clamp_norm=30.0, weight_decay=0.1)
    settings: dict[str, Any] = {"layer": 1, "contexts": CONTEXTS, "options": options}
    together = optimise_targets(model, REQUESTS, **settings)
    alone = [optimise_target(model, one, **settings) for one in REQUESTS]
    pairs = list(zip(together, alone, strict=True))
    difference = max(float((a.delta - b.delta).norm() / b.delta.norm()) for a, b in pairs)
    assert difference < 1e-3


@pytest.mark.parametrize("hooked", [False, True], ids=["resumed", "whole"])
def test_a_diverging_search_names_the_request_and_gives_back_what_required_gradients(
    hooked: bool, tiny_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "logits" if hooked else "resume"
    true = getattr(target_runs, name)

    def broken(*args: Any, **kwargs: Any) -> Tensor:
        found: Tensor = true(*args, **kwargs)
        return found.index_fill(0, torch.tensor([len(found) - 1]), torch.nan)

    wanted = {}
    for number, (key, weight) in enumerate(tiny_model.named_parameters()):
        wanted[key] = bool(number % 3)
        weight.requires_grad_(wanted[key])
    monkeypatch.setattr(target_runs, name, broken)
    if hooked:
        tiny_model.add_hook("blocks.0.hook_resid_post", lambda state, hook: state)
    options = TargetOptions(kl_factor=0.0)
    with pytest.raises(
        WorkError, match=r"target of 'He was born in the city of Zürich': the loss became nan"
    ):
        optimise_targets(tiny_model, REQUESTS, layer=1, contexts=CONTEXTS, options=options)
    assert {key: weight.requires_grad for key, weight in tiny_model.named_parameters()} == wanted
    assert all(weight.grad is None for _, weight in tiny_model.named_parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_search_works_where_gradients_are_switched_off(mode: Any, tiny_model: HookedTransformer) -> None:
    expected = optimise_targets(tiny_model, REQUESTS[:2], layer=1, contexts=CONTEXTS, options=FIXED)
    with mode():
        found = optimise_targets(tiny_model, REQUESTS[:2], layer=1, contexts=CONTEXTS, options=FIXED)
    for one, other in zip(found, expected, strict=True):
        same(one, other, atol=0.0)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"requests": []}, InputError, "requests: expected at least one EditRequest, got none"),
        ({"requests": REQUESTS[0]}, InputError, r"requests: expected a sequence .* got one EditRequest"),
        ({"requests": [REQUESTS[0].fact]}, InputError, r"requests\[0\]: expected an EditRequest, got a Fact"),
        ({"kind": "attn"}, InputError, "kind: expected 'mlp' or 'resid', got 'attn'"),
        ({"batch_size": 0}, RangeError, "batch_size: expected a whole number of at least 1, got 0"),
        ({"batch_size": True}, RangeError, "batch_size: expected a whole number of at least 1, got True"),
        ({"batch_size": 2.0}, RangeError, "batch_size: expected a whole number of at least 1, got 2.0"),
        ({"layer": 3}, RangeError, "layer must be an integer from 0 to 2"),
    ],
)
def test_bad_input_is_refused_before_any_run(
    changes: dict[str, Any],
    error: type,
    message: str,
    tiny_model: HookedTransformer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(target_runs, "record")
    with pytest.raises(error, match=message):
        optimise_targets(tiny_model, **{"requests": REQUESTS, "layer": 1, **changes})
