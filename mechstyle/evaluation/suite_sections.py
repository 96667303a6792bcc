"""The sections of a suite file: what each may say, and the measure that it asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from mechstyle import organisms
from mechstyle.cases import Case, Question
from mechstyle.documents import text_stream
from mechstyle.errors import InputError
from mechstyle.evaluation.divergence import Divergence
from mechstyle.evaluation.essence import Essence
from mechstyle.evaluation.generations import Generations
from mechstyle.evaluation.harness import HarnessTasks
from mechstyle.evaluation.measure import Measure
from mechstyle.evaluation.questions import Questions
from mechstyle.evaluation.request_scores import RequestScores
from mechstyle.evaluation.task_files import organism_task, read_task, sentiment_task, subjectivity_task
from mechstyle.evaluation.tasks import Task, Tasks
from mechstyle.evaluation.text_perplexity import HeldOutPerplexity
from mechstyle.out_of_scope import far_questions, with_edit_in_front
from mechstyle.rewordings import RewordingKind, robustness_questions
from mechstyle.true_false import true_false_questions

__all__ = ["SECTIONS", "Section", "Sources"]

WORDS: Final = 12
"""Of a text, before which the next token is compared."""


@dataclass(frozen=True)
class Sources:
    """Where sections take what they do not say themselves.

    Args:
        organism: the embedded model that is evaluated; None for any other.
        folder: of the suite file, in which its relative paths start.
        seed: of whatever is drawn.
    """

    organism: str | None
    folder: Path
    seed: int

    def texts(self, section: str, given: str | None, n: int) -> tuple[str, ...]:
        """The first texts of a source, or of the novels that an embedded model has not read.

        Raises:
            InputError: no source for a model that brings no texts.
            FileError: the source is missing, empty or not text.
        """
        if given is not None:
            found = text_stream(given if given.startswith("hub:") else self.folder / given)
            return tuple(islice(found, n))
        if self.organism is None:
            raise InputError(
                f"[{section}] text: the model brings no texts of its own; name text that no edit is about, "
                'such as text = "held_out.txt".'
            )
        return tuple(organisms.heldout_prose(self.organism)[:n])


class Section(BaseModel):
    """One section; what a file may not say in it is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def measure(self, cases: Sequence[Case], sources: Sources) -> Measure:
        """The measure that the section asks for."""
        raise NotImplementedError

    def extended(self, cases: Sequence[Case], sources: Sources) -> list[Case]:
        """The cases with what the section adds to them."""
        return list(cases)


class ScoresSection(Section):
    """[scores]: efficacy, paraphrase, neighbourhood."""

    reduce: Literal["mean", "sum"] = "mean"
    generate: bool = False

    def measure(self, cases: Sequence[Case], sources: Sources) -> Measure:
        """``RequestScores``."""
        return RequestScores(self.reduce, self.generate)


class QuestionsSection(Section):
    """[questions]: those that the cases hold, and those that are asked for here."""

    reduce: Literal["mean", "sum"] = "mean"
    generate: bool = False
    true_false: int = Field(default=0, ge=0)
    far: int = Field(default=0, ge=0)
    ripples: bool = False
    edit_in_front: bool = False
    robustness: list[RewordingKind] = Field(default_factory=list)
    robustness_each: int = Field(default=1, ge=1)

    def measure(self, cases: Sequence[Case], sources: Sources) -> Measure:
        """``Questions``."""
        return Questions.of(cases, reduce=self.reduce, generate=self.generate)

    def extended(self, cases: Sequence[Case], sources: Sources) -> list[Case]:
        """Cases with further questions; one that a case asks already is not asked twice."""
        found = list(cases)
        if self.far:
            far = far_questions(found, n=self.far, seed=sources.seed)
            found = [_with(case, more) for case, more in zip(found, far, strict=True)]
        for more in self._generators(sources):
            found = [_with(case, more(case)) for case in found]
        return [with_edit_in_front(case) for case in found] if self.edit_in_front else found

    def _generators(self, sources: Sources) -> list[Callable[[Case], Sequence[Question]]]:
        found: list[Callable[[Case], Sequence[Question]]] = []
        n, seed = self.true_false, sources.seed
        if n:
            found.append(lambda case: true_false_questions(case.request, n=n, seed=seed))
        if self.ripples:
            if sources.organism is None:
                raise InputError(
                    "[questions] ripples: they are built from the world of an embedded model; leave them out "
                    "for another one, or write the questions into the cases."
                )
            name = sources.organism
            found.append(lambda case: organisms.ripple_questions(name, case.request))
        if self.robustness:
            kinds, each = tuple(self.robustness), self.robustness_each
            found.append(lambda case: robustness_questions(case.request, kinds=kinds, n=each, seed=seed))
        return found


