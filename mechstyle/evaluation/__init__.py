"""Evaluation: how well an edit works, what else it moved, and how sure that is."""

from __future__ import annotations

from mechstyle.evaluation.beliefs import BeliefConsistency
from mechstyle.evaluation.collateral import perplexity
from mechstyle.evaluation.differences import compare, compare_scores, paired_differences
from mechstyle.evaluation.divergence import Divergence
from mechstyle.evaluation.drawdown import accuracy_rows, success_and_drawdown
from mechstyle.evaluation.edits import BosMismatchWarning
from mechstyle.evaluation.essence import Essence
from mechstyle.evaluation.fluency import fluency
from mechstyle.evaluation.generation import complete
from mechstyle.evaluation.generations import Generations
from mechstyle.evaluation.harness import HarnessTasks
from mechstyle.evaluation.intervals import METRICS, metrics_in
from mechstyle.evaluation.judging import (
    Accuracy,
    ClassifierJudge,
    Judge,
    Judged,
    JudgedGenerations,
    JudgedRate,
    LLMJudge,
    RuleJudge,
    TargetJudge,
    Verdict,
    corrected_rate,
    judged_rate,
    measure_accuracy,
)
from mechstyle.evaluation.macro_average import macro_average
from mechstyle.evaluation.measure import Conditions, Harmonic, Measure, Metric
from mechstyle.evaluation.questions import Questions
from mechstyle.evaluation.request_scores import RequestScores
from mechstyle.evaluation.sampling import sample
from mechstyle.evaluation.scores import Scores, evaluate
from mechstyle.evaluation.similarity import TfidfSpace, consistency
from mechstyle.evaluation.suite import run_suite
from mechstyle.evaluation.suite_file import Suite, packaged_suites, read_suite
from mechstyle.evaluation.suite_result import SuiteResult
from mechstyle.evaluation.summaries import by_relation, summarise_rows
from mechstyle.evaluation.task_files import organism_task, read_task, sentiment_task, subjectivity_task
from mechstyle.evaluation.tasks import Task, TaskItem, Tasks
from mechstyle.evaluation.text_perplexity import HeldOutPerplexity

__all__ = [
    "METRICS",
    "Accuracy",
    "BeliefConsistency",
    "BosMismatchWarning",
    "ClassifierJudge",
    "Conditions",
    "Divergence",
    "Essence",
    "Generations",
    "Harmonic",
    "HarnessTasks",
    "HeldOutPerplexity",
    "Judge",
    "Judged",
    "JudgedGenerations",
    "JudgedRate",
    "LLMJudge",
    "Measure",
    "Metric",
    "Questions",
    "RequestScores",
    "RuleJudge",
    "Scores",
    "Suite",
    "SuiteResult",
    "TargetJudge",
    "Task",
    "TaskItem",
    "Tasks",
    "TfidfSpace",
    "Verdict",
    "accuracy_rows",
    "by_relation",
    "compare",
    "compare_scores",
    "complete",
    "consistency",
    "corrected_rate",
    "evaluate",
    "fluency",
    "judged_rate",
    "macro_average",
    "measure_accuracy",
    "metrics_in",
    "organism_task",
    "packaged_suites",
    "paired_differences",
    "perplexity",
    "read_suite",
    "read_task",
    "run_suite",
    "sample",
    "sentiment_task",
    "subjectivity_task",
    "success_and_drawdown",
    "summarise_rows",
]
