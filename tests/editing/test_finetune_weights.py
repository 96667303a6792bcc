"""What fine-tuning writes, and what it leaves alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from mechstyle.editing import finetune_steps
from mechstyle.editing.application import active_ids
from mechstyle.editing.edit import EditSet, load_edit
from mechstyle.editing.finetune import FinetuneOptions, finetune, gradient_log
from mechstyle.editing.finetune_rows import draws
from mechstyle.facts import EditRequest, Fact
from mechstyle.models import load_model
from mechstyle.runs import logits
from mechstyle.tokens import encode_fact

REQUESTS = (
    EditRequest(Fact("The instrument of {} is the", "Miles Davis", " trumpet"), " guitar"),
    EditRequest(Fact("{} is the capital of", "Rome", " Italy"), " France of London"),
    EditRequest(Fact("The mother tongue of {} is", "Danielle Darrieux", " French"), " the day"),
)
TEXTS = ("The day was long.", "He was born in London.", "Paris is the capital of France.")
FEW = FinetuneOptions(steps=3, early_stop=0.0)


def settings_of(edit: EditSet) -> dict[str, Any]:
    found: dict[str, Any] = edit.provenance["settings"]
    return found


def weights_of(model: Any) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def trained_in_place(model: HookedTransformer, names: Sequence[str], steps: int) -> dict[str, Tensor]:
    """The same steps on the parameters of a copy."""
    own = copy.deepcopy(model)
    chosen = [weight for name, weight in own.named_parameters() if name in names]
    optimiser = torch.optim.Adam(chosen, lr=FEW.lr)
    one = encode_fact(own, REQUESTS[0].fact, target=REQUESTS[0].new_target)
    for _ in range(steps):
        optimiser.zero_grad()
        run = logits(own, one.ids[None], grad=True, n_last=len(one) - one.n_prompt + 1)
        places = range(one.n_prompt - len(one) - 1, -1)
        torch.stack(
            [run[0, at].logsumexp(-1) - run[0, at, one.ids[at + 1]] for at in places]
        ).mean().backward()
        optimiser.step()
    return weights_of(own)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_applied_weights_are_the_trained_ones_and_no_others_differ(
    tiny_folder: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(tiny_folder, dtype=dtype)
    before = weights_of(model)
    trained: dict[str, Tensor] = {}
    update = finetune_steps._Training.update

    def watched(self: Any, moving: Sequence[str], gradients: Any) -> None:
        update(self, moving, gradients)
        trained.update({name: self._leaves[name].detach().clone() for name in self._base})

    monkeypatch.setattr(finetune_steps._Training, "update", watched)
    kinds = ["mlp.W_out", "mlp.b_out", "attn.W_Q"]
    edit = finetune(model, REQUESTS, layers=[0, 2], parameters=kinds, options=FEW)
    declared = {f"blocks.{layer}.{kind}" for kind in kinds for layer in (0, 2)}
    assert set(edit.parameters) == set(trained) == declared
    assert {one.dtype for one in trained.values()} == {torch.float32}
    with edit.applied(model):
        for name, weight in model.named_parameters():
            wanted = trained[name].to(dtype) if name in declared else before[name]
            assert torch.equal(weight, wanted), name
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_a_single_prompt_trains_as_it_does_on_the_parameters_of_a_copy(
    tiny_model: HookedTransformer,
) -> None:
    edit = finetune(tiny_model, REQUESTS[0], layers=1, options=FEW)
    wanted = trained_in_place(tiny_model, ["blocks.1.mlp.W_out"], FEW.steps)["blocks.1.mlp.W_out"]
    with edit.applied(tiny_model):
        found = dict(tiny_model.named_parameters())["blocks.1.mlp.W_out"]
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_bf16_models_train_in_single_precision(tiny_folder: Path) -> None:
    options = FinetuneOptions(steps=3, lr=1e-6, early_stop=0.0)
    name = "blocks.0.mlp.W_out"
    edit = finetune(load_model(tiny_folder, dtype=torch.bfloat16), REQUESTS, layers=0, options=options)
    # Adam's first step is lr for each weight: far below bf16's rounding of weights of 0.1, and not lost.
    assert edit.delta(name).abs().median() > 1e-6
    wide = finetune(load_model(tiny_folder), REQUESTS, layers=0, options=options)
    cosine = torch.nn.functional.cosine_similarity(
        edit.delta(name).flatten(), wide.delta(name).flatten(), dim=0
    )
    assert cosine > 0.8


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("largest", [3e-4, 1e-3])
def test_the_constraint_holds_to_the_last_bit(tiny_folder: Path, dtype: torch.dtype, largest: float) -> None:
    model = load_model(tiny_folder, dtype=dtype)
    options = FinetuneOptions(steps=4, early_stop=0.0, norm_constraint=largest)
    edit = finetune(model, REQUESTS, layers=[0, 1], parameters=["mlp.W_out", "mlp.b_out"], options=options)
    for name in edit.parameters:
        assert 0.999 * largest < edit.delta(name).abs().max() <= largest
    free = finetune(model, REQUESTS, layers=[0, 1], options=FinetuneOptions(steps=4, early_stop=0.0))
    assert free.delta("blocks.0.mlp.W_out").abs().max() > 1.5 * largest


def test_a_constraint_of_zero_allows_nothing(tiny_model: HookedTransformer) -> None:
    options = FinetuneOptions(steps=3, early_stop=0.0, norm_constraint=0.0)
    edit = finetune(tiny_model, REQUESTS, layers=0, options=options)
    assert not edit.delta("blocks.0.mlp.W_out").any()
    assert settings_of(edit)["losses"][0] == settings_of(edit)["losses"][-1]


# Schedules


def test_a_schedule_freezes_layers_bit_for_bit(tiny_model: HookedTransformer) -> None:
    edit = finetune(tiny_model, REQUESTS, layers=[0, 1, 2], options=FEW, schedule=lambda step: [0, 2][:step])
    # Layer 0 moves from step 1 on, layer 2 in step 2, layer 1 never.
    assert edit.parameters == ("blocks.0.mlp.W_out", "blocks.2.mlp.W_out")
    assert settings_of(edit)["schedule"] == [[], [0], [0, 2]]
    losses = settings_of(edit)["losses"]
    assert losses[0] == losses[1] > losses[2]
    assert set(gradient_log(edit).layer) == {0, 1, 2}
    # Adam's first step is lr for every weight, whatever the gradient.
    step = edit.delta("blocks.2.mlp.W_out").abs()
    assert step.median() == pytest.approx(FEW.lr, rel=1e-3)


def test_a_schedule_of_everything_is_no_schedule(tiny_model: HookedTransformer) -> None:
    plain = finetune(tiny_model, REQUESTS, layers=[0, 1], options=FEW)
    same = finetune(tiny_model, REQUESTS, layers=[0, 1], options=FEW, schedule=lambda step: {0, 1})
    assert same.id == plain.id


# Batches


def test_every_pass_draws_every_prompt_once_by_seed() -> None:
    def passes(seed: int) -> list[int]:
        stream = draws(7, 3, seed)
        return [number for _ in range(6) for number in next(stream)]

    first = passes(0)
    assert sorted(first[:7]) == sorted(first[7:]) == list(range(7))
    assert first[:7] != first[7:]
    assert first == passes(0) != passes(1)
    stream = draws(3, 16, 5)
    assert [next(stream) for _ in range(2)] == [[0, 1, 2]] * 2


def test_batches_of_prompts_and_texts_follow_the_seed(tiny_model: HookedTransformer) -> None:
    options = FinetuneOptions(steps=4, early_stop=0.0, kl_factor=1.0, batch_size=2, preserve_batch_size=1)

    def edit(seed: int) -> EditSet:
        return finetune(tiny_model, REQUESTS, layers=0, options=options, preserve=TEXTS, seed=seed)

    assert edit(1).id == edit(1).id != edit(2).id
    settings = settings_of(edit(1))
    assert settings["n_steps"] == 4
    assert settings["n_preserved"] == 3
    # Known is what was known of every prompt when it was last read: after one batch of two it cannot be all.
    assert settings["known"][0] is False


# The model is left alone


def test_flags_gradients_hooks_and_mode_stay_as_they_are(tiny_model: HookedTransformer) -> None:
    seen: list[int] = []
    tiny_model.add_hook("blocks.0.hook_mlp_out", lambda state, hook: seen.append(state.requires_grad))
    tiny_model.train()
    weight = tiny_model.blocks[0].mlp.W_out
    tiny_model.blocks[1].mlp.W_out.requires_grad_(False)
    weight.grad = torch.ones_like(weight)
    objects = dict(tiny_model.named_parameters())
    before = weights_of(tiny_model)
    with torch.inference_mode():
        finetune(tiny_model, REQUESTS, options=FEW, preserve=TEXTS)
    assert any(seen)
    after = dict(tiny_model.named_parameters())
    assert all(after[name] is one and torch.equal(one, before[name]) for name, one in objects.items())
    assert {name for name, one in after.items() if not one.requires_grad} == {"blocks.1.mlp.W_out"}
    assert {name for name, one in after.items() if one.grad is not None} == {"blocks.0.mlp.W_out"}
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert tiny_model.training
    assert len(tiny_model.hook_dict["blocks.0.hook_mlp_out"].fwd_hooks) == 1


@pytest.mark.parametrize("stop_at", [1, 4, 7])
def test_an_interrupt_at_any_run_leaves_the_model_as_it_was(
    tiny_model: HookedTransformer, stop_at: int
) -> None:
    calls = [0]

    def interrupting(state: Tensor, hook: Any) -> None:
        calls[0] += 1
        if calls[0] == stop_at:
            raise KeyboardInterrupt

    objects, before = dict(tiny_model.named_parameters()), weights_of(tiny_model)
    tiny_model.add_hook("blocks.1.hook_mlp_out", interrupting)
    with pytest.raises(KeyboardInterrupt):
        finetune(tiny_model, REQUESTS, options=FEW, preserve=TEXTS)
    tiny_model.reset_hooks()
    after = dict(tiny_model.named_parameters())
    assert all(after[name] is one and torch.equal(one, before[name]) for name, one in objects.items())


def test_under_an_active_edit_it_trains_on_top(tiny_model: HookedTransformer) -> None:
    first = finetune(tiny_model, REQUESTS[:1], layers=0, options=FEW)
    with first.applied(tiny_model):
        second = finetune(tiny_model, REQUESTS[:1], layers=0, options=FEW)
        assert settings_of(second)["on_top_of"] == list(active_ids(tiny_model)) == [first.id]
        assert second.fingerprint == first.fingerprint
        with second.applied(tiny_model):
            third = finetune(tiny_model, REQUESTS[:1], layers=0, options=FEW)
    assert settings_of(first)["on_top_of"] == []
    assert settings_of(second)["losses"][0] == pytest.approx(settings_of(first)["final_loss"], abs=1e-5)
    assert settings_of(third)["losses"][0] == pytest.approx(settings_of(second)["final_loss"], abs=1e-5)


def test_an_edit_can_be_saved_and_its_log_read_again(tiny_model: HookedTransformer, tmp_path: Path) -> None:
    edit = finetune(tiny_model, REQUESTS, layers=[0, 1], options=FEW, log_all=True)
    again = load_edit(edit.save(tmp_path / "edit.safetensors"))
    assert again.id == edit.id
    assert again.requests == edit.requests
    assert gradient_log(again).equals(gradient_log(edit))
