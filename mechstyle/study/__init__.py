"""The main job: trace facts, choose a layer, write them, score what was written, and report."""

from __future__ import annotations

from mechstyle.report.record import Report
from mechstyle.study.config import StudyConfig
from mechstyle.study.run import run_study

__all__ = ["Report", "StudyConfig", "run_study"]
