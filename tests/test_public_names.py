"""The public names are pinned here: a name that scripts use may be added, never lost."""

from __future__ import annotations

import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mechstyle

PINNED = {
    "Case", "Question", "SuiteResult", "compare_scores", "complete", "evaluation", "reproduce", "run_suite",
    "sample",
    "Contrast", "CorruptTokens", "Covariance", "EditCache", "EditRequest", "EditSet", "ErasePredictor",
    "Fact", "FinetuneOptions", "GaussianNoise", "HealthCheck", "Hyperparameters", "InContextEdit",
    "KnowledgeNeurons", "Ledger", "LocalisationCheck", "LogitLens", "MeanAblation", "ModelComparison",
    "ModelInfo", "PromptComparison", "Receiver", "RemoveDirection", "Saliency", "Scores", "Site",
    "StudyConfig", "SwapWords", "TargetOptions", "TokenReplacement", "Trace", "TraceSet", "UniformNoise",
    "WeightEdit", "__version__", "activation_patching", "alphaedit", "attribution_patching",
    "average_by_role", "average_effects", "average_variants", "cached_covariance", "causal_trace",
    "compare_models", "compare_prompts", "covariance", "datasets", "ease_of_recall", "edit_cache",
    "embedding_effects", "emmet", "errors", "evaluate", "export_hf", "finetune", "fingerprint",
    "gradient_log", "hyperparameters", "in_context_edit", "knowledge_neurons", "list_models", "load_edit",
    "load_model", "localisation_vs_editability", "logit_lens", "memit", "neuron_edit", "normalized_effect",
    "organisms", "path_patching", "perplexity", "plot", "rank_correlation", "relatedness", "requests", "rome",
    "run_study", "saliency", "sample_contexts", "subject_variants", "suggest_hparams", "suggest_layers",
    "total_effects", "trace_facts",
}  # fmt: skip

SIGNATURES = {
    "load_model": "name_or_path_or_hf, *, tokenizer, device, dtype",
    "export_hf": "model, folder",
    "causal_trace": "model, fact, *, kinds, corruption, noise, sigma, metric, answer, samples, seed, window, "
    "prepend_bos, batch_size",
    "covariance": "model, texts, *, layers, n_keys, prepend_bos",
    "rome": "model, request, *, layer, covariance, contexts, target_options, legacy, seed, prepend_bos",
    "memit": "model, requests, *, layers, covariance, mom2_weight, contexts, target_options, legacy, seed, "
    "prepend_bos",
    "emmet": "model, requests, *, layers, covariance, ridge, contexts, target_options, legacy, seed, "
    "prepend_bos",
    "finetune": "model, requests, *, layers, parameters, options, preserve, schedule, log_all, seed, "
    "prepend_bos, progress",
    "knowledge_neurons": "model, fact, *, templates, steps, threshold, share, rule, prepend_bos, batch_size",
    "neuron_edit": "model, requests, *, neurons, mode, old_factor, new_factor, relative, templates, steps, "
    "threshold, share, rule, prepend_bos",
    "edit_cache": "model, requests, *, threshold, layer, epsilon, prepend_bos",
    "in_context_edit": "model, requests, *, template, prepend_bos",
    "evaluate": "model, requests, *, edits, prepend_bos",
    "run_suite": "model, cases, measures, *, edits, prepend_bos, batch_size, seed, at_once, "
    "collateral_edits, folder, progress",
    "compare_scores": "scores, reference, *, stage, ci",
    "sample": "model, prompts, n_tokens, *, top_k, temperature, seed",
    "complete": "model, prompts, n_tokens, *, prepend_bos",
    "reproduce": "manifest, *, data, folder, limit",
    "load_edit": "path",
    "Fact": "template, subject, target",
    "EditRequest": "fact, new_target, paraphrases, neighborhood",
    "FinetuneOptions": "steps, lr, weight_decay, early_stop, norm_constraint, kl_factor, data_factor, loss, "
    "batch_size",
    "TargetOptions": "steps, lr, weight_decay, kl_factor, clamp_norm, early_stop",
}


def test_the_public_names_are_the_pinned_ones() -> None:
    assert set(mechstyle.__all__) == PINNED
    assert set(dir(mechstyle)) == PINNED


@pytest.mark.parametrize("name", sorted(PINNED))
def test_every_public_name_can_be_used_and_is_documented(name: str) -> None:
    value = getattr(mechstyle, name)
    if name != "__version__":
        assert value.__doc__


@pytest.mark.parametrize("name", SIGNATURES)
def test_arguments_have_the_documented_names(name: str) -> None:
    parameters = inspect.signature(getattr(mechstyle, name)).parameters
    keyword_only = False
    for argument in SIGNATURES[name].split(", "):
        if argument == "*":
            keyword_only = True
            continue
        assert argument in parameters, f"{name} lost its argument {argument}"
        assert (parameters[argument].kind is inspect.Parameter.KEYWORD_ONLY) == keyword_only


def test_the_version_is_the_same_in_the_package_and_its_metadata() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    assert mechstyle.__version__ == project["version"]


def test_readers_of_data_sets_are_public() -> None:
    readers = (
        "read_counterfact read_known_facts read_zsre read_requests read_pairs read_edit_file read_fact_file"
    )
    cases = "read_cases read_taxi write_cases known_fact_cases"
    for name in (*readers.split(), *cases.split(), "write_requests"):
        assert callable(getattr(mechstyle.datasets, name))
    for name in ("change_relation", "requests_from_pairs", "with_keep", "check_requests"):
        assert callable(getattr(mechstyle.requests, name))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'mechstyle' has no attribute 'memory'"):
        _ = mechstyle.memory


def test_a_bare_import_loads_neither_torch_nor_transformer_lens() -> None:
    heavy = "torch transformer_lens transformers pandas xarray plotly circuitsvis"
    code = (
        "import sys, mechstyle, mechstyle.facts, mechstyle.errors, mechstyle.cli; "
        f"print([name for name in {heavy.split()!r} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
