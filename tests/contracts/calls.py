"""Every public call that takes a model, small, by the name of the function."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from mechstyle import blocks, models, runs
from mechstyle.cases import Case
from mechstyle.editing import application, keys, targets
from mechstyle.editing.batch_methods import alphaedit, emmet, memit
from mechstyle.editing.covariance import covariance
from mechstyle.editing.covariance_cache import cached_covariance
from mechstyle.editing.edit import EditSet, require_own_model
from mechstyle.editing.finetune import FinetuneOptions, finetune
from mechstyle.editing.health import Health, HealthCheck, measure_health, read_canaries
from mechstyle.editing.layer_sweep import sweep_layers
from mechstyle.editing.ledger import Ledger
from mechstyle.editing.memory import EditCache, last_states
from mechstyle.editing.memory_editors import edit_cache, in_context_edit
from mechstyle.editing.methods import rome
from mechstyle.editing.neuron_edit import neuron_edit
from mechstyle.editing.neurons import knowledge_neurons
from mechstyle.editing.suggest import HparamsWarning, suggest_hparams
from mechstyle.editing.weight_edit import WeightEdit
from mechstyle.evaluation import Essence, Generations, complete, evaluate, perplexity, sample
from mechstyle.evaluation.judging import JudgedGenerations, TargetJudge
from mechstyle.evaluation.measure import Conditions, Measure
from mechstyle.facts import EditRequest, Fact
from mechstyle.sites import Site
from mechstyle.tracing import causal_trace, embedding_sigma, reference_sigma
from tests.contracts.collateral_calls import COLLATERAL_CALLS
from tests.contracts.suite_calls import SUITE_CALLS
from tests.contracts.tracing_calls import TRACING_BACKWARD, TRACING_CALLS, TRACING_ROOMS

__all__ = ["CALLS", "TRAINING", "functions_that_take_a_model"]

Call = Callable[[Any, Path], object]

ROOMS: Final = (
    "mechstyle",
    "mechstyle.models",
    "mechstyle.blocks",
    "mechstyle.runs",
    "mechstyle.tracing",
    "mechstyle.evaluation",
    "mechstyle.editing.application",
    "mechstyle.editing.batch_methods",
    "mechstyle.editing.covariance",
    "mechstyle.editing.covariance_cache",
    "mechstyle.editing.edit",
    "mechstyle.editing.finetune",
    "mechstyle.editing.health",
    "mechstyle.editing.hparams",
    "mechstyle.editing.keys",
    "mechstyle.editing.layer_sweep",
    "mechstyle.editing.ledger",
    "mechstyle.editing.memory",
    "mechstyle.editing.memory_editors",
    "mechstyle.editing.methods",
    "mechstyle.editing.neuron_edit",
    "mechstyle.editing.neurons",
    "mechstyle.editing.suggest",
    "mechstyle.editing.targets",
    *TRACING_ROOMS,
)
"""Where users find functions."""

FACT: Final = Fact("The instrument of {} is the", "Miles Davis", " trumpet")
REQUEST: Final = EditRequest(FACT, " guitar", paraphrases=("Miles Davis plays the",))
OTHER: Final = EditRequest(Fact("{} is the capital of", "Paris", " France"), " Italy of London")
CONTEXTS: Final = ("{}", "The day was long. {}")
TEXTS: Final = ("Miles Davis plays the trumpet.", "Rome is the capital of Italy.", "He was born in London.")
IDS: Final = torch.arange(40, 52).reshape(2, 6)
PADDED: Final = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
FEW: Final = targets.TargetOptions(steps=3)
STEPS: Final = FinetuneOptions(steps=2)
LAYER: Final = 0
"""Of edits, so that gradients flow through the layers above."""


def _edit(model: Any, size: float = 0.5) -> EditSet:
    name = Site(1, "mlp").parameter
    shape = models.parameter(model, name).shape
    change = WeightEdit(name, torch.full((shape[0], 1), size), torch.ones(1, shape[1]))
    return EditSet((change,), models.fingerprint(model), {"settings": {"prepend_bos": False}}, (REQUEST,))


def _applied(model: Any, folder: Path) -> None:
    with _edit(model).applied(model), _edit(model, 0.25).applied(model):
        runs.logits(model, IDS)


def _applied_and_undone(model: Any, folder: Path) -> None:
    first, second = (_edit(model, size).apply_(model) for size in (0.5, 0.25))
    first.undo()
    second.undo()


def _written_and_undone(model: Any, folder: Path) -> None:
    application.apply_edits(model, _edit(model).edits).undo()


def _rome(model: Any, legacy: bool, contexts: tuple[str, ...] | None) -> EditSet:
    eye = {LAYER: torch.eye(model.cfg.d_mlp, dtype=torch.float64)}
    return rome(
        model, REQUEST, layer=LAYER, covariance=eye, contexts=contexts, target_options=FEW, legacy=legacy
    )


def _many(model: Any, call: Callable[..., EditSet], legacy: bool) -> EditSet:
    eye = torch.eye(model.cfg.d_mlp, dtype=torch.float64)
    contexts = None if legacy else CONTEXTS
    return call(
        model, [REQUEST, OTHER], layers=[LAYER, LAYER + 1], covariance={LAYER: eye, LAYER + 1: eye},
        contexts=contexts, target_options=FEW, legacy=legacy,
    )  # fmt: skip


def _without_edits(model: Any, folder: Path) -> None:
    with _edit(model).applied(model), application.without_edits(model):
        runs.logits(model, IDS)


def _reordered(model: Any, folder: Path) -> None:
    first, second = (_edit(model, size).apply_(model) for size in (0.5, 0.25))
    application.put_first(model, [second], instead_of=[first])
    second.undo()


def _new(folder: Path) -> Path:
    """A folder that no call before has written into."""
    return folder / str(len(list(folder.iterdir())))


def _in_a_ledger(model: Any, folder: Path) -> None:
    with Ledger.open(model, _new(folder), health=HealthCheck(texts=TEXTS)) as ledger:
        ledger.add(_edit(model))
        ledger.write(partial(_rome_of, model), [REQUEST])
        ledger.toggle(1)
        ledger.frame()


def _rome_of(_: Any, model: Any, requests: Any) -> EditSet:
    return replace(_rome(model, legacy=False, contexts=CONTEXTS), requests=tuple(requests))


def _cache(model: Any) -> EditCache:
    return edit_cache(model, [REQUEST, OTHER], threshold=0.9, layer=1)


def _in_context(model: Any) -> None:
    edit = in_context_edit(model, REQUEST)
    with edit.applied(model):
        edit.recall(model, TEXTS)


def _healthy(model: Any) -> Health:
    check = HealthCheck(texts=TEXTS)
    return measure_health(model, check, read_canaries(model, check))


def _sweep(model: Any) -> object:
    eye = dict.fromkeys((0, 1), torch.eye(model.cfg.d_mlp, dtype=torch.float64))
    return sweep_layers(
        model, [REQUEST], layers=[0, 1], covariance=eye, contexts=CONTEXTS, target_options=FEW
    )


def _suggested(model: Any) -> object:
    eye = dict.fromkeys((0, 1), torch.eye(model.cfg.d_mlp, dtype=torch.float64))
    with warnings.catch_warnings():
        # A random model may have no layer with a score.
        warnings.simplefilter("ignore", HparamsWarning)
        return suggest_hparams(
            model, "memit", requests=[REQUEST], covariance=eye, layers=[0, 1], contexts=CONTEXTS
        )


_alpha = partial(alphaedit, threshold=1.0)


def _targets(model: Any, kind: targets.TargetKind, batch_size: int | None) -> list[targets.Target]:
    return targets.optimise_targets(
        model, [REQUEST, OTHER], layer=LAYER, contexts=CONTEXTS, options=FEW, kind=kind, batch_size=batch_size
    )


def _record_again(model: Any, folder: Path) -> runs.Recording:
    base = runs.record(model, IDS)
    return runs.record_again(model, base, IDS, start=3, hooks=[("hook_embed", _doubled)])


def _rerun_blocks(model: Any, folder: Path) -> list[torch.Tensor]:
    base = runs.record(model, IDS)
    return runs.rerun_blocks(model, base, base, hooks=[("blocks.1.hook_mlp_out", _doubled)])


def _resume(model: Any, grad: bool) -> torch.Tensor:
    base = runs.record(model, IDS, attention_mask=PADDED)
    entering = base.entering(1, 2).clone().requires_grad_(grad)
    found = runs.resume(model, {1: lambda: entering}, base=base, start=2, n_last=2, grad=grad)
    if grad:
        torch.autograd.grad(found.sum(), entering)
    return found


def _doubled(state: torch.Tensor, hook: Any) -> torch.Tensor:
    return 2 * state


def _first_block(model: Any, call: Callable[..., Any], **last: int) -> object:
    residual = runs.record(model, IDS).entering(1, 0)
    with torch.no_grad():
        return call(model, 1, residual, **last)


def _evaluate(model: Any, edits: bool) -> object:
    given = [_edit(model), replace(_edit(model, 0.25), requests=(OTHER,))] if edits else None
    return evaluate(model, [REQUEST, OTHER], edits=given, generate=True, perplexity_texts=TEXTS)


def _measured(model: Any, measure: Measure) -> object:
    case = Case(REQUEST, prompts=TEXTS[:2], references=TEXTS, essence=TEXTS)
    return measure.prepare(model, [case], Conditions(prepend_bos=False))(None, [0])


CALLS: Final[Mapping[str, Call]] = MappingProxyType(
    {
        "EditSet.apply_": _applied_and_undone,
        "EditSet.applied": _applied,
        "active_base": lambda model, folder: models.active_base(model),
        "active_edits": lambda model, folder: application.active_edits(model),
        "active_ids": lambda model, folder: application.active_ids(model),
        "alphaedit": lambda model, folder: _many(model, _alpha, legacy=False),
        "apply_edits": _written_and_undone,
        "cached_covariance": lambda model, folder: cached_covariance(
            model, TEXTS * 60, layers=[0, 1], n_keys=500, folder=_new(folder)
        ),
        "can_resume": lambda model, folder: blocks.can_resume(model),
        "capture": lambda model, folder: runs.capture(model, IDS, [Site(1, "key")], attention_mask=PADDED),
        "causal_trace by engine auto": lambda model, folder: causal_trace(model, FACT, sigma=0.1, samples=2),
        "causal_trace by engine resume": lambda model, folder: causal_trace(
            model, FACT, kinds=("resid",), samples=3, engine="resume", batch_size=4, answer="predicted"
        ),
        "causal_trace by engine whole": lambda model, folder: causal_trace(
            model, FACT, kinds=("mlp", "attn"), samples=2, engine="whole", metric="logprob"
        ),
        "changed_by_hand": lambda model, folder: application.changed_by_hand(model),
        "complete": lambda model, folder: complete(model, TEXTS, 2),
        "covariance": lambda model, folder: covariance(
            model, TEXTS * 60, layers=[0, 1], n_keys=500, checkpoint=folder / "moments", checkpoint_every=2
        ),
        "decode": lambda model, folder: runs.decode(model, list(IDS), 3, lambda scores: scores.argmax(-1)),
        "default_memory": lambda model, folder: runs.default_memory(model),
        "default_prepend_bos": lambda model, folder: models.default_prepend_bos(model),
        "EditCache.recall": lambda model, folder: _cache(model).recall(model, TEXTS),
        "Essence.prepare": lambda model, folder: _measured(model, Essence()),
        "Generations.prepare": lambda model, folder: _measured(model, Generations(max_length=16)),
        "JudgedGenerations.prepare": lambda model, folder: _measured(
            model, JudgedGenerations(TargetJudge(), "new", max_length=16)
        ),
        "Ledger.open": _in_a_ledger,
        "MemoryEdit.applied": lambda model, folder: _in_context(model),
        "MemoryEdit.recall": lambda model, folder: _in_context(model),
        "edit_cache": lambda model, folder: _cache(model),
        "embedding_sigma": lambda model, folder: embedding_sigma(model, ["Miles Davis", "Paris"]),
        "evaluate": lambda model, folder: _evaluate(model, edits=False),
        "evaluate with edits": lambda model, folder: _evaluate(model, edits=True),
        "entering": lambda model, folder: runs.entering(model, IDS, 2),
        "export_hf": lambda model, folder: models.export_hf(model, folder / "exported"),
        "finetune": lambda model, folder: finetune(
            model,
            REQUEST,
            layers=[0, 1],
            parameters=("mlp.W_out", "attn.W_Q"),
            options=FinetuneOptions(steps=2),
        ),
        "fingerprint": lambda model, folder: models.fingerprint(model),
        "has_hooks": lambda model, folder: blocks.has_hooks(model),
        "in_context_edit": lambda model, folder: _in_context(model),
        "knowledge_neurons": lambda model, folder: knowledge_neurons(model, REQUEST, steps=3),
        "last_states": lambda model, folder: last_states(model, TEXTS, layer=1),
        "keys_values": lambda model, folder: _first_block(model, blocks.keys_values),
        "logits": lambda model, folder: runs.logits(
            model, IDS, attention_mask=PADDED, hooks=[("blocks.1.hook_mlp_out", _doubled)], grad=True
        ),
        "logits of the last position": lambda model, folder: runs.logits(model, IDS, n_last=1),
        "emmet": lambda model, folder: _many(model, emmet, legacy=False),
        "may_resume": lambda model, folder: blocks.may_resume(model),
        "memit": lambda model, folder: _many(model, memit, legacy=False),
        "memit as published with sampled contexts": lambda model, folder: _many(model, memit, legacy=True),
        "memit_contexts": lambda model, folder: keys.memit_contexts(model, 3),
        "measure_health": lambda model, folder: _healthy(model),
        "named_weights": lambda model, folder: models.named_weights(model),
        "neuron_edit": lambda model, folder: neuron_edit(model, REQUEST, steps=3, share=0.1),
        "optimise_target": lambda model, folder: targets.optimise_target(
            model, REQUEST, layer=LAYER, options=FEW
        ),
        "optimise_targets": lambda model, folder: _targets(model, "mlp", None),
        "search_targets": lambda model, folder: targets.search_targets(
            model,
            [REQUEST],
            layer=LAYER,
            contexts=CONTEXTS,
            options=FEW,
            prepend_bos=None,
            kind="mlp",
            stacklevel=2,
        ),
        "optimise_targets of the residual": lambda model, folder: _targets(model, "resid", 1),
        "parameter": lambda model, folder: models.parameter(model, "blocks.1.mlp.W_out"),
        "parameter_value": lambda model, folder: models.parameter_value(model, "embed.W_E"),
        "perplexity": lambda model, folder: perplexity(model, TEXTS, batch_size=2),
        "provenance": lambda model, folder: models.provenance(model, seed=0),
        "put_first": _reordered,
        "read_canaries": lambda model, folder: _healthy(model),
        "record": lambda model, folder: runs.record(
            model, IDS, attention_mask=PADDED, sites=[Site(1, "mlp")], hooks=[("hook_embed", _doubled)]
        ),
        "record_again": _record_again,
        "reference_sigma": lambda model, folder: reference_sigma(model),
        "require_editable": lambda model, folder: models.require_editable(model),
        "require_own_model": lambda model, folder: require_own_model(_edit(model), model),
        "resolve_bos": lambda model, folder: models.resolve_bos(model, True),
        "resume": lambda model, folder: _resume(model, grad=False),
        "resume with gradients": lambda model, folder: _resume(model, grad=True),
        "rome": lambda model, folder: _rome(model, legacy=False, contexts=CONTEXTS),
        "rome as published with sampled contexts": lambda model, folder: _rome(model, True, None),
        "require_resumable": lambda model, folder: blocks.require_resumable(model),
        "edited_weights": lambda model, folder: models.edited_weights(model),
        "rerun_blocks": _rerun_blocks,
        "rows_within": lambda model, folder: runs.rows_within(model, 2**20, width=4, n_positions=6, n_last=1),
        "run_block": lambda model, folder: _first_block(model, blocks.run_block),
        "run_last_block": lambda model, folder: _first_block(model, blocks.run_last_block, n_last=1),
        "sample": lambda model, folder: sample(model, TEXTS, 2),
        "sample_contexts": lambda model, folder: keys.sample_contexts(model, 3, lengths=((3, 2),)),
        "subject_states": lambda model, folder: keys.subject_states(model, [FACT], Site(1, "resid")),
        "suggest_hparams": lambda model, folder: _suggested(model),
        "sweep_layers": lambda model, folder: _sweep(model),
        "through": lambda model, folder: runs.through(
            model, runs.entering(model, IDS, 1), 1, read=[Site(1, "key")]
        ),
        "without_edits": _without_edits,
        "subject_keys": lambda model, folder: keys.subject_keys(model, FACT, layer=1, contexts=CONTEXTS),
        **COLLATERAL_CALLS,
        **SUITE_CALLS,
        **TRACING_CALLS,
    }
)
"""A function's name, and words that tell its calls apart -> a call with a model and an empty folder."""

