"""Published figures, each with its table, paper, number of records and scale (``published.toml``)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal, get_args

from mechstyle.errors import InputError

__all__ = ["Figure", "PublishedRow", "Spread", "published_row", "published_rows"]

TABLE: Final = "published.toml"
Spread = Literal["share", "harmonic", "ours"]
"""How the sampling error of a figure is found: see ``verdict.tolerances``."""


@dataclass(frozen=True)
class Figure:
    """One printed number.

    Args:
        metric: as ours is called: efficacy, paraphrase, neighborhood, score, fluency or consistency.
        printed: as it stands in the paper.
        scale: ``printed / scale`` is in our units; 100 where the paper prints percents.
        decimals: digits printed behind the point.
        ours: the row of our summaries that is the same measurement.

    Example:
        >>> Figure("efficacy", 99.1, 100.0, 1, "efficacy", "share").value
        0.991
    """

    metric: str
    printed: float
    scale: float
    decimals: int
    ours: str
    spread: Spread

    def __post_init__(self) -> None:
        if self.spread not in get_args(Spread):
            raise InputError(f"spread: expected one of {', '.join(get_args(Spread))}, got {self.spread!r}.")

    @property
    def value(self) -> float:
        """In our units."""
        return self.printed / self.scale

    @property
    def rounding(self) -> float:
        """Half a unit of the last printed digit, in our units."""
        return 0.5 / 10.0**self.decimals / self.scale


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table: a model under an editor.

    Args:
        table: id of the table.
        records: that the figures are a mean of; None where that is not known.
        records_source: where that number is from.
    """

    table: str
    title: str
    source: str
    model: str
    editor: str
    figures: tuple[Figure, ...]
    records: int | None = None
    records_source: str | None = None

    @property
    def label(self) -> str:
        """Table, model and editor.

        Example:
            >>> published_row("rome-counterfact", "gpt2-xl", "ROME").label
            'rome-counterfact: gpt2-xl, ROME'
        """
        return f"{self.table}: {self.model}, {self.editor}"


def published_rows() -> tuple[PublishedRow, ...]:
    """Every row that is known, table by table.

    Example:
        >>> published_rows()[0].source
        'Meng et al. 2022 (ROME), tables 4 and 5'
    """
    return _rows()


def published_row(table: str, model: str, editor: str) -> PublishedRow:
    """One row.

    Raises:
        InputError: there is no such row; the rows of the table, or the tables, are named.

    Example:
        >>> published_row("rome-counterfact", "gpt2-xl", "ROME").figures[0].printed
        89.2
    """
    rows = [row for row in _rows() if row.table == table]
    if not rows:
        known = ", ".join(dict.fromkeys(row.table for row in _rows()))
        raise InputError(f"table: expected one of {known}, got {table!r}.")
    found = next((row for row in rows if (row.model, row.editor) == (model, editor)), None)
    if found is None:
        there = "; ".join(f"{row.model}, {row.editor}" for row in rows)
        raise InputError(f"row: table {table} has no row for {model!r}, {editor!r}; it has: {there}.")
    return found


@cache
def _rows() -> tuple[PublishedRow, ...]:
    data = tomllib.loads(files(__package__).joinpath(TABLE).read_text(encoding="utf-8"))
    return tuple(_row(table, row) for table in data["tables"] for row in table["rows"])


def _row(table: Mapping[str, Any], row: Mapping[str, Any]) -> PublishedRow:
    figures = tuple(
        Figure(metric, float(printed), table["scale"], table["decimals"], **table["measures"][metric])
        for metric, printed in row["figures"].items()
    )
    return PublishedRow(
        table["id"],
        table["title"],
        table["source"],
        row["model"],
        row["editor"],
        figures,
        row.get("records"),
        table.get("records_source"),
    )
