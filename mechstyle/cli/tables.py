"""Tables and summaries that commands leave in a folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechstyle.files import atomic_write

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["plain", "write_summary", "write_table"]


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


def plain(value: Any) -> Any:
    """A value as JSON knows it: numbers of numpy become Python's, and NaN becomes None."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
