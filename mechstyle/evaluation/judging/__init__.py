"""Judges: what gives generated texts their labels, and how often it is right."""

from __future__ import annotations

from mechstyle.evaluation.judging.accuracy import Accuracy, Share
from mechstyle.evaluation.judging.judge import Judge, Judged, Verdict, measure_accuracy
from mechstyle.evaluation.judging.judged import JudgedGenerations
from mechstyle.evaluation.judging.llm_judge import LLMJudge
from mechstyle.evaluation.judging.local_judge import ClassifierJudge
from mechstyle.evaluation.judging.rates import JudgedRate, corrected_rate, judged_rate
from mechstyle.evaluation.judging.rule_judge import RuleJudge, TargetJudge

__all__ = [
    "Accuracy",
    "ClassifierJudge",
    "Judge",
    "Judged",
    "JudgedGenerations",
    "JudgedRate",
    "LLMJudge",
    "RuleJudge",
    "Share",
    "TargetJudge",
    "Verdict",
    "corrected_rate",
    "judged_rate",
    "measure_accuracy",
]
