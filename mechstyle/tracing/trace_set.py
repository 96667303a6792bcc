"""`TraceSet`: the traces of many facts, in memory or in a folder, and what was left out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, overload

import pandas as pd

from mechstyle.errors import FileError, InputError
from mechstyle.facts import Fact
from mechstyle.tracing.aggregate import Over, average_by_role
from mechstyle.tracing.manifest import Line, Manifest
from mechstyle.tracing.trace import Trace

__all__ = ["TraceSet"]

COLUMNS = ("prompt", "subject", "target", "relation", "reason", "detail")


@dataclass(frozen=True, eq=False)
class TraceSet(Sequence[Trace]):
    """Traces of many facts by one model with the same settings: a sequence, of which slices are sets too.

    Traces in a folder are read when they are asked for, one at a time, and not kept.

    Attributes:
        facts: the facts that were traced, in order.
        settings: fingerprint and number format of the model, mechstyle's version, the tracer and its options.

    Example:
        >>> traces = trace_facts(model, facts, folder="traces")
        >>> traces.average().query("role == 'last subject token'")
    """

    facts: tuple[Fact, ...]
    settings: Mapping[str, Any]
    _traces: tuple[Trace | Path, ...]
    _skipped: tuple[Line, ...] = ()

    @classmethod
    def of(cls, traces: Sequence[Trace]) -> TraceSet:
        """A set of traces that were made one by one; each must be the trace of a fact.

        Raises:
            InputError: no traces, or one that is not of a fact.

        Example:
            >>> TraceSet.of([causal_trace(model, fact) for fact in facts]).average()
        """
        if not traces:
            raise InputError("traces: expected at least one trace, got none.")
        facts = []
        for index, trace in enumerate(traces):
            if not isinstance(trace, Trace) or not trace.settings.get("fact"):
                raise InputError(f"traces: expected traces of facts, but number {index} is none.")
            facts.append(Fact.from_dict(trace.settings["fact"]))
        return cls(tuple(facts), MappingProxyType({}), tuple(traces))

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> TraceSet:
        """The traces in a folder that `trace_facts` wrote; after a run that was broken off, those of it.

        Raises:
            FileError: the folder has no manifest, or no trace yet.

        Example:
            >>> TraceSet.load("traces").skipped["reason"].value_counts()
        """
        manifest = Manifest.read(folder)
        place = Path(folder)
        there = [line for line in manifest.lines if line.file is not None and (place / line.file).is_file()]
        if not there:
            raise FileError(f"folder: {os.fspath(folder)!r} holds no trace yet. Run trace_facts again.")
        return cls(
            tuple(line.fact for line in there),
            MappingProxyType(dict(manifest.settings)),
            tuple(place / str(line.file) for line in there),
            tuple(line for line in manifest.lines if line.reason is not None),
        )

    def __len__(self) -> int:
        return len(self.facts)

    @overload
    def __getitem__(self, index: int) -> Trace: ...
    @overload
    def __getitem__(self, index: slice) -> TraceSet: ...
    def __getitem__(self, index: int | slice) -> Trace | TraceSet:
        if isinstance(index, slice):
            return replace(self, facts=self.facts[index], _traces=self._traces[index])
        found = self._traces[index]
        return found if isinstance(found, Trace) else Trace.load(found)

    def __iter__(self) -> Iterator[Trace]:
        return (self[index] for index in range(len(self)))

    @property
    def skipped(self) -> pd.DataFrame:
        """The facts that were left out: prompt, subject, target, relation, reason and detail of each."""
        rows = [{**asdict(line.fact), "prompt": line.fact.prompt, **_why(line)} for line in self._skipped]
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def average(
        self,
        *,
        over: Over = "facts and draws",
        level: float = 0.95,
        resamples: int = 1000,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Average indirect effects by kind, token role and layer, with intervals; see `average_by_role`.

        Raises:
            InputError: the traces cannot be compared.
            RangeError: `level` or `resamples` is out of range.
            FileError: a trace in the folder is gone or damaged.

        Example:
            >>> traces.average(level=0.9)
        """
        return average_by_role(self, over=over, level=level, resamples=resamples, seed=seed)


def _why(line: Line) -> dict[str, str | None]:
    return {"reason": line.reason, "detail": line.detail}
