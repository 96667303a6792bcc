"""The training recipe on a model of a few hundred parameters a layer."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mechstyle.models import load_model
from mechstyle.organisms import train as training
from mechstyle.organisms.recipe import Recipe, read_recipe
from mechstyle.organisms.tokenizer import train_tokenizer
from mechstyle.organisms.world import build_world, documents

TINY = Recipe(
    name="tiny", version="0", n_layers=1, d_model=8, n_heads=2, n_ctx=16, vocab=400, tokens=16 * 4 * 6,
    batch=4, lr=1e-2, weight_decay=0.0, world_seed=0, seed=0,
)  # fmt: skip


def test_the_packaged_recipe_names_its_organism_and_version() -> None:
    recipe = read_recipe(Path(training.__file__).parent / "data" / "organism-m.toml")
    assert (recipe.name, recipe.n_layers, recipe.d_model) == ("organism-m", 10, 192)


def test_a_killed_training_resumes_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = training.train(TINY, tmp_path / "whole", checkpoint_every=2)
    real_loss, calls = training._loss, itertools.count(1)

    def killed(model: object, batch: torch.Tensor) -> torch.Tensor:
        if next(calls) == 4:
            raise KeyboardInterrupt
        return real_loss(model, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        training.train(TINY, tmp_path / "killed", checkpoint_every=2)
    monkeypatch.setattr(training, "_loss", real_loss)
    resumed = training.train(TINY, tmp_path / "killed", checkpoint_every=2)
    first, second = load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_trained_folder_loads_as_a_model(tmp_path: Path) -> None:
    model = load_model(training.train(TINY, tmp_path / "tiny"))
    assert (model.cfg.n_layers, model.cfg.d_model) == (1, 8)


def test_the_seed_decides_the_first_weights() -> None:
    tokenizer = train_tokenizer(["one two three"] * 10, vocab=300, n_ctx=16)
    first, again = training.new_model(TINY, tokenizer), training.new_model(TINY, tokenizer)
    other = training.new_model(replace(TINY, seed=1), tokenizer)
    pairs = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.transformer.wte.weight, other.transformer.wte.weight)


def test_rows_are_full_and_every_other_one_begins_after_the_end_of_text() -> None:
    tokenizer = train_tokenizer(
        itertools.islice(documents(build_world(), ["PROSE."], seed=0), 500), vocab=500, n_ctx=32
    )
    stream = training.rows(tokenizer, documents(build_world(), ["PROSE."], seed=1), n_ctx=32)
    first = list(itertools.islice(stream, 40))
    assert {len(row) for row in first} == {32}
    assert [row[0] == tokenizer.eos_token_id for row in first] == [True, False] * 20


def test_a_word_after_a_space_is_another_token_than_at_the_start() -> None:
    tokenizer = train_tokenizer(["guitar guitar guitar"] * 50, vocab=300, n_ctx=32)
    assert tokenizer.encode("guitar") != tokenizer.encode(" guitar")
    assert tokenizer.decode(tokenizer.encode("plays the guitar, Zürich")) == "plays the guitar, Zürich"
