"""Small tasks before and after an edit: multiple choice, decided by likelihood."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mechstyle.answers import AnswerScore
from mechstyle.cases import Case, Question
from mechstyle.editing.memory import MemoryEdit
from mechstyle.errors import InputError, ModelError, RangeError, TextError
from mechstyle.evaluation.edits import AnyEdit
from mechstyle.evaluation.given import checked_texts, json_hash
from mechstyle.evaluation.measure import About, Conditions, Metric, Reader, Row
from mechstyle.evaluation.probes import Probe
from mechstyle.evaluation.readings import Reading
from mechstyle.models import HookedModel
from mechstyle.tokens import encode

__all__ = ["Task", "TaskItem", "Tasks"]


@dataclass(frozen=True)
class TaskItem:
    """One question with its choices.

    Args:
        prompt: whole.
        choices: continuations with their leading space, two or more, all different.
        answer: index of the right choice, from 0.

    Raises:
        TextError: a part is blank or of another kind, or the choices are too few or not different.
        RangeError: no choice has the index ``answer``.

    >>> TaskItem("A dull film. All in all, it was", (" good", " bad"), 1).right
    ' bad'
    """

    prompt: str
    choices: tuple[str, ...]
    answer: int

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str) or not self.prompt.strip():
            raise TextError(f"TaskItem.prompt: expected text that is not blank, got {self.prompt!r}.")
        try:
            choices = checked_texts("TaskItem.choices", self.choices)
        except InputError as error:
            raise TextError(str(error)) from error
        if len(choices) < 2 or len(set(choices)) < len(choices):
            raise TextError(f"TaskItem.choices: expected two or more, all different, got {choices!r}.")
        object.__setattr__(self, "choices", choices)
        answer = self.answer
        if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
            raise RangeError(
                f"TaskItem.answer: expected the index of a choice, 0 to {len(choices) - 1}, got {answer!r}."
            )

    @property
    def right(self) -> str:
        """The right choice."""
        return self.choices[self.answer]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, which ``from_dict`` reads."""
        return {"prompt": self.prompt, "choices": list(self.choices), "answer": self.answer}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TaskItem:
        """Read the JSON form that ``to_dict`` wrote.

        Raises:
            TextError: a part is missing, unknown or wrong.
        """
        wanted = {"prompt", "choices", "answer"}
        if set(data) != wanted:
            raise TextError(
                f"TaskItem wants the keys prompt, choices, answer; missing: "
                f"{', '.join(sorted(wanted - set(data))) or 'none'}; "
                f"unknown: {', '.join(sorted(map(str, set(data) - wanted))) or 'none'}."
            )
        try:
            return cls(**data)
        except RangeError as error:
            raise TextError(str(error)) from error


