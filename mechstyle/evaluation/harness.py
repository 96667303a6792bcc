"""Tasks of the lm-evaluation-harness (the optional extra ``harness``), before an edit and under it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Final, Literal

from mechstyle.answers import require_positive
from mechstyle.cases import Case
from mechstyle.errors import InputError
from mechstyle.evaluation.edits import AnyEdit
from mechstyle.evaluation.given import json_hash
from mechstyle.evaluation.harness_answers import HarnessAnswers
from mechstyle.evaluation.harness_library import harness_library, random_as_it_was
from mechstyle.evaluation.measure import About, Conditions, Metric, Reader, Row
from mechstyle.models import HookedModel

__all__ = ["HarnessTasks", "harness_model"]

Better = Literal["higher", "lower", "same"]

_BETTER: Final[Mapping[bool | None, Better]] = {True: "higher", False: "lower", None: "same"}


@dataclass(frozen=True)
class _Summary:
    """How the harness sums up a metric, as a ratio of sums of rows.

    Args:
        value: of what the harness has for a document.
        weight: of the document; None where all count alike.
        exponential: the ratio's exponential is meant.
    """

    value: Callable[[Any], float]
    weight: Callable[[Any], float] | None = None
    exponential: bool = False


_SUMMARIES: Final[Mapping[str, _Summary]] = {
    "mean": _Summary(float),
    "nanmean": _Summary(float),
    "perplexity": _Summary(lambda logp: -float(logp), lambda logp: 1.0, exponential=True),
    "weighted_perplexity": _Summary(
        lambda pair: -float(pair[0]), lambda pair: float(pair[1]), exponential=True
    ),
    "bits_per_byte": _Summary(lambda pair: -float(pair[0]) / math.log(2), lambda pair: float(pair[1])),
}
"""The harness's aggregations that single documents add up to, by their names there."""


