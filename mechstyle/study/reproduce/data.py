"""The cases that a manifest names: from a published file, or from what an embedded model was taught."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from mechstyle import organisms
from mechstyle.case_files import read_cases
from mechstyle.cases import Case
from mechstyle.errors import FileError, InputError
from mechstyle.evaluation.scores import evaluate
from mechstyle.facts import UNKNOWN, EditRequest
from mechstyle.models import HookedModel
from mechstyle.out_of_scope import with_edit_in_front
from mechstyle.records import convert_records, recognise
from mechstyle.schemas import ZSRE, continuation, keys_of, read_zsre_record
from mechstyle.study.reproduce.manifest import DataPart, Manifest

__all__ = ["file_digest", "known_cases", "manifest_cases", "true_answer_request"]

CHUNK: Final = 25
"""Requests that are tried at a time, to find those whose fact the model completes."""


def manifest_cases(manifest: Manifest, path: str | os.PathLike[str] | None) -> list[Case]:
    """The cases of a manifest's data, in order, at most ``records``; of an organism all that are drawn.

    Args:
        path: the published file; None for an organism.

    Raises:
        InputError: a file is missing, or there is one although the data are an organism's own.
        FileError: the file cannot be read.

    Example:
        >>> len(manifest_cases(read_manifest("organism-m-rome"), None))
        66
    """
    part = manifest.data
    if part.organism is not None:
        if path is not None:
            raise InputError(
                f"data: {manifest.name} edits facts that {part.organism} was taught; leave it out."
            )
        drawn = organisms.requests(
            part.organism, n=part.drawn or 0, seed=manifest.seed, invented=part.invented
        )
        return [Case(request) for request in drawn]
    if path is None:
        first = "all of it" if part.records is None else f"its first {part.records:,} records"
        raise InputError(
            f"data: {manifest.name} needs the file {part.file} ({first}); name its path (--data FILE)."
        )
    cases = _true_answers(path) if part.reading == "true answers" else read_cases(path)
    taken = cases[: part.records]
    return [with_edit_in_front(case) for case in taken] if part.edit_in_front else taken


def known_cases(
    model: HookedModel, part: DataPart, cases: Sequence[Case], number: int, *, prepend_bos: bool | None
) -> list[Case]:
    """The first ``number`` cases, or where only known facts count the first whose fact the model completes.

    Example:
        >>> known_cases(model, manifest.data, cases, 3, prepend_bos=None)  # doctest: +SKIP
        [Case(...), Case(...), Case(...)]
    """
    if not part.known:
        return list(cases[:number])
    found: list[Case] = []
    for start in range(0, len(cases), CHUNK):
        some = cases[start : start + CHUNK]
        bare = [replace(case.request, paraphrases=(), neighborhood=()) for case in some]
        rows = evaluate(model, bare, prepend_bos=prepend_bos).rows
        found += [case for case, exact in zip(some, rows["exact_true"], strict=True) if exact]
        if len(found) >= number:
            break
    return found[:number]


def true_answer_request(record: Mapping[str, Any]) -> EditRequest:
    """A record of zsRE as ROME's published code reads it.

    The first true answer is written, whatever the model says. The unrelated question ends with a question
    mark; it is left out where its answer is the one that is written, which evaluate could not tell apart.

    Example:
        >>> true_answer_request(record).neighborhood  # doctest: +SKIP
        (('nq question: who wrote the opera fidelio?', ' Beethoven'),)
    """
    request = read_zsre_record(record)
    new = continuation(record["answers"][0])
    other = UNKNOWN if new != UNKNOWN else request.new_target
    unrelated = (f"{record['loc']}?", continuation(record["loc_ans"]))
    return replace(
        request,
        fact=replace(request.fact, target=other),
        new_target=new,
        neighborhood=() if unrelated[1] == new else (unrelated,),
    )


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 (hex) of a file's bytes.

    Raises:
        FileError: it cannot be read.
    """
    try:
        return sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}.") from error


def _true_answers(path: str | os.PathLike[str]) -> list[Case]:
    records = recognise(path, columns=())
    if not ZSRE.keys <= keys_of(records[0]):
        raise FileError(f"data: {path} is not {ZSRE.name}, of which true answers are to be written.")
    return [Case(request) for request in convert_records(path, records, true_answer_request)]
