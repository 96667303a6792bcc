"""The stages of a study, in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from mechstyle import organisms
from mechstyle.datasets import write_requests
from mechstyle.documents import Documents, documents_for
from mechstyle.editing.covariance import Covariance, covariance
from mechstyle.editing.covariance_cache import cached_covariance
from mechstyle.editing.keys import sample_contexts
from mechstyle.editing.methods import rome
from mechstyle.errors import FileError, InputError
from mechstyle.evaluation.scores import evaluate
from mechstyle.facts import EditRequest, Fact
from mechstyle.models import HookedModel, fingerprint, load_model, provenance, resolve_bos
from mechstyle.outputs import output_folder
from mechstyle.report.record import Report
from mechstyle.report.write import write_report
from mechstyle.sites import check_layer
from mechstyle.study.config import StudyConfig, command_line
from mechstyle.study.fact import NEW_TOKENS, fact_result, numbered
from mechstyle.study.layer import choose_layer
from mechstyle.threads import few_threads
from mechstyle.tokens import encode_fact
from mechstyle.tracing.aggregate import average_by_role
from mechstyle.tracing.causal_trace import DEFAULT_KINDS, causal_trace
from mechstyle.tracing.grid import default_window
from mechstyle.tracing.trace import Trace

__all__ = ["reusable", "run_study"]

KEYS_PER_NEURON = 20
"""Key vectors in second moments for each neuron: twice the ten that make them steady."""
REQUESTS = "requests.jsonl"


def run_study(config: StudyConfig, *, progress: bool = False) -> Report:
    """Trace each fact, choose a layer, write each fact by ROME on its own, score, complete and report.

    Writes ``report.html``, ``results.json``, ``edit.safetensors``, ``trace.nc`` and ``requests.jsonl`` into
    ``config.out``; edits and traces of the second and later facts are ``edit-2.safetensors``, ``trace-2.nc``
    and so on. A trace that an earlier, perhaps interrupted, study left there is used again when model, fact
    and settings are the same. The model is unchanged.

    Args:
        progress: show the stages on stderr.

    Raises:
        InputError: something in the configuration cannot be used; nothing was computed.
        WorkError: a part of the work failed.

    Example:
        >>> run_study(StudyConfig(out=Path("study"), model="organism-m")).html  # doctest: +SKIP
        PosixPath('study/report.html')
    """
    begun = time.monotonic()
    requests = _requests(config)
    documents = documents_for(config.model, config.text, seed=config.seed)
    folder = output_folder(config.out)
    with _stages(progress, total=len(requests) * 2 + 4) as stage:
        stage(f"loading {config.model}")
        model = load_model(config.model)
        bos = _check(model, config, requests)
        write_requests(folder / REQUESTS, requests)
        with few_threads(model):
            return _study(model, config, requests, documents, folder, bos, stage, begun)


def _study(
    model: HookedModel,
    config: StudyConfig,
    requests: Sequence[EditRequest],
    documents: Documents,
    folder: Path,
    bos: bool,
    stage: Callable[[str], None],
    begun: float,
) -> Report:
    """The work itself, after everything was checked."""
    traces = []
    for index, request in enumerate(requests):
        stage(f"tracing {request.fact.prompt!r}")
        traces.append(_trace(model, request, config, bos, folder / numbered("trace.nc", index)))
    choice = choose_layer(config.model, traces, given=config.layer)
    stage(f"second moments of layer {choice.layer}")
    n_keys = KEYS_PER_NEURON * int(model.cfg.d_mlp) if config.n_keys is None else config.n_keys
    measure = cached_covariance if config.cache else covariance
    moments = measure(model, documents.texts, layers=[choice.layer], n_keys=n_keys, prepend_bos=bos)
    contexts = sample_contexts(model, config.seed)
    edits = []
    for request in requests:
        stage(f"writing {request.fact.prompt!r} ->{request.new_target!r}")
        edit = rome(
            model,
            request,
            layer=choice.layer,
            covariance=moments,
            contexts=contexts,
            seed=config.seed,
            prepend_bos=bos,
        )
        edits.append(edit)
    stage("scoring")
    texts = list(documents.held_out) or None
    scores = evaluate(model, requests, edits=edits, prepend_bos=bos, perplexity_texts=texts)
    stage("completing and reporting")
    report = Report(
        folder=folder,
        model=config.model,
        shape=_shape(model),
        facts=tuple(
            fact_result(model, index, traces[index], edit, scores, folder, bos)
            for index, edit in enumerate(edits)
        ),
        choice=choice,
        roles=average_by_role(traces),
        scores=scores,
        covariance=_moments_record(moments, choice.layer, documents),
        provenance=provenance(model, **_settings(config, bos, traces[0])),
        command=command_line(config, requests=folder / REQUESTS),
        seconds=time.monotonic() - begun,
    )
    write_report(report)
    return report


def _requests(config: StudyConfig) -> tuple[EditRequest, ...]:
    if config.requests:
        return config.requests
    if config.model not in organisms.names():
        raise InputError(
            f"requests: {config.model!r} brings no facts of its own; name one with --prompt, --subject, "
            "--target and --new, or several with --requests FILE."
        )
    return tuple(organisms.requests(config.model, n=config.n_facts, seed=config.seed))


def _check(model: HookedModel, config: StudyConfig, requests: Sequence[EditRequest]) -> bool:
    """Everything that the model can tell about the input before the work begins."""
    bos = resolve_bos(model, config.prepend_bos)
    if config.layer is not None:
        check_layer(config.layer, model.cfg.n_layers)
    for request in requests:
        for target in (request.fact.target, request.new_target):
            encode_fact(model, request.fact, target=target, prepend_bos=bos)
    return bos


def _trace(model: HookedModel, request: EditRequest, config: StudyConfig, bos: bool, path: Path) -> Trace:
    old = _readable(path)
    if old is not None and reusable(old, request.fact, config, bos=bos, fingerprint=fingerprint(model)):
        return old
    found = causal_trace(
        model,
        request.fact,
        noise=config.noise,
        samples=config.samples,
        seed=config.seed,
        window=config.window,
        prepend_bos=bos,
    )
    found.save(path)
    return found


def reusable(trace: Trace, fact: Fact, config: StudyConfig, *, bos: bool, fingerprint: str) -> bool:
    """Whether a saved trace is the one that this study would compute.

    Args:
        bos: the resolved ``prepend_bos``.
        fingerprint: of the study's model.

    Example:
        >>> reusable(Trace.load("trace.nc"), fact, config, bos=False, fingerprint="3f1c")  # doctest: +SKIP
        False
    """
    n_layers = trace.data.sizes["layer"]
    wanted = {
        "fact": fact.to_dict(),
        "answer_source": "target",
        "kinds": list(DEFAULT_KINDS),
        "metric": "prob",
        "samples": config.samples,
        "seed": config.seed,
        "window": default_window(n_layers) if config.window is None else config.window,
        "prepend_bos": bos,
        "active_edits": [],
    }
    found = {name: trace.settings.get(name) for name in wanted}
    noise = trace.settings["noise"].get("multiple")
    return trace.provenance["fingerprint"] == fingerprint and found == wanted and noise == config.noise


def _readable(path: Path) -> Trace | None:
    """The trace in a file, or None when there is none, or a damaged one, and the work must be done."""
    try:
        return Trace.load(path)
    except FileError:
        return None


def _shape(model: HookedModel) -> dict[str, int]:
    n_params = sum(weight.numel() for _, weight in model.named_parameters())
    return {
        "n_layers": int(model.cfg.n_layers),
        "d_model": int(model.cfg.d_model),
        "d_mlp": int(model.cfg.d_mlp),
        "n_params": n_params,
    }


def _moments_record(moments: Covariance, layer: int, documents: Documents) -> dict[str, Any]:
    condition = moments.condition_number(layer)
    return {
        "source": documents.source,
        "count": moments.count,
        "condition_number": condition if condition != float("inf") else None,
        "text_sha256": moments.provenance["settings"]["text_sha256"],
        "perplexity_texts": len(documents.held_out),
    }


def _settings(config: StudyConfig, bos: bool, trace: Trace) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "samples": config.samples,
        "noise": trace.settings["noise"],
        "window": trace.settings["window"],
        "prepend_bos": bos,
        "method": "rome",
        "new_tokens": NEW_TOKENS,
    }


@contextmanager
def _stages(shown: bool, *, total: int) -> Iterator[Callable[[str], None]]:
    """A function that names the stage that begins, drawn as one line on stderr."""
    columns = (
        SpinnerColumn(),
        TextColumn("[{task.completed:.0f}/{task.total:.0f}] {task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not shown, transient=True) as bar:
        task = bar.add_task("starting", total=total)
        state = {"begun": False}

        def stage(name: str) -> None:
            bar.update(task, description=name.replace("[", r"\["), advance=1 if state["begun"] else 0)
            state["begun"] = True

        yield stage
