"""What a model writes after each case's prompts, as a judge sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from mechstyle.cases import Case
from mechstyle.errors import InputError
from mechstyle.evaluation.edits import AnyEdit
from mechstyle.evaluation.generations import Generations
from mechstyle.evaluation.judging.judge import Judge, Judged, Verdict, require_label
from mechstyle.evaluation.measure import About, Conditions, Metric, Reader, Row
from mechstyle.models import HookedModel

__all__ = ["JudgedGenerations"]


@dataclass(frozen=True)
class JudgedGenerations:
    """Texts written after each case's prompts, and the labels that a judge gives them.

    Cases without prompts of their own are asked their rewrite prompt. How texts are written, also under an
    edit in context or one that has answers of its own, is as in ``Generations``; with the same settings they
    are the same texts, but end before an end-of-text token. A row is a prompt, with ``text``, ``label``,
    ``score``, ``right`` and ``cost``. A text about which the judge cannot tell is ``unjudged``, and neither
    right nor wrong.

    Args:
        judge: its accuracy stands in the settings, and so in every result.
        wanted: the label, or labels, that are right.
        max_length: tokens of a prompt and its text together, as in ``Generations``.
        top_k: 1 writes the most probable token each time; see ``sample``.
        temperature: see ``sample``.
        name: of the table; two judges in one suite need two.

    Raises:
        InputError: ``judge`` is no judge, or never says ``wanted``.
        RangeError: a number is out of range.

    Example:
        >>> [metric.name for metric in JudgedGenerations(TargetJudge(), "new").metrics]
        ['judged_rate', 'judged_unjudged']
    """

    about: ClassVar[About] = "requests"
    judge: Judge
    wanted: str | tuple[str, ...]
    max_length: int = 40
    top_k: int | None = 1
    temperature: float = 1.0
    name: str = "judged"

    def __post_init__(self) -> None:
        if not isinstance(self.judge, Judge):
            raise InputError(
                f"judge: expected a Judge, such as TargetJudge(), got {type(self.judge).__name__}; see its "
                "protocol for what is missing."
            )
        wanted = (self.wanted,) if isinstance(self.wanted, str) else tuple(self.wanted)
        if not wanted:
            raise InputError(
                f"wanted: expected a label of the judge ({', '.join(self.judge.labels)}), got none."
            )
        for label in wanted:
            require_label("wanted", label, self.judge.labels)
        object.__setattr__(self, "wanted", wanted)
        self._writing()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """How many of the judged texts have the wanted label, and how many texts could not be judged."""
        measure = f"free generation, judged by {self.judge.name}"
        return (
            Metric(f"{self.name}_rate", "right", measure),
            Metric(f"{self.name}_unjudged", "unjudged", measure, better="lower"),
        )

    def settings(self) -> dict[str, Any]:
        """The judge with its accuracy, what is wanted of it, and how texts are written."""
        written = self._writing().settings()
        return {
            "wanted": list(self.wanted),
            **{name: written[name] for name in ("max_length", "top_k", "temperature")},
            "judge": self.judge.settings(),
        }

    def prepare(self, model: HookedModel, cases: Sequence[Case], conditions: Conditions) -> Reader:
        """Tokenise every prompt.

        Raises:
            TextError: a prompt cannot be tokenised or leaves no room for a token; case and prompt are named.
        """
        asked = [replace(case, prompts=_prompts(case), references=()) for case in cases]
        write = self._writing().prepare(model, asked, conditions)

        def read(edit: AnyEdit | None, indices: Sequence[int]) -> list[Row]:
            rows = [row for row in write(edit, indices) if row["kind"] == "generation"]
            verdicts = self.judge.judge([self._judged(asked[row["request"]], row) for row in rows])
            return [self._row(row, verdict) for row, verdict in zip(rows, verdicts, strict=True)]

        return read

    def _writing(self) -> Generations:
        return Generations(self.max_length, self.top_k, self.temperature, past_end=False)

    def _judged(self, case: Case, row: Row) -> Judged:
        request = case.request
        wanted = self.wanted[0] if len(self.wanted) == 1 else None
        return Judged(row["text"], row["prompt"], wanted, request.new_target, request.fact.target)

    def _row(self, row: Row, verdict: Verdict) -> Row:
        kept = ("request", "subject", "relation", "kind", "item", "prompt", "text", "n_tokens")
        return {
            **{name: row[name] for name in kept},
            "label": verdict.label,
            "score": verdict.score,
            "right": None if verdict.label is None else verdict.label in self.wanted,
            "unjudged": verdict.label is None,
            "cost": verdict.cost,
        }


def _prompts(case: Case) -> tuple[str, ...]:
    return case.prompts or (case.request.fact.prompt,)
