"""Calls of suites, of the questions in them, and of rows that are reproduced, for `calls.py`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from mechstyle.beliefs import Belief, BeliefChain
from mechstyle.cases import Case, Question
from mechstyle.editing.memory_editors import in_context_edit
from mechstyle.evaluation import BeliefConsistency, Questions, RequestScores, run_suite
from mechstyle.evaluation.measure import Conditions, Measure
from mechstyle.facts import EditRequest, Fact
from mechstyle.study.reproduce.run import reproduce

__all__ = ["SUITE_CALLS"]

REQUEST: Final = EditRequest(Fact("The instrument of {} is the", "Miles Davis", " trumpet"), " guitar")
KNOWN: Final = ("Rome is the capital of", " Italy")
QUESTION: Final = Question("place", "near", "Paris is the capital of", (" France",), (" Italy",), (KNOWN,))
CHAIN: Final = BeliefChain(
    Belief(REQUEST.fact.prompt, (" guitar", " trumpet")),
    Belief("Who plays the {} was born in", (" London", " Paris")),
    "Miles Davis was born in",
    "Miles Davis was born in {}",
)
CASE: Final = Case(REQUEST, questions=(QUESTION,))
RECORD: Final = {
    "case_id": 1,
    "requested_rewrite": {
        "prompt": "{} is the capital of",
        "subject": "Paris",
        "relation_id": "P36",
        "target_new": {"str": "Italy"},
        "target_true": {"str": "France"},
    },
    "paraphrase_prompts": ["Paris is in"],
    "neighborhood_prompts": ["London is in"],
    "attribute_prompts": ["Rome is in"],
    "generation_prompts": ["Paris is"],
}
"""Of CounterFact, short enough for tiny contexts."""


def _read(model: Any, measure: Measure) -> object:
    return measure.prepare(model, [CASE], Conditions(prepend_bos=False))(None, [0])


def _suite(model: Any, folder: Path) -> object:
    measures = [RequestScores(), Questions.of([CASE])]
    edit = in_context_edit(model, REQUEST)
    return run_suite(model, [CASE, REQUEST], measures, edits={"context": edit})


def _reproduce(model: Any, folder: Path) -> object:
    records = folder / "records.json"
    records.write_text(json.dumps([RECORD]), encoding="utf-8")
    return reproduce("gpt2-medium-base", data=records, limit=1, model=model)


SUITE_CALLS: Final[Mapping[str, Callable[[Any, Path], object]]] = MappingProxyType(
    {
        "BeliefConsistency.prepare": lambda model, folder: _read(model, BeliefConsistency((CHAIN,))),
        "Questions.prepare": lambda model, folder: _read(model, Questions.of([CASE], generate=True)),
        "RequestScores.prepare": lambda model, folder: _read(model, RequestScores(generate=True)),
        "reproduce": _reproduce,
        "run_suite": _suite,
    }
)
