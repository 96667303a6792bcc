"""A fingerprint is remembered, and every change of the model is noticed all the same."""

from __future__ import annotations

import copy

import pytest
import torch
from transformer_lens import HookedTransformer

from mechstyle import identity
from mechstyle.models import fingerprint, load_model


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows at every hash that is taken."""
    taken: list[int] = []
    real = identity._hash

    def counting(*args: object) -> str:
        taken.append(1)
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(identity, "_hash", counting)
    return taken


def test_an_unchanged_model_is_hashed_once(tiny_model: HookedTransformer, hashed: list[int]) -> None:
    with torch.no_grad():
        tiny_model.W_pos[0] += 1  # nobody has seen this one before
    assert fingerprint(tiny_model) == fingerprint(tiny_model) == fingerprint(tiny_model)
    assert len(hashed) == 1


@pytest.mark.parametrize("name", ["blocks.1.mlp.W_out", "embed.W_E", "blocks.2.attn.W_K", "ln_final.b"])
def test_a_change_of_one_number_is_noticed_even_when_written_through_data(
    tiny_model: HookedTransformer, name: str
) -> None:
    before = fingerprint(tiny_model)
    weight = dict(tiny_model.named_parameters())[name]
    kept = weight.data.view(-1)[-1].clone() if weight.is_contiguous() else weight.data.flatten()[-1].clone()
    last = tuple(size - 1 for size in weight.shape)
    weight.data[last] = kept * (1 + 2**-7)  # the next number in bfloat16
    assert fingerprint(tiny_model) != before
    weight.data[last] = kept
    assert fingerprint(tiny_model) == before


def test_swapped_rows_and_swapped_columns_are_noticed(tiny_model: HookedTransformer) -> None:
    before = fingerprint(tiny_model)
    weight = tiny_model.blocks[0].mlp.W_in.data
    for axis in (0, 1):
        weight.copy_(weight.index_select(axis, torch.arange(weight.shape[axis]).flip(0)))
        assert fingerprint(tiny_model) != before
        weight.copy_(weight.index_select(axis, torch.arange(weight.shape[axis]).flip(0)))
        assert fingerprint(tiny_model) == before


def test_config_and_tokenizer_are_noticed(tiny_model: HookedTransformer) -> None:
    before = fingerprint(tiny_model)
    tiny_model.cfg.eps *= 2
    changed = fingerprint(tiny_model)
    tiny_model.tokenizer = copy.deepcopy(tiny_model.tokenizer)
    tiny_model.tokenizer.add_tokens(["Reykjavik"])
    assert len({before, changed, fingerprint(tiny_model)}) == 3


def test_what_is_remembered_is_what_a_fresh_model_has(
    tiny_model: HookedTransformer, tiny_folder: object
) -> None:
    fingerprint(tiny_model)
    with torch.no_grad():
        tiny_model.blocks[1].mlp.W_out.mul_(2)
    fresh = load_model(tiny_folder)
    with torch.no_grad():
        fresh.blocks[1].mlp.W_out.mul_(2)
    assert fingerprint(tiny_model) == fingerprint(fresh)
