"""How commands find the ledger that they are given, and what they say of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mechstyle.errors import FileError, InputError, ModelError

if TYPE_CHECKING:
    from mechstyle.editing.ledger import Ledger, LedgerEntry
    from mechstyle.models import HookedModel

__all__ = [
    "entry_row",
    "is_unreadable",
    "opened",
    "require_entry",
    "require_ledger",
    "require_own_ledger",
    "require_place",
]


def require_ledger(folder: Path, name: str = "DIR") -> None:
    """Refuse a folder without a ledger, before a model is loaded for it.

    Args:
        name: what the folder is called on the command line.

    Raises:
        FileError: there is none.
    """
    from mechstyle.editing.ledger_files import LedgerFolder

    require_place(folder, name)
    if LedgerFolder.find(folder) is None:
        raise FileError(f"no ledger in {folder}; mechstyle edit --ledger {folder} begins one.")


def is_unreadable(folder: Path, number: int) -> bool:
    """Whether a ledger has an entry of this number whose file is missing or damaged."""
    from mechstyle.editing.ledger_files import LedgerFolder

    files = LedgerFolder.find(folder)
    records = () if files is None else files.document().records
    for record in records:
        if record.number == number and files is not None:
            try:
                files.load(record)
            except FileError:
                return True
    return False


def require_place(folder: Path, name: str) -> None:
    """Refuse what is neither the folder of a ledger nor one in which a ledger could begin.

    Raises:
        FileError: it is a file, or holds something else.
    """
    free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not free and not (folder / "ledger.json").is_file():
        raise FileError(
            f"{name} {folder}: expected a ledger or a new folder, but it holds no ledger.json; name another."
        )


def require_own_ledger(folder: Path, model: HookedModel, name: str) -> None:
    """Refuse a ledger of another model in words of the command line; a new folder is anyone's.

    Args:
        name: that the model was loaded by.

    Raises:
        FileError: the ledger's file is damaged.
        ModelError: it belongs to another model.
    """
    from mechstyle.editing.ledger_files import LedgerFolder
    from mechstyle.models import fingerprint

    files, own = LedgerFolder.find(folder), fingerprint(model)
    wanted = own if files is None else files.document().fingerprint
    if wanted != own:
        raise ModelError(
            f"--model {name}: the ledger in {folder} belongs to another model (its fingerprint is "
            f"{wanted[:12]}, that of {name} is {own[:12]}); name the one that its edits were made for by "
            "--model."
        )


def require_entry(ledger: Ledger, number: int, name: str) -> None:
    """Refuse a number that no entry has.

    Args:
        name: of the option.

    Raises:
        InputError: there is no such entry.
    """
    numbers = [entry.number for entry in ledger.entries]
    if number not in numbers:
        known = ", ".join(map(str, numbers)) if numbers else "there is none"
        raise InputError(f"{name} {number}: expected the number of an entry ({known}).")


@contextmanager
def opened(folder: Path, model: str) -> Iterator[Ledger]:
    """The ledger in a folder, with its active entries in the model's weights.

    Args:
        model: the name that it is loaded by.

    Raises:
        FileError: there is no ledger, or it is damaged.
        ModelError: it belongs to another model.
    """
    from mechstyle.editing.ledger import Ledger
    from mechstyle.models import load_model
    from mechstyle.threads import few_threads

    require_ledger(folder)
    hooked = load_model(model)
    require_own_ledger(folder, hooked, model)
    with few_threads(hooked), Ledger.open(hooked, folder) as ledger:
        yield ledger


def entry_row(entry: LedgerEntry) -> dict[str, object]:
    """What is said of an entry, as JSON values."""
    settings, ratio = entry.edit.provenance.get("settings", {}), entry.health.delta_ratio
    return {
        "number": entry.number,
        "name": entry.name,
        "method": settings.get("method", entry.edit.provenance.get("method")),
        "id": entry.edit.id,
        "active": entry.active,
        "stale": entry.stale,
        "refused": entry.refused,
        "n_requests": len(entry.requests),
        "parameters": list(entry.edit.parameters),
        "delta_ratio": ratio if math.isfinite(ratio) else None,
        "health": entry.health.to_dict(),
        "requests": [request.to_dict() for request in entry.requests],
    }
