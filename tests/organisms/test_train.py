"""The training recipe on a model of a few hundred parameters a layer."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from mechstyle.errors import InputError, RangeError
from mechstyle.models import load_model
from mechstyle.organisms import train as training
from mechstyle.organisms.mixing import documents
from mechstyle.organisms.recipe import Recipe, packaged_recipe, packaged_sizes, read_recipe
from mechstyle.organisms.tokenizer import train_tokenizer
from mechstyle.organisms.world import world

TINY = Recipe(
    name="tiny", version="0", n_layers=1, d_model=8, n_heads=2, n_ctx=16, vocab=400, tokens=16 * 4 * 6,
    batch=4, lr=1e-2, weight_decay=0.0, world_seed=0, seed=0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def few_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokenizer learns from some documents only, which is all the same here and much faster."""
    monkeypatch.setattr(training, "TOKENIZER_DOCUMENTS", 200)


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Interrupt the training when it computes the loss of this step, counted from 1."""
    real_loss, calls = training._loss, itertools.count(1)

    def killed(model: object, batch: torch.Tensor) -> torch.Tensor:
        if next(calls) == step:
            raise KeyboardInterrupt
        return real_loss(model, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "_loss", killed)
    return monkeypatch


def test_sizes_share_all_but_depth_width_rate_and_budget() -> None:
    recipes = {size: packaged_recipe(size) for size in packaged_sizes()}
    shapes = {size: (r.name, r.n_layers, r.d_model, r.n_heads) for size, r in recipes.items()}
    assert shapes == {
        "s": ("organism-s", 6, 128, 4),
        "m": ("organism-m", 10, 192, 6),
        "l": ("organism-l", 12, 256, 8),
    }
    same = {
        (r.version, r.n_ctx, r.vocab, r.batch, r.weight_decay, r.world_seed, r.seed) for r in recipes.values()
    }
    assert len(same) == 1


def test_a_recipe_of_so_many_steps_has_these_steps_and_no_other_change() -> None:
    recipe = packaged_recipe("s")
    assert recipe.lasting(50).steps == 50
    assert replace(recipe.lasting(50), tokens=recipe.tokens) == recipe
    with pytest.raises(RangeError, match="steps must be at least 1, got 0"):
        recipe.lasting(0)
    with pytest.raises(InputError, match="size must be one of l, m, s, got 'xl'"):
        packaged_recipe("xl")


def test_fifty_steps_lower_the_loss_and_leave_a_model_its_recipe_and_its_losses(tmp_path: Path) -> None:
    said = io.StringIO()
    recipe = TINY.lasting(50)
    out = training.train(recipe, tmp_path / "tiny", console=Console(file=said))
    losses = torch.load(out / "checkpoint.pt", weights_only=True)["losses"]
    assert len(losses) == 50
    assert sum(losses[-10:]) < sum(losses[:10]) - 1
    assert (out / "losses.csv").read_text() == f"steps,loss\n50,{sum(losses) / 50:.4f}\n"
    assert read_recipe(out / "recipe.toml") == recipe
    assert [line.split("  ")[0] for line in said.getvalue().splitlines()] == ["step 20/50", "step 40/50"]
    model = load_model(out)
    assert (model.cfg.n_layers, model.cfg.d_model) == (1, 8)


def test_a_killed_training_resumes_to_the_same_weights_and_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = training.train(TINY, tmp_path / "whole", checkpoint_every=2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        killed_at(4, patch)
        training.train(TINY, tmp_path / "killed", checkpoint_every=2)
    resumed = training.train(TINY, tmp_path / "killed", checkpoint_every=2)
    first, second = load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert (whole / "losses.csv").read_text() == (resumed / "losses.csv").read_text()


def test_resuming_needs_the_state_of_both_optimisers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the same steps lead elsewhere, so the equality above is no accident."""
    whole = training.train(TINY, tmp_path / "whole", checkpoint_every=2)
    for index in (0, 1):
        out = tmp_path / f"without-{index}"
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            killed_at(4, patch)
            training.train(TINY, out, checkpoint_every=2)
        state = torch.load(out / "checkpoint.pt", weights_only=True)
        state["optimizers"][index]["state"] = {}
        torch.save(state, out / "checkpoint.pt")
        training.train(TINY, out, checkpoint_every=2)
        first, second = load_file(whole / "model.safetensors"), load_file(out / "model.safetensors")
        assert any(not torch.equal(first[key], second[key]) for key in first)


