"""The target search: what it minimises, when it stops, and that it leaves the model alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

from mechstyle.editing import target_runs
from mechstyle.editing.target_rows import target_rows
from mechstyle.editing.target_runs import requests_within
from mechstyle.editing.targets import TargetOptions, optimise_target
from mechstyle.errors import InputError, RangeError, TextError, WorkError
from mechstyle.facts import EditRequest, Fact
from mechstyle.metrics import answer_logprobs
from mechstyle.models import load_model
from mechstyle.runs import default_memory, logits, resume
from mechstyle.tokens import encode_fact

REQUEST = EditRequest(Fact("{} plays the", "Miles Davis", " trumpet"), " guitar")
AT_END = EditRequest(Fact("The instrument of {}", "Miles Davis", " trumpet"), " guitar")


def test_the_reported_loss_is_what_a_plain_run_with_delta_gives(tiny_folder: Path) -> None:
    model = load_model(tiny_folder, dtype=torch.float64)
    target = optimise_target(model, AT_END, layer=1, options=TargetOptions(steps=6))
    encoded = encode_fact(model, AT_END.fact, target=" guitar")
    assert encoded.subject is not None
    last = encoded.subject[-1]

    def add(state: torch.Tensor, hook: Any) -> torch.Tensor:
        torch.testing.assert_close(state[0, last], target.output)
        state[0, last] += target.delta
        return state

    ids = encoded.ids[None]
    scores = logits(model, ids, hooks=[("blocks.1.hook_mlp_out", add)])
    nll = -answer_logprobs(scores, ids, encoded.n_prompt, reduce="mean").item()
    assert target.answer_nll[-1] == pytest.approx(nll, rel=1e-10)
    assert target.losses[-1] < target.losses[0]
    assert len(target.losses) == 6


def test_one_step_evaluates_once_and_updates_never(tiny_model: HookedTransformer) -> None:
    target = optimise_target(tiny_model, REQUEST, layer=0, options=TargetOptions(steps=1))
    assert len(target.losses) == 1
    assert not target.delta.any()
    assert target.losses == target.answer_nll


def test_the_stop_tests_the_total_loss_before_stepping(tiny_model: HookedTransformer) -> None:
    target = optimise_target(tiny_model, REQUEST, layer=0, options=TargetOptions(early_stop=1e6))
    assert len(target.losses) == 1
    assert not target.delta.any()


@pytest.mark.parametrize("clamp", [0.01, 0.5])
def test_delta_never_leaves_the_ball_around_the_old_output(
    tiny_model: HookedTransformer, clamp: float
) -> None:
    target = optimise_target(tiny_model, REQUEST, layer=1, options=TargetOptions(clamp_norm=clamp))
    assert target.delta.norm() <= clamp * target.output.norm() * (1 + 1e-5)


@pytest.mark.parametrize("trained", [True, False])
def test_weights_get_no_gradient_and_what_required_one_is_restored(
    tiny_model: HookedTransformer, trained: bool
) -> None:
    wanted = {}
    for index, (name, weight) in enumerate(tiny_model.named_parameters()):
        weight.requires_grad_(trained and index % 2 == 0)
        wanted[name] = weight.requires_grad
    before = {name: weight.detach().clone() for name, weight in tiny_model.named_parameters()}
    with torch.no_grad():
        optimise_target(tiny_model, REQUEST, layer=1, options=TargetOptions(steps=3))
    for name, weight in tiny_model.named_parameters():
        assert weight.requires_grad == wanted[name]
        assert weight.grad is None
        assert torch.equal(weight, before[name])


def test_a_diverging_search_is_a_work_error_and_restores_the_model(
    tiny_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> torch.Tensor:
        return resume(*args, **kwargs) * torch.nan

    monkeypatch.setattr(target_runs, "resume", broken)
    with pytest.raises(WorkError, match=r"loss became nan at step 0; lower TargetOptions\.lr"):
        optimise_target(tiny_model, REQUEST, layer=1)
    assert all(weight.requires_grad for _, weight in tiny_model.named_parameters())


def test_delta_is_fp32_for_a_bf16_model(tiny_folder: Path) -> None:
    model = load_model(tiny_folder, dtype=torch.bfloat16)
    target = optimise_target(model, REQUEST, layer=1, options=TargetOptions(steps=10))
    assert target.delta.dtype == torch.float32
    assert target.losses[-1] < target.losses[0]


def test_the_kl_position_matters_and_without_kl_the_prompt_does_not(tiny_model: HookedTransformer) -> None:
    def search(**changes: Any) -> torch.Tensor:
        options = TargetOptions(steps=4, clamp_norm=100.0, **changes)
        return optimise_target(tiny_model, REQUEST, layer=1, options=options).delta

    assert not torch.equal(search(kl_factor=5.0), search(kl_factor=5.0, kl_position="end"))
    assert torch.equal(search(kl_factor=0.0), search(kl_factor=0.0, kl_prompt="The city of {}"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, RangeError, "steps: expected an integer of 1 or more, got 0"),
        ({"lr": 0.0}, RangeError, "lr: expected a finite number > 0"),
        ({"clamp_norm": math.inf}, RangeError, "clamp_norm: expected a finite number > 0"),
        ({"weight_decay": -1.0}, RangeError, "weight_decay: expected a finite number >= 0"),
        ({"early_stop": math.nan}, RangeError, "early_stop: expected a finite number >= 0"),
        ({"kl_prompt": "is a"}, TextError, "kl_prompt: expected '{}' exactly once"),
        ({"kl_position": "middle"}, InputError, "kl_position: expected 'subject' or 'end', got 'middle'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        TargetOptions(**options)


def test_whole_runs_are_reckoned_with_all_their_logits_and_share_smaller_batches(
    tiny_model: HookedTransformer,
) -> None:
    settings: dict[str, Any] = {"kl_prompt": None, "kl_at_subject": True, "prepend_bos": False}
    rows = target_rows(tiny_model, [REQUEST, AT_END], ["The day was long. {}", "{}"], **settings)
    resumed = requests_within(tiny_model, rows, layer=1)
    tiny_model.add_hook("hook_embed", lambda state, hook: state)
    whole = requests_within(tiny_model, rows, layer=1)
    states = 2 * int(rows.lengths.max()) * len(tiny_model.tokenizer) * 12  # bytes of a request's logits
    assert 1 <= whole <= default_memory(tiny_model) // 2 // states < resumed
