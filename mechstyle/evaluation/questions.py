"""Any further questions about a request: what should follow from its edit, and what should stay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from mechstyle.answers import AnswerScore, score_answers
from mechstyle.cases import Case
from mechstyle.errors import InputError, ModelError, TextError
from mechstyle.evaluation.edits import AnyEdit
from mechstyle.evaluation.generation import said
from mechstyle.evaluation.intervals import COMPARISON, EXACT, GENERATED
from mechstyle.evaluation.measure import About, Conditions, Metric, Reader, Row
from mechstyle.evaluation.probes import Probe, question_probe
from mechstyle.evaluation.readings import read_under
from mechstyle.evaluation.request_scores import Reduce, require_reduce, room_for
from mechstyle.models import HookedModel
from mechstyle.tokens import EncodedPrompt, encode

__all__ = ["Questions"]

COUNTED: Final = (("", "fair_success", COMPARISON), ("_exact", "fair_exact", EXACT))
WRITTEN: Final = ("_generated", "fair_generated", GENERATED)


@dataclass(frozen=True)
class Questions:
    """The questions of cases, each with its scope, as a measure of a suite; ``Questions.of`` makes one.

    A question is answered rightly by *probability comparison* when its most probable answer is more probable
    than its most probable foil, by *exact match* when every token of an answer is the most probable one
    (teacher-forced), and by *free generation* when what the model writes begins with an answer. Questions
    that require knowledge which the unedited model lacks are asked and kept as rows, but do not count (Cohen
    et al. 2024): their ``fair`` is False.

    Args:
        kinds: of questions, each of which has metrics of its own.
        reduce: see ``evaluate``.
        generate: let the model write freely after each prompt too.

    Raises:
        InputError: no kinds, or ``reduce`` is neither "mean" nor "sum".

    Example:
        >>> Questions.of(cases).kinds  # doctest: +SKIP
        ('reversal', 'two-hop')
    """

    kinds: tuple[str, ...]
    reduce: Reduce = "mean"
    generate: bool = False

    def __post_init__(self) -> None:
        require_reduce(self.reduce)
        if not self.kinds:
            raise InputError("kinds: expected at least one kind of question, got none.")

    @classmethod
    def of(cls, cases: Sequence[Case], *, reduce: Reduce = "mean", generate: bool = False) -> Questions:
        """For all kinds that the cases hold, in their order.

        Raises:
            InputError: the cases hold no questions.
        """
        kinds = dict.fromkeys(question.kind for case in cases for question in case.questions)
        if not kinds:
            raise InputError("cases: expected questions, but none of the cases holds any.")
        return cls(tuple(kinds), reduce, generate)

    @property
    def name(self) -> str:
        """The table's name."""
        return "questions"

    @property
    def about(self) -> About:
        """Each request is asked about."""
        return "requests"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Each kind by probability comparison, exact match and, if asked for, free generation."""
        ways = (*COUNTED, WRITTEN) if self.generate else COUNTED
        return tuple(
            Metric(f"{kind}{suffix}", column, measure, kind)
            for kind in self.kinds
            for suffix, column, measure in ways
        )

    def settings(self) -> dict[str, Any]:
        """What the numbers depend on."""
        return {"kinds": list(self.kinds), "reduce": self.reduce, "generate": self.generate}

    def prepare(self, model: HookedModel, cases: Sequence[Case], conditions: Conditions) -> Reader:
        """Tokenise every question, and see which of them are fair.

        Raises:
            TextError: a prompt does not fit the tokenizer or the context; case and prompt are named.
        """
        bos = conditions.prepend_bos
        probes = [
            [
                question_probe(model, index, case.request, question, prepend_bos=bos)
                for question in case.questions
                if question.kind in self.kinds
            ]
            for index, case in enumerate(cases)
        ]
        every = [probe for of_case in probes for probe in of_case]
        n_tokens = room_for(model, every, prepend_bos=bos) if self.generate and every else 0
        known = _known(model, every, conditions)

        def read(edit: AnyEdit | None, chosen: Sequence[int]) -> list[Row]:
            places = [(place, probe) for index in chosen for place, probe in enumerate(probes[index])]
            if not places:
                return []
            asked = [probe for _, probe in places]
            reading = read_under(model, edit, asked, texts=(), n_tokens=n_tokens, prepend_bos=bos)
            recalled = reading.recalled()
            scored = reading.answers(recalled, batch_size=conditions.batch_size)
            rows = []
            for (place, probe), scores in zip(places, scored, strict=True):
                fair = all(known[pair] for pair in probe.question.requires)
                rows.append(_row(place, probe, scores, self.reduce, fair))
            if n_tokens:
                written = reading.completions(recalled, n_tokens=n_tokens, batch_size=conditions.batch_size)
                for row, probe, text in zip(rows, asked, written, strict=True):
                    right = said(text, probe.targets) in probe.question.answers
                    row |= {
                        "completion": text,
                        "generated": right,
                        "fair_generated": _counted(right, row["fair"]),
                    }
            return rows

        return read


def _known(
    model: HookedModel, probes: Sequence[Probe], conditions: Conditions
) -> dict[tuple[str, str], bool]:
    """Whether the unedited model's greedy continuation of each required prompt is its answer."""
    wanted: dict[tuple[str, str], EncodedPrompt] = {}
    for probe in probes:
        for prompt, answer in probe.question.requires:
            if (prompt, answer) not in wanted:
                wanted[prompt, answer] = _required(model, probe, prompt, answer, conditions.prepend_bos)
    scores = score_answers(model, list(wanted.values()), batch_size=conditions.batch_size)
    return {pair: score.exact for pair, score in zip(wanted, scores, strict=True)}


def _required(model: HookedModel, probe: Probe, prompt: str, answer: str, bos: bool) -> EncodedPrompt:
    try:
        return encode(model, prompt, target=answer, prepend_bos=bos)
    except ModelError:
        raise
    except InputError as error:
        raise TextError(
            f"requests[{probe.request}], {probe.question.kind} prompt {probe.prompt!r}, which requires "
            f"{prompt!r}: {error}"
        ) from error


def _row(place: int, probe: Probe, scores: Sequence[AnswerScore], reduce: Reduce, fair: bool) -> Row:
    question = probe.question
    chances = [one.mean_logp if reduce == "mean" else one.logp for one in scores]
    n_answers = len(question.answers)
    best = max(range(n_answers), key=chances.__getitem__)
    foil = max(range(n_answers, len(chances)), key=chances.__getitem__, default=None)
    success = None if foil is None else chances[best] > chances[foil]
    exact = any(one.exact for one in scores[:n_answers])
    return {
        "request": probe.request,
        "subject": probe.subject,
        "relation": probe.relation,
        "kind": question.kind,
        "scope": question.scope,
        "item": f"{place}: {question.kind}: {question.prompt}",
        "prompt": question.prompt,
        "answer": probe.targets[best],
        "foil": None if foil is None else probe.targets[foil],
        "logp_answer": chances[best],
        "logp_foil": None if foil is None else chances[foil],
        "p_answer": math.exp(chances[best]),
        "p_foil": None if foil is None else math.exp(chances[foil]),
        "success": success,
        "exact": exact,
        "accuracy": max(one.accuracy for one in scores[:n_answers]),
        "fair": fair,
        "fair_success": _counted(success, fair),
        "fair_exact": _counted(exact, fair),
    }


def _counted(right: bool | None, fair: bool) -> bool | None:
    """What counts: nothing where the question is not a fair one."""
    return right if fair else None
