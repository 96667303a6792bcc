"""Kinds of records that files hold: the keys by which each is recognised, and how it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from mechstyle.cases import Case
from mechstyle.errors import FileError, TextError
from mechstyle.facts import EditRequest, Fact
from mechstyle.records import PathLike, Record, convert_records, recognise
from mechstyle.requests import request_from_pair

__all__ = [
    "CASES",
    "COUNTERFACT",
    "EDITS",
    "FACTS",
    "PAIRS",
    "ZSRE",
    "Schema",
    "continuation",
    "convert_any",
    "fact_of",
    "keys_of",
    "read_any",
    "read_counterfact_record",
    "read_known_fact_record",
    "read_zsre_record",
]

T = TypeVar("T")


@dataclass(frozen=True)
class Schema(Generic[T]):
    """A kind of record.

    Args:
        name: what it is called in messages.
        keys: a record that has all of them is of this kind.
        convert: reads one record.
    """

    name: str
    keys: frozenset[str]
    convert: Callable[[Mapping[str, Any]], T]


def continuation(text: str) -> str:
    """A target as GPT-2's tokenizers want it: with one space before the first word.

    Example:
        >>> continuation("the trumpet ")
        ' the trumpet'
    """
    return " " + text.strip()


def keys_of(record: Record) -> frozenset[str]:
    """The keys of a record; none when it is no object."""
    return frozenset(map(str, record.data)) if isinstance(record.data, Mapping) else frozenset()


def read_any(path: PathLike, schemas: Sequence[Schema[T]], *, columns: Sequence[str]) -> list[T]:
    """Read a file of one of these kinds; its first record's keys decide for all.

    Args:
        columns: by which a table is recognised.

    Raises:
        FileError: the file is missing, of none of these kinds, or a record is wrong; the place is named.
    """
    return convert_any(path, recognise(path, columns=columns), schemas)


def convert_any(path: PathLike, records: Sequence[Record], schemas: Sequence[Schema[T]]) -> list[T]:
    """Convert a file's records, whose kind the keys of the first one tell.

    Raises:
        FileError: they are of none of these kinds, or a record is wrong; the place is named.
    """
    keys = keys_of(records[0])
    schema = next((one for one in schemas if one.keys <= keys), None)
    if schema is None:
        seen = f"the keys {', '.join(sorted(keys))}" if keys else f"no keys: {records[0].data!r:.80}"
        raise FileError(
            f"{path}, {records[0].place}: not a kind that is understood; it has {seen}. Understood are "
            f"{'; '.join(one.name for one in schemas)}."
        )
    return convert_records(path, records, schema.convert)


def fact_of(schema: Schema[EditRequest]) -> Schema[Fact]:
    """The same records, of which only the fact is wanted."""
    return Schema(schema.name, schema.keys, lambda record: schema.convert(record).fact)


def read_counterfact_record(record: Mapping[str, Any]) -> EditRequest:
    """The request of a record of CounterFact; the neighbours' true target is the record's own."""
    rewrite = record["requested_rewrite"]
    target = continuation(rewrite["target_true"]["str"])
    fact = Fact(rewrite["prompt"], rewrite["subject"], target, rewrite.get("relation_id"))
    return EditRequest(
        fact=fact,
        new_target=continuation(rewrite["target_new"]["str"]),
        paraphrases=tuple(record["paraphrase_prompts"]),
        neighborhood=tuple((prompt, target) for prompt in record["neighborhood_prompts"]),
    )


def read_known_fact_record(record: Mapping[str, Any]) -> Fact:
    """The fact of a record of the known facts; its template is cut from the recorded prompt."""
    template = _template(record["prompt"], record["subject"], hint=record["template"])
    return Fact(template, record["subject"], continuation(record["attribute"]), record.get("relation_id"))


def read_zsre_record(record: Mapping[str, Any]) -> EditRequest:
    """The request of a record of zsRE in MEND's schema; its neighbour is the unrelated question."""
    new_target = continuation(record["alt"])
    known = [continuation(answer) for answer in (*record["answers"], record["pred"])]
    target = next((answer for answer in known if answer != new_target), new_target)
    return EditRequest(
        fact=Fact(_template(record["src"], record["subject"]), record["subject"], target),
        new_target=new_target,
        paraphrases=(record["rephrase"],),
        neighborhood=((record["loc"], continuation(record["loc_ans"])),),
    )


def _template(prompt: str, subject: str, hint: str = "{}") -> str:
    """Put ``{}`` in place of the subject: where the hint has it, or else first."""
    expected = hint.index("{}") if hint.count("{}") == 1 else 0
    start = expected if prompt.startswith(subject, expected) else prompt.find(subject)
    if start < 0:
        raise TextError(f"the subject {subject!r} does not occur in the prompt {prompt!r}.")
    return prompt[:start] + "{}" + prompt[start + len(subject) :]


PAIRS: Final = Schema(
    "pairs (template, subject, new_target)", frozenset({"template", "new_target"}), request_from_pair
)
COUNTERFACT: Final = Schema(
    "CounterFact (requested_rewrite)", frozenset({"requested_rewrite"}), read_counterfact_record
)
ZSRE: Final = Schema("zsRE of MEND (src, alt, loc)", frozenset({"src", "alt", "loc"}), read_zsre_record)
CASES: Final = Schema(
    "cases (request)", frozenset({"request"}), lambda record: Case.from_dict(record).request
)
EDITS: Final = (
    Schema("requests (fact, new_target)", frozenset({"fact"}), EditRequest.from_dict),
    CASES,
    PAIRS,
    COUNTERFACT,
    ZSRE,
)
FACTS: Final = (
    Schema("known facts (prompt, attribute)", frozenset({"prompt", "attribute"}), read_known_fact_record),
    Schema("facts (template, subject, target)", frozenset({"template", "target"}), Fact.from_dict),
)
