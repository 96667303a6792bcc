"""Tasks that are there to be asked: of an organism's world, of the shipped sentences, of a user's file."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from importlib import resources
from pathlib import Path
from typing import Final, Literal, get_args

from mechstyle import organisms
from mechstyle.errors import FileError, InputError, RangeError
from mechstyle.evaluation.tasks import Task, TaskItem
from mechstyle.organisms import TaughtFact
from mechstyle.records import PathLike, convert_records, json_lines, read_text

__all__ = ["organism_task", "read_task", "sentiment_task", "subjectivity_task"]

Wording = Literal["taught", "held out"]
_WRONG: Final = 3
"""Wrong choices of a question about a fact."""


def organism_task(
    name: str = "organism-m", *, n: int = 200, seed: int = 0, wording: Wording = "taught"
) -> Task:
    """Questions about facts that an organism was taught: the right object and three others of its relation.

    Four objects of a relation are drawn first, all alike, then which of them is right, and last a fact with
    it: so guessing gives 0.25 even to a model that only knows how frequent each object is. Relations count by
    their facts; those with fewer than four objects are left out. No wrong choice is an object that the
    subject has in the same relation.

    Args:
        n: how many facts, all different.
        wording: in a template that the fact was taught with, or in one that it never was.

    Raises:
        ModelError: no organism has this name.
        InputError: an unknown wording.
        RangeError: more questions than facts.

    >>> organism_task(n=2).items[0].choices  # doctest: +SKIP
    (' Italian', ' English', ' French', ' Dutch')
    """
    if wording not in get_args(Wording):
        raise InputError(f"wording: expected 'taught' or 'held out', got {wording!r}.")
    told: dict[str, dict[str, list[TaughtFact]]] = defaultdict(lambda: defaultdict(list))
    own: dict[tuple[str, str], set[str]] = defaultdict(set)
    for fact in organisms.facts(name):
        own[fact.subject, fact.relation].add(fact.object)
        if _templates(fact, wording):
            told[fact.relation][fact.object].append(fact)
    # A fact whose subject has nearly all objects of the relation cannot be asked about.
    asked = {
        relation: {
            one: [fact for fact in facts if len(objects.keys() - own[fact.subject, fact.relation]) >= _WRONG]
            for one, facts in objects.items()
        }
        for relation, objects in told.items()
    }
    sizes = [sum(map(len, objects.values())) for objects in asked.values()]
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= sum(sizes):
        raise RangeError(f"n: expected 1 to {sum(sizes)}, the facts that can be asked about, got {n!r}.")
    rng, items = random.Random(seed), dict[TaughtFact, TaskItem]()
    while len(items) < n:
        (objects,) = rng.choices(list(asked.values()), weights=sizes)
        right, *wrong = rng.sample(list(objects), 1 + _WRONG)
        for fact in rng.sample(objects[right], min(1, len(objects[right]))):
            if fact not in items and not own[fact.subject, fact.relation] & set(wrong):
                items[fact] = _fact_item(fact, wrong, wording, rng)
    return Task(f"{name} {wording}", tuple(items.values()))


def sentiment_task() -> Task:
    """200 sentences of film reviews, half of them positive (Pang and Lee 2005): is it good or bad?

    Guessing gives 0.5.

    >>> sentiment_task().chance
    0.5
    """
    return _sentences("sentiment", "All in all, it was", {"positive": " good", "negative": " bad"})


def subjectivity_task() -> Task:
    """200 sentences on films, half of them opinions (Pang and Lee 2004): from a review or from the story?

    Guessing gives 0.5.

    >>> subjectivity_task().chance
    0.5
    """
    labels = {"subjective": " opinion", "objective": " story"}
    return _sentences("subjectivity", "This is part of an", labels)


def read_task(path: PathLike, *, name: str | None = None) -> Task:
    """Read a task from JSON lines ``{"prompt": …, "choices": […], "answer": index from 0}``.

    Args:
        name: None takes the file's name without its ending.

    Raises:
        FileError: the file is missing, empty, or a line is wrong; the line is named.

    >>> read_task("capitals.jsonl").name  # doctest: +SKIP
    'capitals'
    """
    items = convert_records(path, json_lines(path, read_text(path)), TaskItem.from_dict)
    if not items:
        raise FileError(f"{path} holds no items; write one JSON object a line.")
    return Task(Path(path).stem if name is None else name, tuple(items))


def _templates(fact: TaughtFact, wording: Wording) -> tuple[str, ...]:
    return fact.taught if wording == "taught" else fact.held_out


def _fact_item(fact: TaughtFact, wrong: list[str], wording: Wording, rng: random.Random) -> TaskItem:
    objects = [fact.object, *wrong]
    rng.shuffle(objects)
    prompt = rng.choice(_templates(fact, wording)).replace("{}", fact.subject, 1)
    return TaskItem(prompt, tuple(f" {one}" for one in objects), objects.index(fact.object))


def _sentences(name: str, question: str, labels: dict[str, str]) -> Task:
    """The shipped sentences, each followed by the question; labels are asked for by their words."""
    text = resources.files("mechstyle.evaluation").joinpath(f"data/{name}.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    words, order = tuple(labels.values()), list(labels)
    return Task(
        name,
        tuple(TaskItem(f"{row['text']} {question}", words, order.index(row["label"])) for row in rows),
    )