@dataclass(frozen=True)
class HarnessTasks:
    """Any tasks of the lm-evaluation-harness, asked of the model by our own runs.

    Columns: ``kind`` (``{task}_{metric}``, with the filter's name where it has one), ``value`` and, for
    perplexities, ``weight``. There is a row for each document and metric where the harness takes a mean, a
    perplexity or bits per byte over documents; what it sums up in another way (F1, BLEU) has one row a
    metric, and so no interval. Groups are their single tasks.

    Prompts are not cut: one that does not fit into the model's context is an error. Generation is greedy.
    An edit's context stands before every context, and its answers are looked up.

    Args:
        tasks: names that the harness knows, paths of its YAML files, or configurations of one's own, with
            what such a file holds.
        limit: documents of each task, from the first; None takes all.
        num_fewshot: examples in each prompt; None leaves it to the task.

    Raises:
        InputError: no tasks, or something else among them.
        RangeError: ``limit`` is below 1 or ``num_fewshot`` below 0.

    >>> HarnessTasks(("arc_easy",), limit=100).settings()["limit"]  # doctest: +SKIP
    100
    """

    name: ClassVar[str] = "harness"
    about: ClassVar[About] = "model"
    tasks: tuple[str | Mapping[str, Any], ...]
    limit: int | None = None
    num_fewshot: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.tasks, (str, Mapping)) or not isinstance(self.tasks, Sequence) or not self.tasks:
            raise InputError(
                f"HarnessTasks.tasks: expected a list of names or configurations, got {self.tasks!r}."
            )
        for index, task in enumerate(self.tasks):
            if not isinstance(task, str) and not (isinstance(task, Mapping) and "task" in task):
                raise InputError(
                    f"HarnessTasks.tasks[{index}]: expected a name or a configuration with the key 'task', "
                    f"got {task!r}."
                )
        object.__setattr__(self, "tasks", tuple(self.tasks))
        if self.limit is not None:
            require_positive("HarnessTasks.limit", self.limit)
        if self.num_fewshot is not None and self.num_fewshot != 0:
            require_positive("HarnessTasks.num_fewshot", self.num_fewshot)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those that the tasks have; the tasks are loaded.

        Raises:
            InputError: the harness is not installed, or cannot load a task.
        """
        return tuple(self._metric(*one) for one in self._asked())

    def settings(self) -> dict[str, Any]:
        """Which tasks, how much of them, and the harness's version."""
        return {
            "tasks": [task if isinstance(task, str) else task["task"] for task in self.tasks],
            "configurations_sha256": json_hash([_written(task) for task in self.tasks]),
            "limit": self.limit,
            "num_fewshot": self.num_fewshot,
            "lm_eval": harness_library().version,
        }

    def prepare(self, model: HookedModel, cases: Sequence[Case], conditions: Conditions) -> Reader:
        """Load the tasks with their data.

        Raises:
            InputError: the harness is not installed, or cannot load a task.
        """
        loaded, library = self._loaded, harness_library()
        for task in loaded["tasks"].values():
            self._set_examples(task, conditions.seed)

        def read(edit: AnyEdit | None, indices: Sequence[int]) -> list[Row]:
            for task in loaded["tasks"].values():
                task.set_fewshot_seed(seed=conditions.seed)
            with random_as_it_was():
                results = library.evaluator.evaluate(
                    lm=harness_model(HarnessAnswers(model, edit, conditions)),
                    task_dict=loaded,
                    limit=self.limit,
                    bootstrap_iters=0,
                    log_samples=True,
                )
            return list(self._rows(results))

        return read

    @cached_property
    def _loaded(self) -> dict[str, Any]:
        library = harness_library()
        wanted = [task if isinstance(task, str) else dict(task) for task in self.tasks]
        # Only names, and groups of names, need the index of all tasks, which takes long to read.
        own = all(isinstance(task, dict) and isinstance(task["task"], str) for task in wanted)
        try:
            with random_as_it_was():
                manager = library.tasks.TaskManager(include_defaults=not own)
                found: dict[str, Any] = manager.load(wanted)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            names = ", ".join(task if isinstance(task, str) else str(task["task"]) for task in self.tasks)
            raise InputError(
                f"HarnessTasks.tasks: lm-evaluation-harness cannot load {names}: {reason}. Check the names "
                "(lm-eval ls tasks) and, where the data has to be fetched, the network."
            ) from error
        return found

    def _set_examples(self, task: Any, seed: int) -> None:
        own = task.get_config("num_fewshot")
        if own is None or (self.num_fewshot is not None and own != 0):
            task.set_config(key="num_fewshot", value=self.num_fewshot or 0)
        task.set_fewshot_seed(seed=seed)

    def _asked(self) -> Iterator[tuple[str, str, str]]:
        """Task, metric and filter of everything that is measured."""
        for name, task in self._loaded["tasks"].items():
            filters = task.get_config("filter_list") or [{"name": "none"}]
            for metric in task.aggregation():
                for one in filters:
                    yield name, metric, one["name"]

    def _summary(self, task: str, metric: str) -> _Summary | None:
        """How documents add up to the metric; None where they do not."""
        aggregation = self._loaded["tasks"][task].aggregation()[metric]
        registry = harness_library().registry
        names = (name for name in _SUMMARIES if registry.get_aggregation(name) is aggregation)
        found = next(names, None)
        return None if found is None else _SUMMARIES[found]

    def _metric(self, task: str, metric: str, chosen: str) -> Metric:
        kind, summary = _kind(task, metric, chosen), self._summary(task, metric)
        weighted = summary is not None and summary.weight is not None
        return Metric(
            kind,
            "value",
            f"lm-evaluation-harness, {metric}",
            kind=kind,
            weight="weight" if weighted else None,
            exponential=summary is not None and summary.exponential,
            better=_BETTER[self._loaded["tasks"][task].higher_is_better().get(metric)],
        )

    def _rows(self, results: Mapping[str, Any]) -> Iterator[Row]:
        for task, metric, chosen in self._asked():
            kind, summary = _kind(task, metric, chosen), self._summary(task, metric)
            if summary is None:
                value = results["results"][task][f"{metric},{chosen}"]
                yield {"item": kind, "kind": kind, "value": _plain(float(value)), "weight": None}
                continue
            for sample in results["samples"][task]:
                if sample["filter"] == chosen and metric in sample:
                    found = sample[metric]
                    yield {
                        "item": f"{kind}:{sample['doc_id']}",
                        "kind": kind,
                        "value": _plain(summary.value(found)),
                        "weight": None if summary.weight is None else summary.weight(found),
                    }


def harness_model(answers: HarnessAnswers) -> Any:
    """A model that ``lm_eval.evaluate`` takes.

    Raises:
        InputError: the harness is not installed.

    >>> lm = harness_model(HarnessAnswers(model, None, Conditions(False)))  # doctest: +SKIP
    """
    harness_library()
    from lm_eval.api.model import LM

    class AnsweringModel(LM):
        """Every question goes to ``answers``."""

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            return answers.loglikelihood([one.args for one in requests])

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            return answers.loglikelihood_rolling([one.args[0] for one in requests])

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            return answers.generate_until([one.args for one in requests])

    return AnsweringModel()


def _written(task: str | Mapping[str, Any]) -> str | dict[str, str]:
    """A configuration as text; a function is known by its name."""
    if isinstance(task, str):
        return task
    named = {key: getattr(value, "__qualname__", value) for key, value in task.items()}
    return {key: str(value) for key, value in named.items()}


def _kind(task: str, metric: str, chosen: str) -> str:
    return f"{task}_{metric}" if chosen == "none" else f"{task}_{metric} ({chosen})"


def _plain(value: float) -> float | None:
    """The number for JSON, which knows no NaN."""
    return value if math.isfinite(value) else None