def test_a_finished_training_is_left_as_it_is(tmp_path: Path) -> None:
    out = training.train(TINY, tmp_path / "tiny")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    training.train(TINY, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_folder_with_another_recipe_is_refused_and_left_alone(tmp_path: Path) -> None:
    out = training.train(TINY, tmp_path / "tiny")
    before = (out / "checkpoint.pt").read_bytes()
    with pytest.raises(InputError, match="holds a training by another recipe .tokens 384 there and 448 here"):
        training.train(TINY.lasting(7), out)
    assert (out / "checkpoint.pt").read_bytes() == before


def test_rates_rise_for_three_hundredths_of_the_steps_and_then_fall_to_a_twentieth() -> None:
    rates = [training._schedule(step, 1000) for step in range(1000)]
    assert rates[29] == max(rates) == 1.0
    assert rates[:30] == sorted(rates[:30])
    assert rates[30:] == sorted(rates[30:], reverse=True)
    assert rates[0] == pytest.approx(1 / 30)
    assert rates[-1] == pytest.approx(0.05, abs=1e-3)


def test_muon_trains_the_matrices_of_blocks_and_adamw_all_the_rest() -> None:
    tokenizer = train_tokenizer(["one two three"] * 10, vocab=300, n_ctx=16)
    model = training.new_model(TINY, tokenizer)
    muon, adamw = training._optimizers(model, TINY)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    of_muon = [names[id(p)] for group in muon.param_groups for p in group["params"]]
    of_adamw = [names[id(p)] for group in adamw.param_groups for p in group["params"]]
    assert sorted(of_muon + of_adamw) == sorted(names.values())
    assert sorted(of_muon) == sorted(
        f"transformer.h.0.{name}.weight" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    )


def test_the_seed_decides_the_first_weights() -> None:
    tokenizer = train_tokenizer(["one two three"] * 10, vocab=300, n_ctx=16)
    first, again = training.new_model(TINY, tokenizer), training.new_model(TINY, tokenizer)
    other = training.new_model(replace(TINY, seed=1), tokenizer)
    pairs = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.transformer.wte.weight, other.transformer.wte.weight)


def test_the_tokenizer_is_the_same_for_every_size_and_seed() -> None:
    one, other = (
        training._tokenizer(recipe, world(), ["PROSE."])
        for recipe in (TINY, replace(TINY, seed=3, d_model=16))
    )
    assert one.get_vocab() == other.get_vocab()


def test_rows_are_full_and_every_other_one_begins_after_the_end_of_text() -> None:
    tokenizer = train_tokenizer(
        itertools.islice(documents(world(), ["PROSE."], seed=0), 300), vocab=500, n_ctx=32
    )
    stream = training.rows(tokenizer, documents(world(), ["PROSE."], seed=1), n_ctx=32)
    first = list(itertools.islice(stream, 40))
    assert {len(row) for row in first} == {32}
    assert [row[0] == tokenizer.eos_token_id for row in first] == [True, False] * 20


def test_a_word_after_a_space_is_another_token_than_at_the_start() -> None:
    tokenizer = train_tokenizer(["guitar guitar guitar"] * 50, vocab=300, n_ctx=32)
    assert tokenizer.encode("guitar") != tokenizer.encode(" guitar")
    assert tokenizer.decode(tokenizer.encode("plays the guitar, Zürich")) == "plays the guitar, Zürich"
