"""How an edit that was asked for on the command line is carried out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mechstyle.cli.books import require_own_ledger, require_place
from mechstyle.cli.canaries import Canary
from mechstyle.cli.defaults import default_settings, published_settings, swept_settings
from mechstyle.cli.dry_run import plan
from mechstyle.cli.edit_each import prepare_folder, record_of, write_each
from mechstyle.cli.methods import Job, Method, MethodSpec
from mechstyle.cli.options import measured_covariance
from mechstyle.cli.output import emit
from mechstyle.cli.tuning import Tuning
from mechstyle.errors import InputError, WorkError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mechstyle.cli.methods import Editor
    from mechstyle.editing.edit import EditSet
    from mechstyle.editing.health import HealthCheck
    from mechstyle.editing.hparams import Hyperparameters
    from mechstyle.editing.memory import MemoryEdit
    from mechstyle.facts import EditRequest
    from mechstyle.models import HookedModel

__all__ = ["EditOrder", "carry_out"]

N_KEYS: Final = 50_000
PRESERVED: Final = 32
_SHOWN: Final = 5
"""Requests that are written out on the terminal."""


@dataclass(frozen=True, kw_only=True)
class EditOrder:
    """What was asked for, after the checks that need no file and no model.

    Args:
        asked: the one request that options describe; None where they are in a file.
        layers: None where none were named.
        sweep: how many requests each layer is tried with; None tries none.
        cache: look second moments up.
    """

    method: Method
    spec: MethodSpec
    model: str
    asked: EditRequest | None
    file: Path | None
    limit: int | None
    layers: tuple[int, ...] | None
    tuning: Tuning
    batch_size: int | None
    sweep: int | None
    canary: Canary
    out: Path | None
    ledger: Path | None
    each: Path | None
    dry_run: bool
    cache: bool
    seed: int
    prepend_bos: bool | None
    as_json: bool
    quiet: bool


def carry_out(order: EditOrder) -> None:
    """Check everything, then compute the edit and write it, or say what would be written.

    Raises:
        InputError: something is wrong with the files, or does not suit the model.
        WorkError: the work failed or was interrupted; what a ledger has by then stays.
    """
    from mechstyle.editing.covariance import Covariance
    from mechstyle.editing.health import read_canaries
    from mechstyle.models import load_model
    from mechstyle.outputs import require_writable
    from mechstyle.sites import check_layer
    from mechstyle.threads import few_threads

    spec, given = order.spec, order.tuning
    if order.out is not None:
        require_writable(order.out)
    if order.ledger is not None:
        require_place(order.ledger, "--ledger")
    requests = _requests(order)
    known = None
    if order.layers is None and spec.hparams is not None and order.sweep is None:
        known = published_settings(order.model, spec.hparams)
    job = Job(
        tuning=given,
        layers=order.layers or (),
        moments=None if given.covariance is None else Covariance.load(given.covariance),
        known=known,
        batch_size=order.batch_size if order.ledger is None else None,
        seed=order.seed,
        prepend_bos=order.prepend_bos,
        progress=not order.quiet and order.ledger is None,
    )
    spec.make(job)  # refuses what no model can take, before one is loaded
    check = order.canary.check(order.model, given.text, seed=order.seed, prepend_bos=order.prepend_bos)
    model = load_model(order.model)
    if order.ledger is not None:
        require_own_ledger(order.ledger, model, order.model)
    if check is not None:
        read_canaries(model, check)  # refuses texts and facts that say nothing of this model, before the work
    for layer in job.layers:
        check_layer(layer, int(model.cfg.n_layers), name="--layers")
    with few_threads(model):
        if order.layers is None and spec.layers == "needed":
            known = _settings(order, job, model, requests)
            job = replace(job, layers=known.layers, known=known, tuning=given.filled(known))
        if order.dry_run:
            size = 1 if spec.one_by_one else order.batch_size
            found = plan(
                model,
                order.method,
                spec,
                job,
                requests,
                batch_size=size,
                out=order.out,
                ledger=order.ledger,
            )
            emit(found.summary, "\n".join(found.lines), as_json=order.as_json)
            return
        if order.each is not None:
            prepare_folder(order.each, record_of(order, job, model, requests))
        job = _with_materials(order, job, model)
        editor = spec.make(replace(job, repeated=order.ledger is not None))
        if order.each is not None:
            edits = write_each(order.each, editor, model, requests, progress=not order.quiet)
            place = {"each": str(order.each), "edits": len(edits)}
            _report(order, job, edits, model, place, f"{order.each}: {len(edits)} edits")
        elif order.ledger is None:
            result = editor(model, requests)
            result.save(str(order.out))
            losses = result.provenance["settings"].get("losses")
            place = {"out": str(order.out), "losses": losses}
            _report(order, job, [result], model, place, str(order.out))
        else:
            _into_ledger(order, order.ledger, job, model, editor, requests, check)


def _settings(
    order: EditOrder, job: Job, model: HookedModel, requests: Sequence[EditRequest]
) -> Hyperparameters:
    """The settings of an edit without layers, from a sweep where one is asked for."""
    method = str(order.spec.hparams)
    if order.sweep is None:
        return default_settings(model, order.model, method)
    return swept_settings(model, method, job, requests[: order.sweep], progress=not order.quiet)


def _requests(order: EditOrder) -> list[EditRequest]:
    """The requests; those of one solve can be met together."""
    from mechstyle.datasets import read_edit_file
    from mechstyle.requests import check_requests

    found = read_edit_file(order.file)[: order.limit] if order.file is not None else []
    found = found if order.asked is None else [order.asked]
    if order.each is not None:
        return [request for one in found for request in check_requests([one])]
    if order.spec.one_by_one and order.ledger is None and len(found) != 1:
        raise InputError(
            f"--requests {order.file}: {order.method} writes one request into one edit, and the file holds "
            f"{len(found)}; write them together by --method memit or emmet, one on top of the other by "
            "--ledger DIR, or each alone by --each DIR."
        )
    size = 1 if order.spec.one_by_one else order.batch_size
    if order.ledger is None or size is None or size >= len(found):
        return list(check_requests(found))
    for start in range(0, len(found), size):
        _checked_batch(found[start : start + size], start, size)
    return found


def _checked_batch(batch: Sequence[EditRequest], start: int, size: int) -> None:
    """Refuse what one solve cannot meet; a later batch of a ledger may overwrite an earlier one."""
    from mechstyle.requests import check_requests

    try:
        check_requests(batch)
    except InputError as error:
        raise InputError(f"batch {start // size + 1}, from requests[{start}] on: {error}") from error


def _with_materials(order: EditOrder, job: Job, model: HookedModel) -> Job:
    """The job with second moments, contexts and texts, as its method needs them."""
    from mechstyle.documents import documents_for

    spec, given = order.spec, order.tuning
    if spec.moments and job.moments is None:
        moments = measured_covariance(
            model,
            order.model,
            list(job.layers),
            text=given.text,
            n_keys=N_KEYS if given.n_keys is None else given.n_keys,
            bos=order.prepend_bos,
            seed=order.seed,
            cache=order.cache,
        )
        job = replace(job, moments=moments)
    if spec.contexts is not None:
        job = replace(job, contexts=spec.contexts(model, job))
    if spec.preserves:
        texts = documents_for(order.model, given.text, seed=order.seed).texts
        number = PRESERVED if given.preserve is None else given.preserve
        job = replace(job, preserve=tuple(islice(texts, number)))
    return job


def _into_ledger(
    order: EditOrder,
    folder: Path,
    job: Job,
    model: HookedModel,
    editor: Editor,
    requests: Sequence[EditRequest],
    check: HealthCheck | None,
) -> None:
    """Write the requests batch by batch into a ledger; batches that it ends with are not written again."""
    from mechstyle.editing.ledger import Ledger

    size = 1 if order.spec.one_by_one else order.batch_size
    with Ledger.open(model, folder, health=check) as ledger:
        before = {entry.number for entry in ledger.entries}
        try:
            entries = ledger.write(editor, requests, batch_size=size, progress=not order.quiet)  # type: ignore[arg-type]
        except KeyboardInterrupt:
            new = len(ledger.entries) - len(before)
            raise WorkError(
                f"interrupted; {folder} has {new} new {'entry' if new == 1 else 'entries'}: run the same "
                "command to go on."
            ) from None
    numbers = [entry.number for entry in entries]
    summary = {
        "ledger": str(folder),
        "entries": numbers,
        "there_before": [number for number in numbers if number in before],
        "health": entries[-1].health.to_dict(),
    }
    there = len(summary["there_before"])
    last = f"{folder}: {_listed(numbers)}" + (f", {there} of them there before" if there else "")
    _report(order, job, [entry.edit for entry in entries], model, summary, last)


def _listed(numbers: Sequence[int]) -> str:
    """Entries in words; many that follow one another are not written out."""
    if len(numbers) == 1:
        return f"entry {numbers[0]}"
    if len(numbers) > _SHOWN and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"entries {numbers[0]} to {numbers[-1]}"
    return f"entries {', '.join(map(str, numbers))}"


def _report(
    order: EditOrder,
    job: Job,
    edits: Sequence[EditSet | MemoryEdit],
    model: HookedModel,
    place: dict[str, Any],
    last: str,
) -> None:
    from mechstyle.editing.edit import EditSet
    from mechstyle.editing.interactions import change_norms
    from mechstyle.models import parameter_value

    requests = [request for edit in edits for request in edit.requests]
    norms = change_norms([one for edit in edits if isinstance(edit, EditSet) for one in edit.edits])
    sizes = {name: float(parameter_value(model, name).detach().double().norm()) for name in norms}
    shares = {name: norm / sizes[name] if sizes[name] > 0 else None for name, norm in norms.items()}
    summary = {
        **place,
        "model": order.model,
        "method": str(order.method),
        "layers": sorted(job.layers),
        "parameters": list(shares),
        "relative_norms": shares,
        "requests": [request.to_dict() for request in requests],
    }
    lines = [f"{one.fact.prompt!r} -> {one.new_target!r}" for one in requests[:_SHOWN]]
    if len(requests) > _SHOWN:
        lines.append(f"and {len(requests) - _SHOWN} more")
    lines += [
        f"{name} changes " + ("from zero" if share is None else f"by {share:.2%} of its norm")
        for name, share in shares.items()
    ]
    emit(summary, "\n".join([*lines, last]), as_json=order.as_json)
