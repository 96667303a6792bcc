"""Readers of published fact collections and of our own JSON lines; targets get their leading space."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from mechstyle.errors import FileError, TextError
from mechstyle.facts import EditRequest, Fact
from mechstyle.files import atomic_write
from mechstyle.records import PathLike, convert_records, json_lines, json_list, read_text, recognise
from mechstyle.requests import request_from_pair

__all__ = [
    "read_counterfact",
    "read_edit_file",
    "read_fact_file",
    "read_facts",
    "read_known_facts",
    "read_pairs",
    "read_requests",
    "read_zsre",
    "write_requests",
]

T = TypeVar("T")


@dataclass(frozen=True)
class _Schema(Generic[T]):
    """A kind of record: what it is called, the keys by which it is recognised, and its reader."""

    name: str
    keys: frozenset[str]
    convert: Callable[[Mapping[str, Any]], T]


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
    return _read_any(path, _EDITS, columns=("template",))


def read_fact_file(path: PathLike) -> list[Fact]:
    """Read facts, for example those that must stay: as ``Fact.to_dict`` writes them, or as the known facts.

    JSON lines or a JSON list, no table; the first record's keys decide for all. Targets are read as they are
    written, in our own facts with their leading space.

    Raises:
        FileError: the file is missing, of another kind, or a record is wrong; the place is named.

    Example:
        >>> requests = with_keep(requests, read_fact_file("stay.jsonl"))  # doctest: +SKIP
    """
    return _read_any(path, _FACTS, columns=())


def read_facts(path: PathLike) -> list[Fact]:
    """Read the facts of a file of any kind that is understood, to be traced: facts, or requests to edit them.

    Understood is what ``read_edit_file`` and ``read_fact_file`` read. The first record's keys decide for all.

    Raises:
        FileError: the file is missing, of none of these kinds, or a record is wrong; the place is named.

    Example:
        >>> read_facts("known_1000.json")[0].subject  # doctest: +SKIP
        'Vinson Massif'
    """
    return _read_any(path, (*(_fact_of(one) for one in _EDITS), *_FACTS), columns=("template",))


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
    return convert_records(path, recognise(path, columns=_PAIRS.keys), _PAIRS.convert)


def read_counterfact(path: PathLike) -> list[EditRequest]:
    """Read CounterFact (Meng et al. 2022), a JSON list of records in its original schema.

    The neighbours' true target is the record's own: they are subjects that share it.

    Raises:
        FileError: the file is missing, is not such a list, or a record lacks a part.

    Example:
        >>> read_counterfact("counterfact.json")[0].fact.prompt  # doctest: +SKIP
        'The mother tongue of Danielle Darrieux is'
    """
    return convert_records(path, json_list(path, read_text(path)), _counterfact)


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
    return convert_records(path, json_list(path, read_text(path)), _known_fact)


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
    return convert_records(path, json_list(path, read_text(path)), _zsre)


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
    lines = [json.dumps(request.to_dict(), ensure_ascii=False) + "\n" for request in requests]
    with atomic_write(path) as part:
        part.write_text("".join(lines), encoding="utf-8")


def _counterfact(record: Mapping[str, Any]) -> EditRequest:
    rewrite = record["requested_rewrite"]
    target = _word(rewrite["target_true"]["str"])
    fact = Fact(rewrite["prompt"], rewrite["subject"], target, rewrite.get("relation_id"))
    return EditRequest(
        fact=fact,
        new_target=_word(rewrite["target_new"]["str"]),
        paraphrases=tuple(record["paraphrase_prompts"]),
        neighborhood=tuple((prompt, target) for prompt in record["neighborhood_prompts"]),
    )


def _known_fact(record: Mapping[str, Any]) -> Fact:
    template = _template(record["prompt"], record["subject"], hint=record["template"])
    return Fact(template, record["subject"], _word(record["attribute"]), record.get("relation_id"))


def _zsre(record: Mapping[str, Any]) -> EditRequest:
    new_target = _word(record["alt"])
    known = [_word(answer) for answer in (*record["answers"], record["pred"])]
    target = next((answer for answer in known if answer != new_target), new_target)
    return EditRequest(
        fact=Fact(_template(record["src"], record["subject"]), record["subject"], target),
        new_target=new_target,
        paraphrases=(record["rephrase"],),
        neighborhood=((record["loc"], _word(record["loc_ans"])),),
    )


def _template(prompt: str, subject: str, hint: str = "{}") -> str:
    """Put ``{}`` in place of the subject: where the hint has it, or else first."""
    expected = hint.index("{}") if hint.count("{}") == 1 else 0
    start = expected if prompt.startswith(subject, expected) else prompt.find(subject)
    if start < 0:
        raise TextError(f"the subject {subject!r} does not occur in the prompt {prompt!r}.")
    return prompt[:start] + "{}" + prompt[start + len(subject) :]


def _word(text: str) -> str:
    """A continuation as GPT-2's tokenizers want it: with one space before the first word."""
    return " " + text.strip()


_PAIRS: Final = _Schema(
    "pairs (template, subject, new_target)", frozenset({"template", "new_target"}), request_from_pair
)
_EDITS: Final = (
    _Schema("requests (fact, new_target)", frozenset({"fact"}), EditRequest.from_dict),
    _PAIRS,
    _Schema("CounterFact (requested_rewrite)", frozenset({"requested_rewrite"}), _counterfact),
    _Schema("zsRE of MEND (src, alt, loc)", frozenset({"src", "alt", "loc"}), _zsre),
)
_FACTS: Final = (
    _Schema("known facts (prompt, attribute)", frozenset({"prompt", "attribute"}), _known_fact),
    _Schema("facts (template, subject, target)", frozenset({"template", "target"}), Fact.from_dict),
)


def _fact_of(schema: _Schema[EditRequest]) -> _Schema[Fact]:
    """The same records, of which only the fact is wanted."""
    return _Schema(schema.name, schema.keys, lambda record: schema.convert(record).fact)


def _read_any(path: PathLike, schemas: Sequence[_Schema[T]], *, columns: Sequence[str]) -> list[T]:
    records = recognise(path, columns=columns)
    first = records[0].data
    keys = {str(key) for key in first} if isinstance(first, Mapping) else set()
    schema = next((one for one in schemas if one.keys <= keys), None)
    if schema is None:
        seen = f"the keys {', '.join(sorted(keys))}" if keys else f"no keys: {first!r:.80}"
        raise FileError(
            f"{path}, {records[0].place}: not a kind that is understood; it has {seen}. Understood are "
            f"{'; '.join(one.name for one in schemas)}."
        )
    return convert_records(path, records, schema.convert)
