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

    Guessing gives 0.25. Only relations with four objects or more are asked about; no wrong choice is an
    object that the subject has in the same relation.

    Args:
        n: how many facts, drawn without replacement.
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
    objects: dict[str, set[str]] = defaultdict(set)
    own: dict[tuple[str, str], set[str]] = defaultdict(set)
    for fact in organisms.facts(name):
        objects[fact.relation].add(fact.object)
        own[fact.subject, fact.relation].add(fact.object)
    others = {
        fact: sorted(objects[fact.relation] - own[fact.subject, fact.relation])
        for fact in organisms.facts(name)
        if (fact.taught if wording == "taught" else fact.held_out)
    }
    asked = [fact for fact, wrong in others.items() if len(wrong) >= _WRONG]
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= len(asked):
        raise RangeError(f"n: expected 1 to {len(asked)}, the facts that can be asked about, got {n!r}.")
    rng = random.Random(seed)
    items = tuple(_fact_item(fact, others[fact], wording, rng) for fact in rng.sample(asked, n))
    return Task(f"{name} {wording}", items)


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


def _fact_item(fact: TaughtFact, others: list[str], wording: Wording, rng: random.Random) -> TaskItem:
    template = rng.choice(fact.taught if wording == "taught" else fact.held_out)
    objects = [fact.object, *rng.sample(others, _WRONG)]
    rng.shuffle(objects)
    prompt = template.replace("{}", fact.subject, 1)
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