BACKWARD: Final = (
    "Ledger.open", "alphaedit", "emmet", "finetune", "knowledge_neurons", "memit", "neuron_edit",
    "optimise_target", "optimise_targets", "rome", "search_targets", "suggest_hparams", "sweep_layers",
    *TRACING_BACKWARD,
)  # fmt: skip
TRAINING: Final = tuple(name for name in CALLS if name.split()[0] in BACKWARD)
"""Calls that run backward through the model."""


def functions_that_take_a_model() -> Iterator[str]:
    """Names of public functions, and of public classes' methods, with a parameter ``model``."""
    for room in map(importlib.import_module, ROOMS):
        for name in room.__all__:
            value = getattr(room, name)
            # A protocol says what others do.
            does = inspect.isclass(value) and not getattr(value, "_is_protocol", False)
            methods = vars(value) if does else {}
            for key, found in [("", value), *methods.items()]:
                function = getattr(found, "__func__", found)
                if inspect.isfunction(function) and not (key.startswith("_")) and _takes_a_model(function):
                    yield f"{name}.{key}".rstrip(".")


def _takes_a_model(function: Callable[..., Any]) -> bool:
    annotation = str(inspect.signature(function).parameters.get("model"))
    return "HookedModel" in annotation or "HookedTransformer" in annotation
