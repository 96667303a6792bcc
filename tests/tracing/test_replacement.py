"""Corruptions without noise: a replaced subject is another prompt, and the mean is the mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

from mechstyle import organisms
from mechstyle.errors import InputError, TextError
from mechstyle.facts import Fact
from mechstyle.runs import logits
from mechstyle.tokens import encode, encode_fact
from mechstyle.tracing.corrupted import Corrupted
from mechstyle.tracing.replacement import MeanAblation, TokenReplacement
from mechstyle.tracing.setup import prepare_fact
from tests.checkpoints import KINDS
from tests.conftest import Architectures
from tests.tracing.setups import clean_value, corrupted_values

FACT = Fact("The instrument of {} is the", "Miles Davis", " trumpet")
TWINS = ["Bill Evans", "Bo"]
KNOWN = Fact("{} plays the", "Miles Davis", " trumpet")


def replaced(
    model: Any, fact: Fact, how: TokenReplacement | None = None, samples: int = 10, seed: int = 0
) -> Corrupted:
    how = TokenReplacement() if how is None else how
    return how.embeddings(model, fact, encode_fact(model, fact), samples=samples, seed=seed)


def require_really_run(model: Any, fact: Fact, how: TokenReplacement, samples: int = 3) -> None:
    setup = prepare_fact(model, fact, corruption=how, metric="logprob", samples=samples)
    question = setup.questions[0].question
    side = setup.corrupted(question)
    found = logits(model, side.ids, hooks=list(side.hooks))
    assert len(found) == len(setup.record["noise"]["subjects"]) > 0
    for row, subject in zip(found, setup.record["noise"]["subjects"], strict=True):
        other = encode_fact(model, Fact(fact.template, subject, fact.target))
        assert len(other) == len(setup.encoded)
        wanted = logits(model, other.ids[None, :-1])[0]
        torch.testing.assert_close(row, wanted, atol=2e-5, rtol=1e-5)
        assert not torch.allclose(row, logits(model, setup.encoded.ids[None, :-1])[0], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_replaced_embeddings_are_a_run_of_the_other_subjects_tokens_on_every_architecture(
    architectures: Architectures, kind: str
) -> None:
    require_really_run(architectures(kind), FACT, TokenReplacement(TWINS))


def test_replaced_embeddings_are_a_run_of_the_other_subjects_tokens_on_a_bridge(tiny_folder: Path) -> None:
    bridge = TransformerBridge.boot_transformers(str(tiny_folder), device="cpu")
    require_really_run(bridge, FACT, TokenReplacement(TWINS[0]))


def test_found_counterparts_are_a_run_of_their_own_tokens(organism: HookedTransformer) -> None:
    require_really_run(organism, KNOWN, TokenReplacement(), samples=4)


def test_counterparts_are_subjects_of_the_relation_with_as_many_tokens_and_another_object(
    organism: HookedTransformer,
) -> None:
    taught = organisms.facts("organism-m")
    for relation, label in (("plays_instrument", "plays_instrument"), ("plays_instrument", "P1303")):
        fact = Fact("{} plays the", "Roy Hargrove", " trumpet", relation=label)
        found = replaced(organism, fact, samples=6, seed=2)
        encoded = encode_fact(organism, fact)
        assert found.samples == 6
        for name in found.record["subjects"]:
            told = [one for one in taught if one.subject == name]
            assert relation in {one.relation for one in told}
            assert "trumpet" not in {one.object for one in told}
            other = encode_fact(organism, Fact(fact.template, name, fact.target))
            assert (other.subject, len(other)) == (encoded.subject, len(encoded))


def test_more_samples_keep_the_first_counterparts_and_another_seed_finds_others(
    organism: HookedTransformer,
) -> None:
    few, many = (replaced(organism, KNOWN, samples=count, seed=1) for count in (2, 5))
    assert many.record["subjects"][:2] == few.record["subjects"]
    assert torch.equal(many.values[:2], few.values)
    assert len(set(many.record["subjects"])) == 5
    assert replaced(organism, KNOWN, samples=5, seed=2).record["subjects"] != many.record["subjects"]


def test_a_list_of_ones_own_is_searched_and_may_have_fewer_than_asked_for(
    tiny_model: HookedTransformer,
) -> None:
    names = ["Danielle Darrieux", *TWINS, "Miles Davis", TWINS[0]]
    found = replaced(tiny_model, FACT, TokenReplacement(reference=names), samples=10)
    assert sorted(found.record["subjects"]) == TWINS
    assert found.samples == 2
    setup = prepare_fact(tiny_model, FACT, corruption=TokenReplacement(reference=names), samples=10)
    assert (setup.samples, setup.record["samples"]) == (2, 2)


def test_names_of_ones_own_list_that_are_known_to_have_the_target_are_no_choice(
    organism: HookedTransformer,
) -> None:
    taught = organisms.facts("organism-m")
    fact = next(one for one in taught if one.relation == "plays_instrument" and one.object == "trumpet")
    asked = Fact("{} plays the", fact.subject, " trumpet")
    alike = [one.subject for one in taught if one.object == "trumpet" and one.subject != fact.subject]
    encoded = encode_fact(organism, asked)
    same = [
        name
        for name in alike
        if encode_fact(organism, Fact("{} plays the", name, " trumpet")).subject == encoded.subject
    ]
    other = replaced(organism, asked, samples=1).record["subjects"]
    assert same
    assert replaced(organism, asked, TokenReplacement(reference=[*same, *other])).record["subjects"] == other
    with pytest.raises(TextError, match="Those that are known to have its target are no choice"):
        replaced(organism, asked, TokenReplacement(reference=same))


def test_counterparts_given_are_the_samples_in_their_order(tiny_model: HookedTransformer) -> None:
    setup = prepare_fact(tiny_model, FACT, corruption=TokenReplacement(TWINS), metric="logprob", samples=10)
    assert setup.samples == 2
    assert setup.record["noise"]["subjects"] == TWINS
    for row, subject in enumerate(TWINS):
        other = prepare_fact(tiny_model, Fact(FACT.template, subject, FACT.target), metric="logprob")
        found = corrupted_values(tiny_model, setup, slice(row, row + 1))
        np.testing.assert_allclose(found, clean_value(tiny_model, other), atol=1e-5)


def test_mean_ablation_puts_the_mean_over_the_reference_tokens_at_each_subject_token(
    tiny_model: HookedTransformer,
) -> None:
    subjects = ["Paris", "Zürich", "Paris"]
    tokens = [int(token) for subject in subjects for token in encode(tiny_model, subject).ids]
    mean = torch.stack([tiny_model.W_E[token] for token in tokens]).detach().double().mean(0).float()
    encoded = encode_fact(tiny_model, FACT)
    found = MeanAblation(subjects).embeddings(tiny_model, FACT, encoded, samples=10, seed=0)
    assert encoded.subject is not None
    assert not found.added
    torch.testing.assert_close(found.values, mean.expand(1, len(encoded.subject), -1))
    assert found.record["reference"]["n_tokens"] == len(tokens)
    packaged = MeanAblation().embeddings(tiny_model, FACT, encoded, samples=1, seed=0)
    assert packaged.record["reference"]["n_subjects"] == 200


def test_a_subject_that_is_the_mean_already_is_not_corrupted(tiny_model: HookedTransformer) -> None:
    fact = Fact("The day in {} was", "Zürich", " long")
    setup = prepare_fact(tiny_model, fact, corruption=MeanAblation([" Zürich"]), metric="logprob")
    np.testing.assert_allclose(corrupted_values(tiny_model, setup), clean_value(tiny_model, setup), rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_replacements_have_the_models_own_precision(architectures: Architectures, dtype: torch.dtype) -> None:
    model = architectures("gpt2", dtype)
    found = replaced(model, FACT, TokenReplacement(TWINS[0]))
    assert found.values.dtype == dtype
    assert MeanAblation().embeddings(
        model, FACT, encode_fact(model, FACT), samples=1, seed=0
    ).values.dtype == (dtype)


def test_a_counterpart_with_another_number_of_tokens_is_shown_beside_the_subject(
    tiny_model: HookedTransformer,
) -> None:
    with pytest.raises(TextError) as caught:
        replaced(tiny_model, FACT, TokenReplacement("Danielle Darrieux"))
    message = str(caught.value)
    assert "expected a subject with 2 tokens and all else as it is, got 'Danielle Darrieux' with" in message
    assert "subject:     ' Miles' ' Davis'" in message
    assert "replacement: ' D" in message


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            TokenReplacement(reference=["Danielle Darrieux", "Rome"]),
            "none of 2 reference subjects has 2 tokens",
        ),
        (TokenReplacement("Miles Davis"), "expected another subject than 'Miles Davis'"),
    ],
)
def test_subjects_without_a_counterpart_are_refused(
    tiny_model: HookedTransformer, how: TokenReplacement, message: str
) -> None:
    with pytest.raises(TextError, match=message):
        replaced(tiny_model, FACT, how)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TokenReplacement("A", reference=["B"]), "a subject came as well"),
        (lambda: TokenReplacement(" "), r"subject: expected names, got an empty one in \[' '\]"),
        (lambda: TokenReplacement(reference=["A", ""]), "subjects: expected names"),
        (lambda: TokenReplacement([]), "subject: expected at least one"),
        (lambda: TokenReplacement(3), "subject: expected a list of names, got 3"),
        (lambda: TokenReplacement(reference="A"), "subjects: expected a list of names, got 'A'"),
        (lambda: MeanAblation([]), "subjects: expected at least one reference subject"),
        (lambda: MeanAblation([1]), "subjects: expected a list of names"),
    ],
)
def test_bad_replacements_are_refused_when_they_are_made(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
