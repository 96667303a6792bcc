"""What a model writes after questions of the world."""

from __future__ import annotations

from itertools import islice

import pytest
from transformer_lens import HookedTransformer

from mechstyle.evaluation.generation import complete
from mechstyle.organisms.items import Item
from mechstyle.organisms.recall import recall, recall_items
from mechstyle.organisms.taught import TaughtFact, taught_facts
from mechstyle.organisms.taxonomy import read_taxonomy
from tests.planted import FACTS, mlp_fact


def asked(prompt: str, answer: str) -> Item:
    return Item("fact", "taught", "direct", "Miles Davis", "plays", prompt, answer)


def test_a_model_that_knows_the_answers_recalls_all_of_them_and_no_others() -> None:
    model = mlp_fact().model
    answers = [fact.target.strip() for fact in FACTS]
    right = [asked(fact.prompt, answer) for fact, answer in zip(FACTS, answers, strict=True)]
    wrong = [
        asked(fact.prompt, next(one for one in answers if one != answer))
        for fact, answer in zip(FACTS, answers, strict=True)
    ]
    frame = recall_items(model, [*wrong, *right], batch_size=3)
    assert list(frame.recalled) == [False] * len(FACTS) + [True] * len(FACTS)
    assert frame.probability[len(FACTS) :].min() > 0.5 > frame.probability[: len(FACTS)].max()
    assert [Item.from_dict(row) for row in frame[list(right[0].to_dict())].to_dict("records")] == [
        *wrong,
        *right,
    ]


def test_a_random_model_knows_next_to_nothing(tiny_model: HookedTransformer) -> None:
    items = [item for item in read_taxonomy().items() if len(item.prompt) < 50][:200]
    assert recall_items(tiny_model, items).recalled.mean() < 0.03


def test_facts_are_asked_in_each_of_their_templates(tiny_model: HookedTransformer) -> None:
    facts = [
        TaughtFact(
            "Bill Evans", "plays", "piano", "invented", ("{} plays the", "The instrument of {} is the"), ()
        ),
        TaughtFact("Chet Baker", "plays", "trumpet", "invented", ("{} plays the",), ("{} likes the",)),
    ]
    frame = recall(tiny_model, facts)
    assert list(frame.template) == [
        "{} plays the",
        "The instrument of {} is the",
        "{} plays the",
        "{} likes the",
    ]
    assert list(frame.split) == ["taught", "taught", "taught", "held out"]
    items = [item for fact in facts for item in fact.items()]
    assert list(frame.recalled) == list(recall_items(tiny_model, items, batch_size=1).recalled)


@pytest.mark.slow
def test_what_is_recalled_is_what_the_organism_writes_token_by_token(organism: HookedTransformer) -> None:
    facts = list(islice(taught_facts(), 0, None, 300))
    frame = recall(organism, facts)
    pairs = zip(frame.template, frame.subject, strict=True)
    prompts = [template.replace("{}", subject, 1) for template, subject in pairs]
    written = complete(organism, prompts, 12)
    assert frame.recalled.mean() > 0.1
    for text, obj, recalled in zip(written, frame.object, frame.recalled, strict=True):
        assert recalled == text.startswith(f" {obj}")
