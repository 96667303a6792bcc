"""Readers of published fact collections and of our own JSON lines; targets get their leading space."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mechstyle.errors import FileError, TextError
from mechstyle.facts import EditRequest, Fact
from mechstyle.files import atomic_write

__all__ = ["read_counterfact", "read_known_facts", "read_requests", "read_zsre", "write_requests"]

T = TypeVar("T")
PathLike = str | os.PathLike[str]


def read_counterfact(path: PathLike) -> list[EditRequest]:
    """Read CounterFact (Meng et al. 2022), a JSON list of records in its original schema.

    The neighbours' true target is the record's own: they are subjects that share it.

    Raises:
        FileError: the file is missing, is not such a list, or a record lacks a part.

    Example:
        >>> read_counterfact("counterfact.json")[0].fact.prompt  # doctest: +SKIP
        'The mother tongue of Danielle Darrieux is'
    """
    return _read_records(path, _counterfact)


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
    return _read_records(path, _known_fact)


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
    return _read_records(path, _zsre)


def read_requests(path: PathLike) -> list[EditRequest]:
    """Read what ``write_requests`` wrote: one request a line, as JSON. Blank lines are skipped.

    Raises:
        FileError: the file is missing or a line is not a request.

    Example:
        >>> read_requests("requests.jsonl")  # doctest: +SKIP
        [EditRequest(...)]
    """
    requests = []
    for number, line in enumerate(_read_text(Path(path)).split("\n"), start=1):
        if line.strip():
            requests.append(
                _convert(_parse(line, Path(path), number), EditRequest.from_dict, path, f"line {number}")
            )
    return requests


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


def _read_records(path: PathLike, convert: Callable[[Mapping[str, Any]], T]) -> list[T]:
    data = _parse(_read_text(Path(path)), Path(path))
    if not isinstance(data, list):
        raise FileError(f"{path} must hold a JSON list of records, not {type(data).__name__}.")
    return [_convert(record, convert, path, f"record {index}") for index, record in enumerate(data)]


def _convert(data: object, convert: Callable[[Mapping[str, Any]], T], path: PathLike, place: str) -> T:
    if not isinstance(data, Mapping):
        raise FileError(f"{path}, {place}: expected a JSON object, not {type(data).__name__}.")
    try:
        return convert(data)
    except KeyError as error:
        raise FileError(f"{path}, {place}: the key {error} is missing; is this the right reader?") from error
    except (TypeError, AttributeError, IndexError) as error:
        raise FileError(f"{path}, {place}: a part has the wrong type ({error}).") from error
    except TextError as error:
        raise FileError(f"{path}, {place}: {error}") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}. Check the path.") from error
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is not UTF-8 text (byte {error.start}).") from error


def _parse(text: str, path: Path, line: int | None = None) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        place = "" if line is None else f", line {line}"
        raise FileError(f"{path}{place} is not JSON: {error}. Is it truncated?") from error
