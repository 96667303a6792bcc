"""Cases from files: our own, and published collections with all that they ask."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from mechstyle.cases import Case, Question
from mechstyle.errors import FileError, InputError
from mechstyle.facts import EditRequest, Fact
from mechstyle.records import PathLike, recognise, write_json_lines
from mechstyle.schemas import (
    CASES,
    COUNTERFACT,
    EDITS,
    FACTS,
    ZSRE,
    Schema,
    continuation,
    convert_any,
    keys_of,
    read_counterfact_record,
    read_zsre_record,
)
from mechstyle.taxi import TAXI_KEYS, read_taxi

__all__ = ["known_fact_cases", "read_cases", "write_cases"]

_NEIGHBOURS: Final = 10
"""As many as a record of CounterFact has."""


def read_cases(path: PathLike) -> list[Case]:
    """Read cases of any kind that is understood; the content tells the kind, not the name.

    Understood are our own cases (``write_cases``), whatever ``read_edit_file`` reads, and TAXI (its folder or
    one of its two files, see ``read_taxi``). Beyond the requests there are

    - CounterFact: questions "attribute" ("near": other subjects that have the new target already, and should
      keep it), and the prompts to go on from, as often as they are listed: each is continued once;
    - zsRE: the question "unrelated" ("far"), which is then no neighbour of the request, and, where it is
      there, the portability question of Yao et al. (2023) ("hard in"): "two-hop" when it asks about the new
      target, else "portability".

    Raises:
        FileError: the file is missing, of none of these kinds, or a record is wrong; the place is named.

    Example:
        >>> read_cases("counterfact.json")[0].questions[0].kind  # doctest: +SKIP
        'attribute'
    """
    if Path(path).is_dir():
        return read_taxi(path)
    records = recognise(path, columns=("template",))
    keys = keys_of(records[0])
    if keys >= TAXI_KEYS:
        return read_taxi(Path(path).parent)
    if not any(one.keys <= keys for one in _CASES) and any(one.keys <= keys for one in FACTS):
        raise FileError(
            f"{path} holds facts, which ask for no change; known_fact_cases(read_fact_file(path), seed=0) "
            "draws a new target for each."
        )
    return convert_any(path, records, _CASES)


def write_cases(path: PathLike, cases: Iterable[Case]) -> None:
    """Write cases as JSON lines (UTF-8); the file appears whole or not at all.

    Raises:
        FileError: the file cannot be written.

    Example:
        >>> write_cases("cases.jsonl", cases)  # doctest: +SKIP
    """
    write_json_lines(path, (case.to_dict() for case in cases))


def known_fact_cases(facts: Sequence[Fact], *, seed: int = 0) -> list[Case]:
    """Counterfactual cases from plain facts: for each a new target, another one of its relation.

    Neighbours are other subjects with the same relation and target, "attribute" questions ("near") others
    with the new target; at most ten each, in the prompts of the list. A target that the list gives the
    subject too is never its new one. The draw for a fact depends on the seed and the list, not on its order.

    Raises:
        InputError: there are no facts, or a fact has no relation, or one without another target.

    Example:
        >>> players = (("Miles", " horn"), ("Bill", " piano"))
        >>> facts = [Fact("{} plays the", subject, target, "plays") for subject, target in players]
        >>> known_fact_cases(facts)[0].request.new_target
        ' piano'
    """
    listed = list(facts)
    if not listed:
        raise InputError("facts: expected at least one, got none.")
    by_target: dict[tuple[str | None, str], dict[Fact, None]] = defaultdict(dict)
    targets: dict[str | None, set[str]] = defaultdict(set)
    told: dict[tuple[str | None, str], set[str]] = defaultdict(set)
    for fact in sorted(listed, key=lambda fact: fact.prompt):
        by_target[fact.relation, fact.target][fact] = None
        targets[fact.relation].add(fact.target)
        told[fact.relation, fact.subject].add(fact.target)
    cases = []
    for index, fact in enumerate(listed):
        others = sorted(targets[fact.relation] - told[fact.relation, fact.subject])
        if fact.relation is None or not others:
            raise InputError(
                f"facts[{index}]: expected a relation with other targets to draw from, got {fact.relation!r} "
                f"for {fact.prompt!r}; leave it out or give more facts."
            )
        rng = random.Random(f"{seed} {fact.prompt}")
        new = rng.choice(others)
        old_holders, new_holders = (
            [
                other
                for other in by_target[fact.relation, has]
                if other.subject != fact.subject and lacks not in told[fact.relation, other.subject]
            ]
            for has, lacks in ((fact.target, new), (new, fact.target))
        )
        neighbours = rng.sample(old_holders, min(_NEIGHBOURS, len(old_holders)))
        attributes = rng.sample(new_holders, min(_NEIGHBOURS, len(new_holders)))
        request = EditRequest(fact, new, neighborhood=tuple((one.prompt, one.target) for one in neighbours))
        cases.append(Case(request, questions=_attributes(request, [one.prompt for one in attributes])))
    return cases


def _attributes(request: EditRequest, prompts: Iterable[str]) -> tuple[Question, ...]:
    """Prompts about other subjects that have the new target already."""
    new, old = request.new_target, request.fact.target
    return tuple(Question("attribute", "near", prompt, (new,), (old,)) for prompt in prompts)


def _counterfact(record: Mapping[str, Any]) -> Case:
    request = read_counterfact_record(record)
    return Case(
        request,
        name=str(record.get("case_id", "")),
        questions=_attributes(request, record.get("attribute_prompts", ())),
        prompts=tuple(record.get("generation_prompts", ())),
    )


def _zsre(record: Mapping[str, Any]) -> Case:
    request = read_zsre_record(record)
    ((prompt, answer),) = request.neighborhood
    foils = tuple({request.new_target} - {answer})
    questions = [Question("unrelated", "far", prompt, (answer,), foils)]
    if further := record.get("portability"):
        about = further["Recalled Relation"].strip("( ").lower()
        kind = "two-hop" if about.startswith(request.new_target.strip().lower() + ",") else "portability"
        questions.append(
            Question(kind, "hard in", further["New Question"], (continuation(further["New Answer"]),))
        )
    return Case(replace(request, neighborhood=()), questions=tuple(questions))


def _plain(schema: Schema[EditRequest]) -> Schema[Case]:
    """The same records, as cases that ask nothing beyond the request."""
    return Schema(schema.name, schema.keys, lambda record: Case(schema.convert(record)))


_CASES: Final = (
    Schema("cases (request)", frozenset({"request"}), Case.from_dict),
    Schema(COUNTERFACT.name, COUNTERFACT.keys, _counterfact),
    Schema(ZSRE.name, ZSRE.keys, _zsre),
    *(_plain(one) for one in EDITS if one not in (CASES, COUNTERFACT, ZSRE)),
)
