"""Records that are rows of JSON lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

__all__ = ["JsonRow"]


class JsonRow:
    """A frozen dataclass of plain values, tuples and mappings, as a JSON object and back."""

    def to_dict(self) -> dict[str, Any]:
        """The record as a JSON object, fields in their order."""
        return {name: _plain(value) for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """The record of a JSON object; its lists are tuples."""
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in row.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value
