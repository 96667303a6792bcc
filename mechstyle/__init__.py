"""mechstyle: trace where a language model keeps a fact or a style, edit it there, score the edit and show it.

The public API on one screen. Names are imported when first used, so that ``import mechstyle`` stays fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mechstyle import datasets, errors, evaluation, organisms, plot, requests
    from mechstyle.cases import Case, Question
    from mechstyle.editing.batch_methods import alphaedit, emmet, memit
    from mechstyle.editing.covariance import Covariance, covariance
    from mechstyle.editing.covariance_cache import cached_covariance
    from mechstyle.editing.edit import EditSet, WeightEdit
    from mechstyle.editing.finetune import finetune, gradient_log
    from mechstyle.editing.finetune_options import FinetuneOptions
    from mechstyle.editing.health import HealthCheck
    from mechstyle.editing.hparams import Hyperparameters, hyperparameters
    from mechstyle.editing.keys import sample_contexts
    from mechstyle.editing.ledger import Ledger
    from mechstyle.editing.loading import load_edit
    from mechstyle.editing.memory import EditCache, InContextEdit
    from mechstyle.editing.memory_editors import edit_cache, in_context_edit
    from mechstyle.editing.methods import rome
    from mechstyle.editing.neuron_edit import neuron_edit
    from mechstyle.editing.neurons import KnowledgeNeurons, knowledge_neurons
    from mechstyle.editing.suggest import suggest_hparams
    from mechstyle.editing.target_options import TargetOptions
    from mechstyle.evaluation.collateral import perplexity
    from mechstyle.evaluation.differences import compare_scores
    from mechstyle.evaluation.generation import complete
    from mechstyle.evaluation.sampling import sample
    from mechstyle.evaluation.scores import Scores, evaluate
    from mechstyle.evaluation.suite import run_suite
    from mechstyle.evaluation.suite_result import SuiteResult
    from mechstyle.facts import EditRequest, Fact
    from mechstyle.models import ModelInfo, export_hf, fingerprint, list_models, load_model
    from mechstyle.sites import Site
    from mechstyle.study import StudyConfig, run_study
    from mechstyle.study.editability import localisation_vs_editability
    from mechstyle.study.localisation import LocalisationCheck
    from mechstyle.study.reproduce.run import reproduce
    from mechstyle.tracing.aggregate import average_by_role, suggest_layers, total_effects
    from mechstyle.tracing.attribution import attribution_patching
    from mechstyle.tracing.causal_trace import causal_trace
    from mechstyle.tracing.compare_models import ModelComparison, compare_models
    from mechstyle.tracing.compare_prompts import PromptComparison, compare_prompts
    from mechstyle.tracing.corruption import GaussianNoise, UniformNoise
    from mechstyle.tracing.embedding_changes import CorruptTokens, SwapWords
    from mechstyle.tracing.embedding_removal import ErasePredictor, RemoveDirection
    from mechstyle.tracing.embeddings import average_effects, embedding_effects
    from mechstyle.tracing.logit_lens import LogitLens, logit_lens
    from mechstyle.tracing.patching import activation_patching, normalized_effect
    from mechstyle.tracing.path_ends import Receiver
    from mechstyle.tracing.path_patching import path_patching
    from mechstyle.tracing.rank_correlation import rank_correlation
    from mechstyle.tracing.relatedness import ease_of_recall, relatedness
    from mechstyle.tracing.replacement import MeanAblation, TokenReplacement
    from mechstyle.tracing.saliency import Saliency, saliency
    from mechstyle.tracing.subject_variants import average_variants, subject_variants
    from mechstyle.tracing.targets import Contrast
    from mechstyle.tracing.trace import Trace
    from mechstyle.tracing.trace_facts import trace_facts
    from mechstyle.tracing.trace_set import TraceSet

__version__ = "0.1.0"

_HOMES = {
    "Case": "cases",
    "Contrast": "tracing.targets",
    "CorruptTokens": "tracing.embedding_changes",
    "Covariance": "editing.covariance",
    "EditCache": "editing.memory",
    "EditRequest": "facts",
    "EditSet": "editing.edit",
    "ErasePredictor": "tracing.embedding_removal",
    "Fact": "facts",
    "FinetuneOptions": "editing.finetune_options",
    "GaussianNoise": "tracing.corruption",
    "HealthCheck": "editing.health",
    "Hyperparameters": "editing.hparams",
    "InContextEdit": "editing.memory",
    "KnowledgeNeurons": "editing.neurons",
    "Ledger": "editing.ledger",
    "LocalisationCheck": "study.localisation",
    "LogitLens": "tracing.logit_lens",
    "MeanAblation": "tracing.replacement",
    "ModelComparison": "tracing.compare_models",
    "ModelInfo": "models",
    "PromptComparison": "tracing.compare_prompts",
    "Question": "cases",
    "Receiver": "tracing.path_ends",
    "RemoveDirection": "tracing.embedding_removal",
    "Saliency": "tracing.saliency",
    "Scores": "evaluation.scores",
    "Site": "sites",
    "StudyConfig": "study",
    "SuiteResult": "evaluation.suite_result",
    "SwapWords": "tracing.embedding_changes",
    "TargetOptions": "editing.target_options",
    "TokenReplacement": "tracing.replacement",
    "Trace": "tracing.trace",
    "TraceSet": "tracing.trace_set",
    "UniformNoise": "tracing.corruption",
    "WeightEdit": "editing.edit",
    "activation_patching": "tracing.patching",
    "alphaedit": "editing.batch_methods",
    "attribution_patching": "tracing.attribution",
    "average_by_role": "tracing.aggregate",
    "average_effects": "tracing.embeddings",
    "average_variants": "tracing.subject_variants",
    "cached_covariance": "editing.covariance_cache",
    "causal_trace": "tracing.causal_trace",
    "compare_models": "tracing.compare_models",
    "compare_prompts": "tracing.compare_prompts",
    "compare_scores": "evaluation.differences",
    "complete": "evaluation.generation",
    "covariance": "editing.covariance",
    "ease_of_recall": "tracing.relatedness",
    "edit_cache": "editing.memory_editors",
    "embedding_effects": "tracing.embeddings",
    "emmet": "editing.batch_methods",
    "evaluate": "evaluation.scores",
    "export_hf": "models",
    "finetune": "editing.finetune",
    "fingerprint": "models",
    "gradient_log": "editing.finetune",
    "hyperparameters": "editing.hparams",
    "in_context_edit": "editing.memory_editors",
    "knowledge_neurons": "editing.neurons",
    "list_models": "models",
    "load_edit": "editing.loading",
    "load_model": "models",
    "localisation_vs_editability": "study.editability",
    "logit_lens": "tracing.logit_lens",
    "memit": "editing.batch_methods",
    "neuron_edit": "editing.neuron_edit",
    "normalized_effect": "tracing.patching",
    "path_patching": "tracing.path_patching",
    "perplexity": "evaluation.collateral",
    "rank_correlation": "tracing.rank_correlation",
    "relatedness": "tracing.relatedness",
    "reproduce": "study.reproduce.run",
    "rome": "editing.methods",
    "run_study": "study",
    "run_suite": "evaluation.suite",
    "saliency": "tracing.saliency",
    "sample": "evaluation.sampling",
    "sample_contexts": "editing.keys",
    "subject_variants": "tracing.subject_variants",
    "suggest_hparams": "editing.suggest",
    "suggest_layers": "tracing.aggregate",
    "total_effects": "tracing.aggregate",
    "trace_facts": "tracing.trace_facts",
}
_MODULES = ("datasets", "errors", "evaluation", "organisms", "plot", "requests")

__all__ = [
    "Case",
    "Contrast",
    "CorruptTokens",
    "Covariance",
    "EditCache",
    "EditRequest",
    "EditSet",
    "ErasePredictor",
    "Fact",
    "FinetuneOptions",
    "GaussianNoise",
    "HealthCheck",
    "Hyperparameters",
    "InContextEdit",
    "KnowledgeNeurons",
    "Ledger",
    "LocalisationCheck",
    "LogitLens",
    "MeanAblation",
    "ModelComparison",
    "ModelInfo",
    "PromptComparison",
    "Question",
    "Receiver",
    "RemoveDirection",
    "Saliency",
    "Scores",
    "Site",
    "StudyConfig",
    "SuiteResult",
    "SwapWords",
    "TargetOptions",
    "TokenReplacement",
    "Trace",
    "TraceSet",
    "UniformNoise",
    "WeightEdit",
    "__version__",
    "activation_patching",
    "alphaedit",
    "attribution_patching",
    "average_by_role",
    "average_effects",
    "average_variants",
    "cached_covariance",
    "causal_trace",
    "compare_models",
    "compare_prompts",
    "compare_scores",
    "complete",
    "covariance",
    "datasets",
    "ease_of_recall",
    "edit_cache",
    "embedding_effects",
    "emmet",
    "errors",
    "evaluate",
    "evaluation",
    "export_hf",
    "finetune",
    "fingerprint",
    "gradient_log",
    "hyperparameters",
    "in_context_edit",
    "knowledge_neurons",
    "list_models",
    "load_edit",
    "load_model",
    "localisation_vs_editability",
    "logit_lens",
    "memit",
    "neuron_edit",
    "normalized_effect",
    "organisms",
    "path_patching",
    "perplexity",
    "plot",
    "rank_correlation",
    "relatedness",
    "reproduce",
    "requests",
    "rome",
    "run_study",
    "run_suite",
    "saliency",
    "sample",
    "sample_contexts",
    "subject_variants",
    "suggest_hparams",
    "suggest_layers",
    "total_effects",
    "trace_facts",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"mechstyle.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(f"mechstyle.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'mechstyle' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