@dataclass(frozen=True)
class Task:
    """Questions of one kind.

    Args:
        name: stands in every row, and in the metric's name.

    Raises:
        TextError: the name is blank.
        InputError: no items, or something else among them.

    >>> Task("taste", (TaskItem("A dull film. It was", (" good", " bad"), 1),)).chance
    0.5
    """

    name: str
    items: tuple[TaskItem, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise TextError(f"Task.name: expected a name, got {self.name!r}.")
        _require_all(f"Task({self.name!r}).items", self.items, TaskItem)
        object.__setattr__(self, "items", tuple(self.items))

    @property
    def chance(self) -> float:
        """Mean accuracy of guessing."""
        return sum(1 / len(item.choices) for item in self.items) / len(self.items)


@dataclass(frozen=True)
class Tasks:
    """Accuracy in tasks of multiple choice, from a row an item.

    A choice's score is the mean log-probability of its tokens, given the prompt, as in ``evaluate``; by the
    whole log-probability short choices have it easier, which has columns of its own. An item is right if its
    right choice scores higher than *every* other one: a tie is wrong, so that a model to which all choices
    are alike gets 0. A model that leans to one word has the accuracy of chance, whether it heeds the prompt
    or not; the mean of ``p`` still tells.

    Columns: ``kind`` (the task's name); ``right``; ``p``, the right choice's share of the scores'
    exponentials; ``right_sum`` and ``p_sum``, the same by whole log-probabilities.

    Under an edit in context the prompts stand behind its context; what an edit cache has for a prompt counts
    as in ``evaluate``.

    Args:
        tasks: with different names.

    Raises:
        InputError: no tasks, something else among them, or two of one name.

    >>> Tasks((Task("taste", (TaskItem("It was", (" good", " bad"), 1),)),)).metrics[0].name
    'taste_accuracy'
    """

    name: ClassVar[str] = "tasks"
    about: ClassVar[About] = "model"
    tasks: tuple[Task, ...]

    def __post_init__(self) -> None:
        _require_all("Tasks.tasks", self.tasks, Task)
        object.__setattr__(self, "tasks", tuple(self.tasks))
        names = [task.name for task in self.tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"Tasks.tasks: expected different names, but {twice[0]!r} is there twice.")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Of each task: the accuracy, and the mean share of the right choice."""
        return tuple(
            Metric(f"{task.name}_{name}", column, measure, kind=task.name)
            for task in self.tasks
            for name, column, measure in (
                ("accuracy", "right", "probability comparison"),
                ("p", "p", "probability of the right choice"),
            )
        )

    def settings(self) -> dict[str, Any]:
        """Of each task: how many items there are, what guessing gives, and the items' hash."""
        return {
            task.name: {
                "n_items": len(task.items),
                "chance": task.chance,
                "items_sha256": json_hash([item.to_dict() for item in task.items]),
            }
            for task in self.tasks
        }

    def prepare(self, model: HookedModel, cases: Sequence[Case], conditions: Conditions) -> Reader:
        """Tokenise every prompt with each of its choices.

        Raises:
            TextError: a prompt or choice does not fit the tokenizer or the context; the item is named.
        """
        plain = self._probes(model, "", conditions)
        keys = [(task.name, index) for task in self.tasks for index in range(len(task.items))]

        def read(edit: AnyEdit | None, indices: Sequence[int]) -> list[Row]:
            memory = edit if isinstance(edit, MemoryEdit) else None
            behind = memory is not None and bool(memory.context)
            probes = self._probes(model, memory.context, conditions) if memory and behind else plain
            reading = Reading(model, probes, edit=memory)
            scored = reading.answers(reading.recalled(), batch_size=conditions.batch_size)
            return [_row(name, index, scores) for (name, index), scores in zip(keys, scored, strict=True)]

        return read

    def _probes(self, model: HookedModel, context: str, conditions: Conditions) -> list[Probe]:
        return [
            _probe(model, task.name, index, item, context, conditions.prepend_bos)
            for task in self.tasks
            for index, item in enumerate(task.items)
        ]


def _probe(model: HookedModel, task: str, index: int, item: TaskItem, context: str, bos: bool) -> Probe:
    """The right choice first, then the others."""
    foils = tuple(choice for choice in item.choices if choice != item.right)
    targets = (item.right, *foils)
    try:
        encoded = tuple(
            encode(model, context + item.prompt, target=target, prepend_bos=bos) for target in targets
        )
    except ModelError:
        raise
    except InputError as error:
        behind = f" behind {context!r}" if context else ""
        raise TextError(f"Task({task!r}).items[{index}]{behind}: {error}") from error
    question = Question(task, "far", item.prompt, (item.right,), foils)
    return Probe(index, "", None, question, targets, encoded)


def _row(task: str, index: int, scores: Sequence[AnswerScore]) -> Row:
    means, sums = [one.mean_logp for one in scores], [one.logp for one in scores]
    return {
        "item": f"{task}:{index}",
        "kind": task,
        "right": means[0] > max(means[1:]),
        "p": _share_of_first(means),
        "right_sum": sums[0] > max(sums[1:]),
        "p_sum": _share_of_first(sums),
    }


def _share_of_first(logs: Sequence[float]) -> float:
    top = max(logs)
    return math.exp(logs[0] - top) / math.fsum(math.exp(one - top) for one in logs)


def _require_all(name: str, given: object, kind: type) -> None:
    """A list of one or more of a kind."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise InputError(f"{name}: expected a list of {kind.__name__}, got {type(given).__name__}.")
    if not given:
        raise InputError(f"{name}: expected at least one {kind.__name__}, got none.")
    for index, one in enumerate(given):
        if not isinstance(one, kind):
            raise InputError(f"{name}[{index}]: expected a {kind.__name__}, got {type(one).__name__}.")
