"""``mechstyle ledger`` and ``mechstyle undo``: what is in a ledger, and taking edits out again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mechstyle.cli.books import entry_row, is_unreadable, opened, require_entry, require_ledger
from mechstyle.cli.options import ORGANISM, Json, Model, Quiet, Seed
from mechstyle.cli.output import emit
from mechstyle.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from mechstyle.editing.ledger import Ledger, LedgerEntry

__all__ = ["ledger", "undo"]

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The ledger's folder.")]


def ledger(
    folder: Folder,
    model: Model = ORGANISM,
    toggle: Annotated[
        int | None, typer.Option("--toggle", help="Switch this entry off, or on again in its old place.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="With --toggle: switch on what a health check refused.")
    ] = False,
    remove: Annotated[
        int | None, typer.Option("--remove", help="Take this entry out for good, with its file.")
    ] = None,
    interactions: Annotated[
        bool, typer.Option("--interactions", help="How the active entries meet, and who breaks whom.")
    ] = False,
    merge: Annotated[
        Path | None, typer.Option("--merge", help="Save the active entries as one edit, as safetensors.")
    ] = None,
    as_json: Json = False,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """List the edits of a ledger, or change one: weights are the original ones plus all active entries."""
    chosen = [toggle is not None, remove is not None, interactions, merge is not None]
    if sum(chosen) > 1:
        raise InputError("give one of --toggle N, --remove N, --interactions and --merge FILE at a time.")
    if force and toggle is None:
        raise InputError("--force belongs to --toggle N: it switches a refused entry on.")
    require_ledger(folder)
    if merge is not None:
        from mechstyle.outputs import require_writable

        require_writable(merge)
    with opened(folder, model) as book:
        summary: dict[str, Any] = {"ledger": str(folder), "model": model}
        lines: list[str] = []
        if toggle is not None:
            require_entry(book, toggle, "--toggle")
            if not force:
                _require_let_in(book, toggle)
            summary["toggled"] = toggle
            state = "on" if book.toggle(toggle, force=force).active else "off"
            lines.append(f"entry {toggle} is {state} now")
        if remove is not None:
            require_entry(book, remove, "--remove")
            summary["removed"] = entry_row(book.remove(remove))
            lines.append(f"entry {remove} is gone")
        if merge is not None:
            book.merged().save(merge)
            summary["merged"] = str(merge)
        summary["entries"] = [entry_row(entry) for entry in book.entries]
        lines += _table(book)
        if interactions:
            found = book.interactions()
            summary["interactions"] = _records(found)
            lines += ["", *_meetings(found)]
        lines += [] if merge is None else [str(merge)]
    emit(summary, "\n".join(lines), as_json=as_json)


def undo(
    folder: Folder,
    number: Annotated[
        int | None,
        typer.Argument(metavar="[N]", help="The entry; else the last active one."),
    ] = None,
    model: Model = ORGANISM,
    as_json: Json = False,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Take an edit out of a ledger for good; mechstyle ledger --toggle only switches it off.

    Entry N goes also when its file is missing or damaged.
    """
    require_ledger(folder)
    if number is not None and is_unreadable(folder, number):
        from mechstyle.editing.ledger import Ledger

        Ledger.forget(folder, number)
        gone_record = {"ledger": str(folder), "model": model, "removed": {"number": number}}
        emit(gone_record, f"entry {number} is gone; its file could not be read", as_json=as_json)
        return
    with opened(folder, model) as book:
        if number is not None:
            require_entry(book, number, "N")
        gone = book.undo() if number is None else book.remove(number)
        entries = [entry_row(entry) for entry in book.entries]
        lines = [f"entry {gone.number} is gone: {_asked(gone)}", *_table(book)]
    summary = {"ledger": str(folder), "model": model, "removed": entry_row(gone), "entries": entries}
    emit(summary, "\n".join(lines), as_json=as_json)


def _require_let_in(book: Ledger, number: int) -> None:
    """Refuse to switch on what a health check refused."""
    entry = next(one for one in book.entries if one.number == number)
    if entry.refused and not entry.active:
        raise InputError(
            f"--toggle {number}: the entry was refused, because {'; '.join(entry.health.problems)}; --force "
            "switches it on all the same."
        )


def _table(book: Ledger) -> list[str]:
    """A line for each entry."""
    rows = [("entry", "state", "method", "requests", "change", "perplexity", "known", "first request")]
    for entry in book.entries:
        row, health = entry_row(entry), entry.health
        rows.append(
            (
                str(entry.number),
                _state(entry),
                str(row["method"] or "-"),
                str(len(entry.requests)),
                f"{health.delta_ratio:.2%}",
                "-" if health.perplexity_ratio is None else f"x{health.perplexity_ratio:.3f}",
                "-" if health.known is None else f"{health.known:.0%}",
                _asked(entry),
            )
        )
    if len(rows) == 1:
        return ["no entries"]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return ["  ".join(row).rstrip() for row in padded]


def _state(entry: LedgerEntry) -> str:
    state = "refused" if entry.refused and not entry.active else "on" if entry.active else "off"
    return f"{state}, stale" if entry.stale else state


def _asked(entry: LedgerEntry) -> str:
    if entry.name is not None or not entry.requests:
        return entry.name or "-"
    first = entry.requests[0]
    more = f" and {len(entry.requests) - 1} more" if len(entry.requests) > 1 else ""
    return f"{first.fact.prompt!r} -> {first.new_target!r}{more}"


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as JSON values; what is not a number is null."""
    whole = frame.astype(object).where(frame.notna(), None)
    return [{str(name): value for name, value in row.items()} for row in whole.to_dict("records")]


def _meetings(frame: pd.DataFrame) -> list[str]:
    """Those pairs that meet most, by how much the second disturbs what the first wrote."""
    if frame.empty:
        return ["fewer than two active entries: nothing meets"]
    return [str(line) for line in frame.to_string(index=False, float_format="%.3f").splitlines()]
