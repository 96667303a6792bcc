"""How commands find the ledger that they are given, and what they say of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mechstyle.errors import FileError

if TYPE_CHECKING:
    from mechstyle.editing.ledger import Ledger, LedgerEntry

__all__ = ["entry_row", "opened", "require_ledger"]


def require_ledger(folder: Path) -> None:
    """Refuse a folder without a ledger, before a model is loaded for it.

    Raises:
        FileError: there is none.
    """
    from mechstyle.editing.ledger_files import LedgerFolder

    if LedgerFolder.find(folder) is None:
        raise FileError(f"no ledger in {folder}; mechstyle edit --ledger {folder} begins one.")


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
