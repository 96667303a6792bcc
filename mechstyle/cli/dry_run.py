"""What an edit would write, shown without searching a target or writing anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mechstyle.errors import TextError

if TYPE_CHECKING:
    from mechstyle.cli.methods import Job, Method, MethodSpec
    from mechstyle.cli.sizes import Extent
    from mechstyle.facts import EditRequest
    from mechstyle.models import HookedModel

__all__ = ["Plan", "plan"]

_SHOWN: Final = 5
"""Requests and contexts that are written out on the terminal."""
_ASKED: Final = 256
"""Requests whose answers the model is asked for."""


@dataclass(frozen=True)
class Plan:
    """What would be written: as JSON values, and in lines."""

    summary: dict[str, Any]
    lines: tuple[str, ...]


def plan(
    model: HookedModel,
    method: Method,
    spec: MethodSpec,
    job: Job,
    requests: Sequence[EditRequest],
    *,
    batch_size: int | None,
    out: Path | None,
    ledger: Path | None,
) -> Plan:
    """Check all that an edit needs and say what it would write; the model and the disk stay as they are.

    Args:
        batch_size: requests in one entry of the ledger, or written at once.

    Raises:
        InputError: something does not suit the model.
    """
    from mechstyle.cli.sizes import Asked
    from mechstyle.editing.inputs import checked_moments
    from mechstyle.models import fingerprint, require_editable, resolve_bos

    if spec.weights:
        require_editable(model)
    if job.moments is not None:
        checked_moments(
            job.moments,
            job.layers,
            d_mlp=int(model.cfg.d_mlp),
            fingerprint=fingerprint(model),
            prepend_bos=resolve_bos(model, job.prepend_bos),
            stacklevel=2,
        )
    rows = [_tokens(model, index, request, job.prepend_bos) for index, request in enumerate(requests)]
    extent = spec.size(Asked(model, job.tuning, job.layers, requests, job.prepend_bos))
    contexts = () if spec.contexts is None else spec.contexts(model, job)
    size = len(requests) if batch_size is None else min(batch_size, len(requests))
    entries = _ledger_state(model, ledger)
    summary = {
        "dry_run": True,
        "method": str(method),
        "layers": sorted(job.layers),
        "parameters": {name: list(shape) for name, shape in extent.parameters.items()},
        "n_requests": len(requests),
        "batches": -(-len(requests) // size),
        "requests": rows[:_SHOWN],
        "contexts": list(contexts),
        "checks": _checks(model, requests, job),
        "estimated_bytes": extent.n_bytes,
        "out": None if out is None else str(out),
        "ledger": None if ledger is None else str(ledger),
        "ledger_entries": entries,
    }
    return Plan(summary, tuple(_lines(summary, extent, spec, job)))


def _tokens(model: HookedModel, index: int, request: EditRequest, prepend_bos: bool | None) -> dict[str, Any]:
    """A request with the tokens that decide what is written where."""
    from mechstyle.tokens import encode_fact

    try:
        every = [encode_fact(model, fact, target=request.new_target, prepend_bos=prepend_bos)
                 for fact in request.phrased]  # fmt: skip
        for fact in request.keep:
            encode_fact(model, fact, prepend_bos=prepend_bos)
    except TextError as error:
        raise TextError(f"requests[{index}]: {error}") from error
    one = every[0]
    last = None if one.subject is None else one.strings[one.subject[-1]]
    return {
        "prompt": request.fact.prompt,
        "target": request.fact.target,
        "new_target": request.new_target,
        "phrasings": len(every),
        "keep": len(request.keep),
        "last_subject_token": last,
        "new_target_tokens": list(one.strings[one.n_prompt :]),
    }


def _checks(model: HookedModel, requests: Sequence[EditRequest], job: Job) -> dict[str, Any]:
    """What is worth knowing before the work: shared keys, what the model knows, a layer too late."""
    from mechstyle.answers import score_answers
    from mechstyle.requests import same_key
    from mechstyle.tokens import encode_fact

    asked = requests[:_ASKED]
    known = [encode_fact(model, one.fact, prepend_bos=job.prepend_bos) for one in asked]
    new = [encode_fact(model, one.fact, target=one.new_target, prepend_bos=job.prepend_bos) for one in asked]
    scores = [one.exact for one in score_answers(model, [*known, *new], batch_size=64)]
    return {
        "asked": len(asked),
        "known": sum(scores[: len(asked)]),
        "said_already": sum(scores[len(asked) :]),
        "shared_keys": [list(group) for group in same_key(requests)],
        "last_layer": bool(job.layers) and max(job.layers) == int(model.cfg.n_layers) - 1,
    }


def _ledger_state(model: HookedModel, folder: Path | None) -> int | None:
    """How many entries the ledger has already, after checking that it is this model's."""
    if folder is None:
        return None
    from mechstyle.editing.ledger import Ledger
    from mechstyle.editing.ledger_files import LedgerFolder

    if LedgerFolder.find(folder) is None:
        return 0
    with Ledger.open(model, folder) as ledger:
        return len(ledger.entries)


def _lines(summary: dict[str, Any], extent: Extent, spec: MethodSpec, job: Job) -> list[str]:
    checks = summary["checks"]
    layers = ", ".join(map(str, summary["layers"]))
    where = f" in layer{'s' * (len(summary['layers']) > 1)} {layers}" if layers else ""
    lines = [f"{summary['method']}{where}: nothing is written (--dry-run)"]
    lines += [f"{name} {shape}" for name, shape in summary["parameters"].items()]
    lines += [extent.remark] if extent.remark else []
    number, batches = summary["n_requests"], summary["batches"]
    lines.append(f"{number} request{'s' * (number > 1)}" + (f" in {batches} batches" if batches > 1 else ""))
    for row in summary["requests"]:
        new = " ".join(map(repr, row["new_target_tokens"]))
        lines.append(f"  {row['prompt']!r} -> {new}; its subject ends with {row['last_subject_token']!r}")
    if summary["n_requests"] > _SHOWN:
        lines.append(f"  and {summary['n_requests'] - _SHOWN} more")
    contexts = summary["contexts"]
    if contexts:
        lines.append(f"{len(contexts)} contexts, such as {', '.join(map(repr, contexts[:3]))}")
    lines.append(
        f"of {checks['asked']} the model knows {checks['known']} as they are, and gives the new target of "
        f"{checks['said_already']} already"
    )
    groups = checks["shared_keys"]
    lines += [
        f"requests {_counted(group)} share a key: one layer cannot tell them apart"
        for group in groups[:_SHOWN]
    ]
    lines += [f"and {len(groups) - _SHOWN} more such groups"] if len(groups) > _SHOWN else []
    if checks["last_layer"] and spec.moments:
        lines.append("the last layer is among them: a change there cannot reach the answer")
    if spec.moments:
        lines.append(
            "second moments: " + ("as given" if job.moments is not None else "to be measured or looked up")
        )
    size = summary["estimated_bytes"]
    lines.append("size of the file not known before" if size is None else f"about {_bytes(size)}")
    if summary["ledger"] is not None:
        there = summary["ledger_entries"]
        lines.append(f"into {summary['ledger']}, which has {there} {'entry' if there == 1 else 'entries'}")
    elif summary["out"] is not None:
        lines.append(f"into {summary['out']}")
    return lines


def _counted(indices: Sequence[int]) -> str:
    """Requests by their place in the file, counted from 1; many are not written out."""
    shown = ", ".join(str(index + 1) for index in indices[:_SHOWN])
    return shown + (f" and {len(indices) - _SHOWN} more" if len(indices) > _SHOWN else "")


def _bytes(number: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"
