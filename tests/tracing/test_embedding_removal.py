"""The association of subject and object taken out of embeddings: directions, predictors, controls."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from mechstyle import Fact
from mechstyle.errors import InputError, TextError
from mechstyle.hf_convert import quiet_deprecation
from mechstyle.tokens import encode_fact
from mechstyle.tracing.embedding_changes import Embedded
from mechstyle.tracing.embedding_removal import ErasePredictor, RemoveDirection, object_directions
from mechstyle.tracing.embeddings import average_effects, embedding_effects

NAMES = ("Miles Davis", "Chet Baker", "Jimi Hendrix", "Bill Evans", "Danielle Darrieux", "Zürich", "Rome")
PLAYS = [
    Fact("The instrument of {} is the", name, f" {what}", "plays")
    for name, what in zip(
        NAMES, ("trumpet", "trumpet", "guitar", "piano", "guitar", "piano", "trumpet"), strict=True
    )
]
ALONE = [Fact("{} is the capital of", "Paris", " France", "capital")]


def embedded(model: HookedTransformer, fact: Fact) -> tuple[Embedded, Tensor]:
    encoded = encode_fact(model, fact)
    return Embedded(model, fact, encoded, 0), model.W_E.detach()[encoded.ids[: encoded.n_prompt]][None]


@pytest.mark.parametrize("table", ["embedding", "unembedding"])
def test_only_the_objects_direction_leaves_the_subjects_tokens(
    table: str, tiny_model: HookedTransformer
) -> None:
    prompt, own = embedded(tiny_model, PLAYS[0])
    after = RemoveDirection(table).changed(prompt, own)  # type: ignore[arg-type]
    token = int(prompt.encoded.target_ids[0])
    direction = object_directions(tiny_model, [token], table)[0]  # type: ignore[arg-type]
    assert float(direction.norm()) == pytest.approx(1, abs=1e-6)
    mean = tiny_model.W_E.detach().mean(0)
    here = slice(prompt.subject.start, prompt.subject.stop)
    assert ((own - mean)[:, here] @ direction).abs().max() > 1e-3
    assert ((after - mean)[:, here] @ direction).abs().max() < 1e-6
    change = after - own
    torch.testing.assert_close(change, (change @ direction)[..., None] * direction, atol=1e-6, rtol=0)
    assert (change[:, : here.start] == 0).all()
    assert (change[:, here.stop :] == 0).all()


@pytest.mark.parametrize("kind", ["gpt2", "llama-gqa"])
def test_a_folded_model_has_the_directions_of_the_plain_one(kind: str, architectures: object) -> None:
    model = architectures(kind)  # type: ignore[operator]
    with quiet_deprecation():
        other = HookedTransformer(copy.deepcopy(model.cfg))
    state = {name: weight.clone() for name, weight in model.state_dict().items()}
    other.load_and_process_state_dict(state)
    wanted, found = (object_directions(one, [5, 17, 300], "unembedding") for one in (model, other))
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_no_linear_predictor_finds_the_object_in_erased_subjects(tiny_model: HookedTransformer) -> None:
    erase = ErasePredictor.fit(tiny_model, PLAYS)
    means = {}
    for fact in PLAYS:
        prompt, own = embedded(tiny_model, fact)
        after = erase.changed(prompt, own)
        here = slice(prompt.subject.start, prompt.subject.stop)
        moved = after[0, here] - own[0, here]
        torch.testing.assert_close(moved, moved[:1].expand_as(moved), atol=1e-6, rtol=0)
        means.setdefault(fact.target, []).append(after[0, here].mean(0))
    centres = [torch.stack(some).mean(0) for some in means.values()]
    for centre in centres[1:]:
        torch.testing.assert_close(centre, centres[0], atol=1e-5, rtol=0)
    found = erase.predictors["plays"]
    assert (found.n_facts, found.n_objects, found.eraser.rank) == (7, 3, 2)
    assert found.majority == pytest.approx(3 / 7)


def test_shuffled_objects_give_another_erasure_of_the_same_rank(tiny_model: HookedTransformer) -> None:
    plain, shuffled, again = (ErasePredictor.fit(tiny_model, PLAYS, shuffle=seed) for seed in (None, 3, 3))
    first, second, third = (one.predictors["plays"] for one in (plain, shuffled, again))
    assert first.eraser.rank == second.eraser.rank
    assert torch.equal(second.eraser.removed, third.eraser.removed)
    assert not torch.allclose(first.eraser.removed, second.eraser.removed, atol=1e-3)


def test_relations_that_were_not_fitted_are_left_out(tiny_model: HookedTransformer) -> None:
    erase = ErasePredictor.fit(tiny_model, [*PLAYS, *ALONE])
    assert set(erase.predictors) == {"plays"}
    frame = embedding_effects(tiny_model, [*PLAYS[:2], *ALONE], {"erased": erase}, samples=1)
    assert set(frame["fact"]) == {0, 1}
    settings = frame.attrs["provenance"]["settings"]
    assert settings["left_out"] == {"erased": 1}
    assert settings["changes"]["erased"][0]["relations"]["plays"]["n_objects"] == 3
    prompt, own = embedded(tiny_model, ALONE[0])
    with pytest.raises(TextError, match="was not fitted on the relation 'capital', but on 'plays'"):
        erase.changed(prompt, own)


def test_removals_stand_beside_random_ones_in_one_table(tiny_model: HookedTransformer) -> None:
    changes = {
        "object": RemoveDirection("embedding"),
        "logit": RemoveDirection("unembedding"),
        "predictor": ErasePredictor.fit(tiny_model, PLAYS),
    }
    table = average_effects(embedding_effects(tiny_model, PLAYS, changes, samples=2, read_mlps=True))
    assert table["change"].tolist() == list(changes)
    assert (table["n_facts"] == 7).all()
    assert (table["effect_low"] <= table["effect"]).all()
    assert (table["size"] > 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_models_of_any_number_format_are_changed_alike(dtype: torch.dtype, architectures: object) -> None:
    model, fine = (architectures("llama-gqa", one) for one in (dtype, torch.float32))  # type: ignore[operator]
    tables = []
    for one in (model, fine):
        changes = {"logit": RemoveDirection("unembedding"), "predictor": ErasePredictor.fit(one, PLAYS)}
        frame = embedding_effects(one, PLAYS[:2], changes, metric="logprob", samples=1, read_mlps=True)
        tables.append(frame.select_dtypes("number"))
    near = 0.1 if dtype == torch.bfloat16 else 1e-3
    for column in ("size", "clean", "changed", "mlp_changed"):
        torch.testing.assert_close(
            *(torch.tensor(one[column].values) for one in tables), atol=near, rtol=near
        )


def test_bad_input_is_refused(tiny_model: HookedTransformer) -> None:
    with pytest.raises(InputError, match="table: expected one of embedding, unembedding, got 'logits'"):
        RemoveDirection("logits")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="facts: expected one or more Facts"):
        ErasePredictor.fit(tiny_model, [])
    with pytest.raises(InputError, match="facts: expected a relation with at least two objects"):
        ErasePredictor.fit(tiny_model, ALONE)
