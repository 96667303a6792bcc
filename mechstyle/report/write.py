"""Write a study: one HTML file that needs nothing else, and the same numbers as JSON."""

from __future__ import annotations

import json

from mechstyle.files import atomic_write
from mechstyle.report.html import render
from mechstyle.report.record import Report
from mechstyle.report.results import results

__all__ = ["write_report"]


def write_report(report: Report) -> None:
    """Write ``report.html`` and ``results.json`` into the report's folder, each whole or not at all.

    Raises:
        FileError: a file cannot be written.

    Example:
        >>> write_report(report)  # doctest: +SKIP
    """
    page = render(report)
    numbers = json.dumps(results(report), indent=1, ensure_ascii=False, allow_nan=False)
    with atomic_write(report.results) as part:
        part.write_text(numbers + "\n", encoding="utf-8")
    with atomic_write(report.html) as part:
        part.write_text(page, encoding="utf-8")
