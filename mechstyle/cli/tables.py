"""Tables and summaries that commands leave in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechstyle.files import atomic_write

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["write_summary", "write_table"]


def write_table(table: pd.DataFrame, path: Path) -> Path:
    """A table as CSV, whole or not at all; the index is a column when it has a name."""
    with atomic_write(path) as part:
        table.to_csv(part, index=table.index.name is not None)
    return path


def write_summary(summary: Mapping[str, Any], path: Path) -> Path:
    """A summary as JSON, whole or not at all."""
    with atomic_write(path) as part:
        part.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
