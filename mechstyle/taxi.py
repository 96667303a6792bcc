"""TAXI (Powell et al. 2024): edits of a category, and what a thing inherits from it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mechstyle.cases import Case, Question, Scope
from mechstyle.errors import FileError, TextError
from mechstyle.facts import EditRequest, Fact
from mechstyle.records import PathLike, Record, convert_records, parse, read_text
from mechstyle.schemas import continuation

__all__ = ["TAXI_KEYS", "read_taxi"]

TAXI_KEYS: Final = frozenset({"subj", "entity", "orig_entity"})
"""Columns by which TAXI's files are recognised."""
_EDITS: Final = "edits.json"
_QUERIES: Final = "edits-evaluation.json"
_TEMPLATE: Final = "A {} is a kind of"
"""The prompt that the published code edits; its queries begin with a small letter."""
_SUBJECT: Final = "<subj>"
_ANSWER: Final = "<answer>"


def read_taxi(folder: PathLike) -> list[Case]:
    """Read TAXI: an edit a case ("A sparrow is a kind of fish"), with its multiple-choice questions.

    Kinds and scopes: "category" ("in": the edit's own question among all categories), "property" ("hard in":
    what changes with the category), "kept property" ("near": what both categories share). The last two are
    asked forward (the property is the answer) and, with " reversed" behind the kind, the other way round (the
    subject is). Foils are the published choices. A reversed query that does not end with the subject cannot
    be asked by likelihood and is left out: those of the category itself, and "<answer> is how you get
    <answer>". Neighbours of a request are the other members of the old category; TAXI has none of its own.

    Args:
        folder: holds ``edits.json`` and ``edits-evaluation.json``, or has them in ``datasets/``.

    Raises:
        FileError: a file is missing or not in the published form, or a row is wrong; the row is named.

    Example:
        >>> read_taxi("taxi")[0].request.fact.prompt  # doctest: +SKIP
        'A Siamese is a kind of'
    """
    home = Path(folder)
    home = home / "datasets" if (home / "datasets").is_dir() else home
    rows = _rows(home / _EDITS)
    members: dict[str, dict[str, None]] = defaultdict(dict)
    for category, subject in convert_records(home / _EDITS, rows, _membership):
        members[category][subject] = None
    edits = convert_records(home / _EDITS, rows, lambda row: _case(row, members))
    found: dict[str, list[Question]] = {case.name: [] for case in edits}
    if len(found) < len(edits):
        raise FileError(
            f"{home / _EDITS}: {len(edits)} edits have only {len(found)} names; each wants its own."
        )
    for name, questions in convert_records(
        home / _QUERIES, _rows(home / _QUERIES), lambda row: _asked(row, found)
    ):
        found[name] += questions
    return [Case(case.request, case.name, tuple(found[case.name])) for case in edits]


def _rows(path: Path) -> list[Record]:
    """The rows of a table that is written column by column: ``{column: {row: value}}``."""
    table = parse(read_text(path), path)
    if not isinstance(table, Mapping) or not all(isinstance(one, Mapping) for one in table.values()):
        raise FileError(
            f"{path}: expected a JSON object of columns, each an object of rows, as TAXI has them."
        )
    numbers = list(dict.fromkeys(number for column in table.values() for number in column))
    return [
        Record(f"row {number}", {name: column[number] for name, column in table.items() if number in column})
        for number in numbers
    ]


def _membership(row: Mapping[str, Any]) -> tuple[str, str]:
    return _text(row["orig_entity"]), _text(row["subj"])


def _case(row: Mapping[str, Any], members: Mapping[str, Mapping[str, None]]) -> Case:
    old, subject = _membership(row)
    request = EditRequest(
        fact=Fact(_TEMPLATE, subject, continuation(old), f"kind of {row['superordinate_category']}"),
        new_target=continuation(row["entity"]),
        neighborhood=tuple(
            (_TEMPLATE.replace("{}", other), continuation(old)) for other in members[old] if other != subject
        ),
    )
    return Case(request, name=_text(row["edit"]))


def _asked(row: Mapping[str, Any], edits: Mapping[str, object]) -> tuple[str, list[Question]]:
    """The edit that a row of queries is about, and its one or two questions."""
    name, subject, answer = _text(row["edit"]), _text(row["subj"]), _text(row["answer_fwd"])
    if name not in edits:
        raise TextError(f"the edit {name!r} is not in {_EDITS}.")
    kind, scope = _kind(row)
    forward = _prompt(row["query_fwd"], _ANSWER, _SUBJECT, subject)
    if forward is None:
        raise TextError(
            f"query_fwd: expected {_SUBJECT} once and {_ANSWER} at its end, got {row['query_fwd']!r}."
        )
    questions = [_choice(kind, scope, forward, answer, row["fwd_choices"])]
    backward = _prompt(row["query_rev"], _SUBJECT, _ANSWER, answer)
    if backward is not None:
        questions.append(_choice(f"{kind} reversed", scope, backward, subject, row["rev_choices"]))
    return name, questions


def _kind(row: Mapping[str, Any]) -> tuple[str, Scope]:
    if row["property"] == "category_membership":
        return "category", "in"
    return ("property", "hard in") if row["answer_changed"] else ("kept property", "near")


def _prompt(query: str, end: str, slot: str, filling: str) -> str | None:
    """The query up to the slot at its end, the other one filled; None when it has another form."""
    before = query.removesuffix(end).rstrip()
    return None if end in before or before.count(slot) != 1 else before.replace(slot, filling)


def _choice(kind: str, scope: Scope, prompt: str, answer: str, choices: Sequence[str]) -> Question:
    right = continuation(answer)
    foils = dict.fromkeys(continuation(one) for one in choices)
    return Question(kind, scope, prompt, (right,), tuple(foil for foil in foils if foil != right))


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TextError(f"expected text that is not blank, got {value!r}.")
    return value.strip()
