"""The report of a study: what was found, as data, as sentences, as one HTML file and as JSON."""

from __future__ import annotations

from mechstyle.report.record import Completion, FactResult, LayerChoice, Report
from mechstyle.report.write import write_report

__all__ = ["Completion", "FactResult", "LayerChoice", "Report", "write_report"]
