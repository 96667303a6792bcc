"""The sections of a suite file: what each may say, and the measure that it asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final, Literal

from pydantic import Field

from mechstyle import organisms
from mechstyle.cases import Case, Question
from mechstyle.errors import InputError
from mechstyle.evaluation.beliefs import BeliefConsistency
from mechstyle.evaluation.divergence import Divergence
from mechstyle.evaluation.essence import Essence
from mechstyle.evaluation.generations import Generations
from mechstyle.evaluation.harness import HarnessTasks
from mechstyle.evaluation.judged_section import JudgedSection
from mechstyle.evaluation.measure import Measure
from mechstyle.evaluation.questions import Questions
from mechstyle.evaluation.request_scores import RequestScores
from mechstyle.evaluation.section import Section, Sources
from mechstyle.evaluation.task_files import organism_task, read_task, sentiment_task, subjectivity_task
from mechstyle.evaluation.tasks import Task, Tasks
from mechstyle.evaluation.text_perplexity import HeldOutPerplexity
from mechstyle.out_of_scope import far_questions, with_edit_in_front
from mechstyle.rewordings import RewordingKind, robustness_questions
from mechstyle.true_false import true_false_questions

__all__ = ["SECTIONS"]

WORDS: Final = 12
"""Of a text, before which the next token is compared."""


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
        found = _outside(found)
        if self.edit_in_front:
            found = [_with(case, with_edit_in_front(replace(case, questions=())).questions) for case in found]
        return found

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


class BeliefsSection(Section):
    """[beliefs]: whether the model's own answers imply each other; of an embedded model's world."""

    reduce: Literal["mean", "sum"] = "mean"

    def measure(self, cases: Sequence[Case], sources: Sources) -> Measure:
        """``BeliefConsistency``."""
        if sources.organism is None:
            raise InputError(
                "[beliefs]: chains are built from the world of an embedded model; leave the section out for "
                "another one, or give chains to BeliefConsistency in Python."
            )
        name = sources.organism
        chains = [chain for case in cases for chain in organisms.belief_chains(name, case.request)]
        if not chains:
            raise InputError(
                "[beliefs]: the world knows nothing that follows from these requests; leave the section out, "
                "or draw cases by axis: [cases] by_axis = true."
            )
        return BeliefConsistency(tuple(dict.fromkeys(chains)), reduce=self.reduce)


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
        found = [self._named(name, cases, sources) for name in self.names]
        found += [read_task(sources.folder / file) for file in self.files]
        if not found:
            raise InputError('[tasks] expected names = ["sentiment"] or files = ["task.jsonl"], got neither.')
        return Tasks(tuple(_first(task, self.n) for task in found))

    def _named(self, name: str, cases: Sequence[Case], sources: Sources) -> Task:
        if name == "organism":
            if sources.organism is None:
                raise InputError('[tasks] names: "organism" asks an embedded model; leave it out for others.')
            task = organism_task(sources.organism, n=self.n + len(cases), seed=sources.seed)
            edited = {case.request.fact.subject for case in cases}
            kept = [item for item in task.items if not any(one in item.prompt for one in edited)]
            return replace(task, items=tuple(kept))
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
        "beliefs": BeliefsSection,
        "generations": GenerationsSection,
        "essence": EssenceSection,
        "perplexity": PerplexitySection,
        "divergence": DivergenceSection,
        "tasks": TasksSection,
        "harness": HarnessSection,
        "judged": JudgedSection,
    }
)
"""By their names in a file. A file that has the section has the measure."""


def _outside(cases: Sequence[Case]) -> list[Case]:
    """Without the questions of what should stay that another case's edit may rightly change.

    Those are near and far questions that name another case's subject, in the prompt or as an answer: one edit
    for all cases changes them too.
    """
    subjects = [case.request.fact.subject for case in cases]
    found = []
    for place, case in enumerate(cases):
        others = [one for index, one in enumerate(subjects) if index != place and one != subjects[place]]
        kept = [
            question
            for question in case.questions
            if question.scope not in ("near", "far")
            or not any(other in text for text in (question.prompt, *question.answers) for other in others)
        ]
        found.append(replace(case, questions=tuple(kept)))
    return found


def _first(task: Task, n: int) -> Task:
    """So many items, of each right choice the first ones in turn, so that no class outweighs the others."""
    turns: Counter[int] = Counter()
    order = []
    for place, item in enumerate(task.items):
        turns[item.answer] += 1
        order.append((turns[item.answer], place))
    chosen = sorted(place for _, place in sorted(order)[:n])
    return replace(task, items=tuple(task.items[place] for place in chosen))


def _with(case: Case, questions: Sequence[Question]) -> Case:
    """The case with further questions, each once."""
    asked = {(one.kind, one.prompt, one.answers) for one in case.questions}
    new = [one for one in questions if (one.kind, one.prompt, one.answers) not in asked]
    return replace(case, questions=(*case.questions, *new))
