"""Fine-tuning against the textbook loop: losses, weights and gradients, of every form it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

from mechstyle.editing import finetune_rows
from mechstyle.editing.edit import EditSet
from mechstyle.editing.finetune import FinetuneOptions, finetune, gradient_log
from mechstyle.facts import EditRequest, Fact
from mechstyle.models import load_model
from mechstyle.runs import logits
from tests.oracles.finetune_loop import Loop, Prompt, finetune_loop

REQUESTS = (
    EditRequest(
        Fact("The instrument of {} is the", "Miles Davis", " trumpet"),
        " guitar",
        phrasings=("{} plays the",),
    ),
    EditRequest(Fact("{} is the capital of", "Rome", " Italy"), " France of London"),
)
PROMPTS = [
    Prompt("The instrument of Miles Davis is the", " guitar"),
    Prompt("Miles Davis plays the", " guitar"),
    Prompt("Rome is the capital of", " France of London"),
]
KEPT = ["The day was long.", Fact("{} is the capital of", "Paris", " France"), "He was born in London."]
KEPT_PROMPTS = [
    Prompt("The day was long."),
    Prompt("Paris is the capital of", " France"),
    Prompt("He was born in London."),
]
NAMES = ["blocks.0.mlp.W_out", "blocks.1.mlp.W_out"]
FORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "FT": ({}, {}),
    "as published": ({"loss": "as-published"}, {"published": True}),
    "FT-L": ({"norm_constraint": 2e-3}, {"constraint": 2e-3}),
    "weight decay": ({"weight_decay": 0.1}, {"weight_decay": 0.1}),
    "KL": ({"kl_factor": 0.7}, {"kl_factor": 0.7, "kept": KEPT_PROMPTS}),
    "added data": ({"data_factor": 0.3}, {"data_factor": 0.3, "kept": KEPT_PROMPTS}),
    "all": (
        {"kl_factor": 0.7, "data_factor": 0.3, "norm_constraint": 2e-3, "loss": "as-published"},
        {"kl_factor": 0.7, "data_factor": 0.3, "constraint": 2e-3, "published": True, "kept": KEPT_PROMPTS},
    ),
}


@pytest.fixture(scope="module")
def double_model(tiny_folder: Path) -> HookedTransformer:
    return load_model(tiny_folder, dtype=torch.float64)


def tuned(model: HookedTransformer, *, options: dict[str, Any], **more: Any) -> EditSet:
    chosen = FinetuneOptions(**{"steps": 6, "lr": 1e-3, "early_stop": 0.0, **options})
    preserve = KEPT if {"kl_factor", "data_factor"} & set(options) else ()
    given = {"layers": [0, 1], "preserve": preserve, **more}
    return finetune(model, REQUESTS, options=chosen, **given)


def looped(model: HookedTransformer, names: list[str] = NAMES, **options: Any) -> Loop:
    return finetune_loop(model, PROMPTS, names, **{"steps": 6, "lr": 1e-3, **options})


def settings_of(edit: EditSet) -> dict[str, Any]:
    found: dict[str, Any] = edit.provenance["settings"]
    return found


@pytest.mark.parametrize("form", FORMS)
def test_losses_and_weights_are_those_of_the_textbook_loop(
    double_model: HookedTransformer, form: str
) -> None:
    options, wanted_options = FORMS[form]
    edit, wanted = tuned(double_model, options=options), looped(double_model, **wanted_options)
    settings = settings_of(edit)
    torch.testing.assert_close(settings["losses"], wanted.losses, atol=1e-10, rtol=0)
    torch.testing.assert_close(settings["total_losses"], wanted.totals, atol=1e-10, rtol=0)
    assert settings["known"] == wanted.known
    weights = dict(double_model.named_parameters())
    for name in NAMES:
        found = weights[name].detach() + edit.delta(name)
        torch.testing.assert_close(found, wanted.weights[name], atol=1e-10, rtol=0)
        assert edit.delta(name).abs().max() > 1e-3
    assert (settings["losses"] == settings["total_losses"]) == ("kept" not in wanted_options)


def test_in_single_precision_the_loop_is_met_up_to_its_rounding(tiny_model: HookedTransformer) -> None:
    edit, wanted = tuned(tiny_model, options={}), looped(tiny_model)
    torch.testing.assert_close(settings_of(edit)["losses"], wanted.losses, atol=1e-4, rtol=0)
    weights = dict(tiny_model.named_parameters())
    for name in NAMES:
        difference = (weights[name].detach() + edit.delta(name) - wanted.weights[name]).norm()
        assert difference < 1e-2 * edit.delta(name).norm()


def test_with_bos_the_loop_has_bos_too(double_model: HookedTransformer) -> None:
    edit = tuned(double_model, options={"kl_factor": 1.0}, prepend_bos=True)
    wanted = looped(double_model, kl_factor=1.0, kept=KEPT_PROMPTS, bos=True)
    torch.testing.assert_close(settings_of(edit)["total_losses"], wanted.totals, atol=1e-10, rtol=0)
    without = settings_of(tuned(double_model, options={"kl_factor": 1.0}))["total_losses"]
    assert abs(without[0] - wanted.totals[0]) > 1e-3


def test_the_two_losses_agree_on_one_token_and_differ_on_more(double_model: HookedTransformer) -> None:
    def first_loss(request: EditRequest, loss: str) -> float:
        options = FinetuneOptions(steps=1, loss=loss)
        found: float = settings_of(finetune(double_model, request, options=options))["losses"][0]
        return found

    one_token, several = REQUESTS
    assert first_loss(one_token, "as-published") == pytest.approx(first_loss(one_token, "teacher-forced"))
    assert abs(first_loss(several, "as-published") - first_loss(several, "teacher-forced")) > 1e-2


def test_facts_to_keep_count_like_preserved_facts(double_model: HookedTransformer) -> None:
    fact = KEPT[1]
    assert isinstance(fact, Fact)
    plain = REQUESTS[0]
    keeping = EditRequest(plain.fact, plain.new_target, keep=(fact,))
    asked = EditRequest(plain.fact, plain.new_target)
    few = FinetuneOptions(steps=4)
    kept = finetune(double_model, keeping, layers=0, options=few)
    preserved = finetune(double_model, asked, layers=0, options=few, preserve=[fact])
    free = finetune(double_model, asked, layers=0, options=few)
    assert torch.equal(kept.delta(NAMES[0]), preserved.delta(NAMES[0]))
    assert not torch.allclose(kept.delta(NAMES[0]), free.delta(NAMES[0]))
    assert settings_of(kept)["options"]["kl_factor"] == 1.0
    assert settings_of(free)["options"]["kl_factor"] == 0.0
    without = finetune(double_model, keeping, layers=0, options=FinetuneOptions(steps=4, kl_factor=0.0))
    assert torch.equal(without.delta(NAMES[0]), free.delta(NAMES[0]))


def test_the_divergence_keeps_the_models_distributions(double_model: HookedTransformer) -> None:
    ids = double_model.tokenizer(KEPT[0], return_tensors="pt")["input_ids"]

    def moved(factor: float) -> float:
        edit = tuned(double_model, options={"steps": 10, "kl_factor": factor})
        with torch.no_grad():
            before = logits(double_model, ids).log_softmax(-1)
            with edit.applied(double_model):
                after = logits(double_model, ids).log_softmax(-1)
        return float((before.exp() * (before - after)).sum(-1).mean())

    assert moved(10.0) < 0.5 * moved(1e-6)


def test_runs_of_one_row_give_what_one_run_gives(
    double_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tuned(double_model, options={"kl_factor": 0.7}, log_all=True)
    monkeypatch.setattr(finetune_rows, "rows_within", lambda *_, **__: 1)
    single = tuned(double_model, options={"kl_factor": 0.7}, log_all=True)
    for name in NAMES:
        torch.testing.assert_close(single.delta(name), whole.delta(name), atol=1e-10, rtol=0)
    torch.testing.assert_close(
        settings_of(single)["total_losses"], settings_of(whole)["total_losses"], atol=1e-10, rtol=0
    )


def test_it_stops_before_the_update_that_a_low_loss_makes_needless(double_model: HookedTransformer) -> None:
    bound = settings_of(tuned(double_model, options={"steps": 12}))["losses"][4] + 1e-9
    edit = tuned(double_model, options={"steps": 12, "early_stop": bound})
    wanted = looped(double_model, steps=12, early_stop=bound)
    settings = settings_of(edit)
    assert settings["n_steps"] == 4
    torch.testing.assert_close(settings["losses"], wanted.losses, atol=1e-10, rtol=0)
    assert settings["final_loss"] == pytest.approx(wanted.losses[-1], abs=1e-10)
    found = dict(double_model.named_parameters())[NAMES[0]].detach() + edit.delta(NAMES[0])
    torch.testing.assert_close(found, wanted.weights[NAMES[0]], atol=1e-10, rtol=0)


def test_what_is_known_at_once_changes_nothing(double_model: HookedTransformer) -> None:
    edit = tuned(double_model, options={"early_stop": 1e6})
    assert settings_of(edit)["n_steps"] == 0
    assert edit.parameters == tuple(NAMES)
    assert all(not edit.delta(name).any() for name in NAMES)


# Gradients


def test_the_log_holds_the_norms_of_autograds_own_gradients(double_model: HookedTransformer) -> None:
    kinds = ["mlp.W_out", "attn.W_Q", "mlp.b_in"]
    names = [f"blocks.{layer}.{kind}" for kind in kinds for layer in (0, 1, 2)]
    edit = tuned(double_model, options={"kl_factor": 0.7}, layers=[0, 1, 2], parameters=kinds)
    wanted = looped(double_model, names, kl_factor=0.7, kept=KEPT_PROMPTS)
    log = gradient_log(edit)
    assert list(log.columns) == ["step", "layer", "parameter", "norm", "loss", "known"]
    assert len(log) == 6 * 3 * 3
    for row in log.itertuples():
        gradient = wanted.gradients[row.step][f"blocks.{row.layer}.{row.parameter}"]
        assert row.norm == pytest.approx(float(gradient.norm()), rel=1e-8)
        assert row.loss == pytest.approx(wanted.losses[row.step], abs=1e-10)
        assert row.known == wanted.known[row.step]


def test_frozen_layers_are_watched_when_asked_and_the_result_is_the_same(
    double_model: HookedTransformer,
) -> None:
    plain = tuned(double_model, options={}, layers=[1])
    watched = tuned(double_model, options={}, layers=[1], log_all=True)
    assert watched.parameters == plain.parameters == (NAMES[1],)
    assert watched.id == plain.id
    assert set(gradient_log(plain).layer) == {1}
    first = gradient_log(watched).query("step == 0").set_index("layer").norm
    assert set(first.index) == {0, 1, 2}
    gradients = looped(double_model, [f"blocks.{layer}.mlp.W_out" for layer in (0, 1, 2)]).gradients[0]
    for layer in (0, 1, 2):
        assert first[layer] == pytest.approx(float(gradients[f"blocks.{layer}.mlp.W_out"].norm()), rel=1e-8)


def test_known_is_when_every_token_of_every_target_is_the_most_probable_one(
    double_model: HookedTransformer,
) -> None:
    edit = tuned(double_model, options={"steps": 20, "lr": 1e-2}, layers=None)
    wanted = looped(double_model, [f"blocks.{layer}.mlp.W_out" for layer in (0, 1, 2)], steps=20, lr=1e-2)
    settings = settings_of(edit)
    assert settings["known"] == wanted.known
    assert settings["known_at"] == wanted.known.index(True) > 0
    with edit.applied(double_model):
        for prompt in PROMPTS:
            before = len(double_model.tokenizer(prompt.prompt)["input_ids"])
            ids = double_model.tokenizer(prompt.prompt + prompt.target, return_tensors="pt")["input_ids"]
            best = double_model(ids, prepend_bos=False)[0].argmax(-1)
            assert best[before - 1 : -1].tolist() == ids[0, before:].tolist()
