"""Readers of published fact collections and of our own JSON lines; targets get their leading space."""

from __future__ import annotations

from collections.abc import Iterable

from mechstyle.case_files import known_fact_cases, read_cases, write_cases
from mechstyle.facts import EditRequest, Fact
from mechstyle.records import (
    PathLike,
    convert_records,
    json_lines,
    json_list,
    read_text,
    recognise,
    write_json_lines,
)
from mechstyle.schemas import (
    EDITS,
    FACTS,
    PAIRS,
    fact_of,
    read_any,
    read_counterfact_record,
    read_known_fact_record,
    read_zsre_record,
)
from mechstyle.taxi import read_taxi

__all__ = [
    "known_fact_cases",
    "read_cases",
    "read_counterfact",
    "read_edit_file",
    "read_fact_file",
    "read_facts",
    "read_known_facts",
    "read_pairs",
    "read_requests",
    "read_taxi",
    "read_zsre",
    "write_cases",
    "write_requests",
]


def read_edit_file(path: PathLike) -> list[EditRequest]:
    """Read requests from a file of any kind that is understood; its content tells the kind, not its name.

    Understood are our own requests, plain pairs (``read_pairs``), CounterFact, and zsRE in MEND's schema; as
    JSON lines or as a JSON list, pairs also as a table. The first record's keys decide for all.

    Raises:
        FileError: the file is missing, of none of these kinds, or a record is wrong; the place is named.

    Example:
        >>> read_edit_file("counterfact.json")[0].fact.subject  # doctest: +SKIP
        'Danielle Darrieux'
    """
    return read_any(path, EDITS, columns=("template",))


def read_fact_file(path: PathLike) -> list[Fact]:
    """Read facts, for example those that must stay: as ``Fact.to_dict`` writes them, or as the known facts.

    JSON lines or a JSON list, no table; the first record's keys decide for all. Targets are read as they are
    written, in our own facts with their leading space.

    Raises:
        FileError: the file is missing, of another kind, or a record is wrong; the place is named.

    Example:
        >>> requests = with_keep(requests, read_fact_file("stay.jsonl"))  # doctest: +SKIP
    """
    return read_any(path, FACTS, columns=())


def read_facts(path: PathLike) -> list[Fact]:
    """Read the facts of a file of any kind that is understood, to be traced: facts, or requests to edit them.

    Understood is what ``read_edit_file`` and ``read_fact_file`` read. The first record's keys decide for all.

    Raises:
        FileError: the file is missing, of none of these kinds, or a record is wrong; the place is named.

    Example:
        >>> read_facts("known_1000.json")[0].subject  # doctest: +SKIP
        'Vinson Massif'
    """
    return read_any(path, (*(fact_of(one) for one in EDITS), *FACTS), columns=("template",))


def read_pairs(path: PathLike) -> list[EditRequest]:
    """Read a plain table of edits with the columns template, subject, new_target and, if known, target.

    A table whose first line names its columns (separated by commas, semicolons or tabs), JSON lines or a JSON
    list. Targets get one leading space; a missing one becomes ``" unknown"``, see ``requests_from_pairs``.

    Raises:
        FileError: the file is missing, of another kind, or a row is wrong; the place is named.

    Example:
        >>> read_pairs("pairs.csv")[0].new_target  # doctest: +SKIP
        ' guitar'
    """
    return convert_records(path, recognise(path, columns=PAIRS.keys), PAIRS.convert)


def read_counterfact(path: PathLike) -> list[EditRequest]:
    """Read CounterFact (Meng et al. 2022), a JSON list of records in its original schema.

    The neighbours' true target is the record's own: they are subjects that share it.

    Raises:
        FileError: the file is missing, is not such a list, or a record lacks a part.

    Example:
        >>> read_counterfact("counterfact.json")[0].fact.prompt  # doctest: +SKIP
        'The mother tongue of Danielle Darrieux is'
    """
    return convert_records(path, json_list(path, read_text(path)), read_counterfact_record)


def read_known_facts(path: PathLike) -> list[Fact]:
    """Read the facts that GPT-2 XL knows (Meng et al. 2022), made for causal tracing.

    The template is cut from each record's ``prompt``: its own ``template`` is often shorter, because the
    prompt was lengthened until the model answers with the attribute.

    Raises:
        FileError: the file is missing, is not such a list, or a record lacks a part.

    Example:
        >>> read_known_facts("known_1000.json")[0].template  # doctest: +SKIP
        '{} is located in the continent of'
    """
    return convert_records(path, json_list(path, read_text(path)), read_known_fact_record)


def read_zsre(path: PathLike) -> list[EditRequest]:
    """Read zsRE questions in the evaluation schema of MEND (Mitchell et al. 2022).

    The new target is the alternative (``alt``); the target is the first true answer that differs from it,
    else the recorded prediction. The only paraphrase is the rephrased question, the only neighbour the
    unrelated question (``loc``) with its own answer.

    Raises:
        FileError: the file is missing, is not such a list, or a record lacks a part.

    Example:
        >>> read_zsre("zsre_eval.json")[0].new_target  # doctest: +SKIP
        ' 2006'
    """
    return convert_records(path, json_list(path, read_text(path)), read_zsre_record)


def read_requests(path: PathLike) -> list[EditRequest]:
    """Read what ``write_requests`` wrote: one request a line, as JSON. Blank lines are skipped.

    Raises:
        FileError: the file is missing or a line is not a request.

    Example:
        >>> read_requests("requests.jsonl")  # doctest: +SKIP
        [EditRequest(...)]
    """
    return convert_records(path, json_lines(path, read_text(path)), EditRequest.from_dict)


def write_requests(path: PathLike, requests: Iterable[EditRequest]) -> None:
    """Write requests as JSON lines (UTF-8); the file appears whole or not at all.

    Raises:
        FileError: the file cannot be written.

    Example:
        >>> write_requests("requests.jsonl", requests)  # doctest: +SKIP
    """
    write_json_lines(path, (request.to_dict() for request in requests))