class GenerationsSection(Section):
    """[generations]: fluency and consistency of sampled texts."""

    max_length: int = 100
    top_k: int = 5
    temperature: float = 1.0

    def measure(self, cases: Sequence[Case], sources: Sources) -> Measure:
        """``Generations``."""
        return Generations(max_length=self.max_length, top_k=self.top_k, temperature=self.temperature)


class EssenceSection(Section):
    """[essence]: perplexity of the subjects' own texts."""

    max_positions: int = 100

    def measure(self, cases: Sequence[Case], sources: Sources) -> Measure:
        """``Essence``."""
        return Essence(max_positions=self.max_positions)


class PerplexitySection(Section):
    """[perplexity]: of texts that no edit is about."""

    text: str | None = None
    n_texts: int = Field(default=100, ge=1)
    max_positions: int = 256

    def measure(self, cases: Sequence[Case], sources: Sources) -> Measure:
        """``HeldOutPerplexity``."""
        texts = sources.texts("perplexity", self.text, self.n_texts)
        return HeldOutPerplexity(texts, max_positions=self.max_positions)


class DivergenceSection(Section):
    """[divergence]: KL of the next token after the first words of texts that no edit is about."""

    text: str | None = None
    n_texts: int = Field(default=100, ge=1)
    words: int = Field(default=WORDS, ge=1)

    def measure(self, cases: Sequence[Case], sources: Sources) -> Measure:
        """``Divergence``."""
        texts = sources.texts("divergence", self.text, self.n_texts)
        return Divergence(tuple(" ".join(text.split()[: self.words]) for text in texts))


class TasksSection(Section):
    """[tasks]: multiple choice by likelihood."""

    names: list[Literal["organism", "sentiment", "subjectivity"]] = Field(default_factory=list)
    files: list[str] = Field(default_factory=list)
    n: int = Field(default=200, ge=1)

    def measure(self, cases: Sequence[Case], sources: Sources) -> Measure:
        """``Tasks``."""
        found = [self._named(name, sources) for name in self.names]
        found += [read_task(sources.folder / file) for file in self.files]
        if not found:
            raise InputError('[tasks] expected names = ["sentiment"] or files = ["task.jsonl"], got neither.')
        return Tasks(tuple(replace(task, items=task.items[: self.n]) for task in found))

    def _named(self, name: str, sources: Sources) -> Task:
        if name == "organism":
            if sources.organism is None:
                raise InputError('[tasks] names: "organism" asks an embedded model; leave it out for others.')
            return organism_task(sources.organism, n=self.n, seed=sources.seed)
        return sentiment_task() if name == "sentiment" else subjectivity_task()


class HarnessSection(Section):
    """[harness]: tasks of the lm-evaluation-harness, by the optional extra."""

    tasks: list[str] = Field(min_length=1)
    limit: int | None = Field(default=None, ge=1)
    num_fewshot: int | None = Field(default=None, ge=0)

    def measure(self, cases: Sequence[Case], sources: Sources) -> Measure:
        """``HarnessTasks``."""
        return HarnessTasks(tuple(self.tasks), limit=self.limit, num_fewshot=self.num_fewshot)


SECTIONS: Final[Mapping[str, type[Section]]] = MappingProxyType(
    {
        "scores": ScoresSection,
        "questions": QuestionsSection,
        "generations": GenerationsSection,
        "essence": EssenceSection,
        "perplexity": PerplexitySection,
        "divergence": DivergenceSection,
        "tasks": TasksSection,
        "harness": HarnessSection,
    }
)
"""By their names in a file. A file that has the section has the measure."""


def _with(case: Case, questions: Sequence[Question]) -> Case:
    """The case with further questions, each once."""
    asked = {(one.kind, one.prompt, one.answers) for one in case.questions}
    new = [one for one in questions if (one.kind, one.prompt, one.answers) not in asked]
    return replace(case, questions=(*case.questions, *new))
