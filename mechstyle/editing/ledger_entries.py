"""One entry of a ledger, what it says in a table, and whether it still stands on what it was computed on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from mechstyle.editing.edit import EditSet
from mechstyle.editing.health import Health
from mechstyle.editing.ledger_document import EntryRecord
from mechstyle.facts import EditRequest

__all__ = ["LedgerEntry", "as_frame", "merged_settings", "with_shared_names", "with_stale"]


@dataclass(frozen=True)
class LedgerEntry:
    """One solve in a ledger.

    Args:
        number: from 1 on; that of a removed entry is not used again.
        active: whether the edit is in the weights.
        stale: it was computed on top of an edit that is not active before it.
        health: the model's when this entry was last switched on, or was to be.
        editor: what ``Ledger.write`` called, in words; None for an edit that was given.
        named: the name of its file, where it was read from one.
    """

    number: int
    name: str | None
    edit: EditSet
    active: bool
    stale: bool
    health: Health
    editor: str | None = None
    named: str | None = None

    @property
    def requests(self) -> tuple[EditRequest, ...]:
        """What was asked for."""
        return self.edit.requests

    @property
    def refused(self) -> bool:
        """The last health check did not let it in, see ``health.problems``; it is active only by force."""
        return bool(self.health.problems)

    @cached_property
    def record(self) -> EntryRecord:
        """What the ledger's file says of it."""
        return EntryRecord(
            self.number, self.edit.id, self.active, self.name, self.health, self.editor, self.named
        )


def with_stale(
    entries: Sequence[LedgerEntry], by_hand: Iterable[str], known: Sequence[LedgerEntry] = ()
) -> tuple[LedgerEntry, ...]:
    """Entries that know whether all they were computed on top of is active before them.

    Args:
        by_hand: ids of edits that are active outside of the ledger.
        known: what was found before with the same edits by hand; those it begins with are not looked at anew.
    """
    here, found, same = set(by_hand), list[LedgerEntry](), True
    for place, entry in enumerate(entries):
        before = known[place] if same and place < len(known) else None
        # What matters for those after it are its edit and whether that is active.
        same = before is not None and before.edit is entry.edit and before.active == entry.active
        if before is not None and before.edit is entry.edit:
            stale = before.stale
        else:
            stale = not here.issuperset(_settings(entry.edit).get("on_top_of", ()))
        found.append(entry if entry.stale == stale else replace(entry, stale=stale))
        if entry.active:
            here.add(entry.edit.id)
    return tuple(found)


def with_shared_names(edit: EditSet, names: dict[str, str]) -> EditSet:
    """The edit; ids of what it was computed on top of are the same strings in all edits.

    Args:
        names: the strings so far, to which this edit's are added.
    """
    settings = _settings(edit)
    below = settings.get("on_top_of")
    if not isinstance(below, list) or not all(isinstance(one, str) for one in below):
        return edit
    shared = {**settings, "on_top_of": [names.setdefault(one, one) for one in below]}
    return replace(edit, provenance={**edit.provenance, "settings": shared})


def as_frame(entries: Sequence[LedgerEntry]) -> pd.DataFrame:
    """A row for each entry; figures that were not measured are NaN."""
    columns = {
        "number": [entry.number for entry in entries],
        "name": [entry.name for entry in entries],
        "method": [_settings(entry.edit).get("method") for entry in entries],
        "requests": [len(entry.requests) for entry in entries],
        "active": [entry.active for entry in entries],
        "stale": [entry.stale for entry in entries],
        "refused": [entry.refused for entry in entries],
        "parameters": [", ".join(entry.edit.parameters) for entry in entries],
        "delta_ratio": _figures(entry.health.delta_ratio for entry in entries),
        "perplexity": _figures(entry.health.perplexity for entry in entries),
        "perplexity_ratio": _figures(entry.health.perplexity_ratio for entry in entries),
        "known": _figures(entry.health.known for entry in entries),
        "problems": ["; ".join(entry.health.problems) for entry in entries],
    }
    return pd.DataFrame(columns)


def merged_settings(edits: Sequence[EditSet]) -> dict[str, Any]:
    """What provenance keeps of edits that become one: not their order; ``prepend_bos`` if they agree."""
    parts = []
    for edit in edits:
        settings = {name: value for name, value in _settings(edit).items() if name != "on_top_of"}
        parts.append({"id": edit.id, "provenance": {**edit.provenance, "settings": settings}})
    bos = [_settings(edit).get("prepend_bos") for edit in edits]
    agreed = {} if bos[0] is None or any(one != bos[0] for one in bos) else {"prepend_bos": bos[0]}
    return {**agreed, "merged": parts}


def _settings(edit: EditSet) -> Mapping[str, Any]:
    settings = edit.provenance.get("settings")
    return settings if isinstance(settings, Mapping) else {}


def _figures(numbers: Iterable[float | None]) -> pd.Series[float]:
    return pd.Series([float("nan") if number is None else number for number in numbers], dtype=float)
