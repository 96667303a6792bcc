"""The wanted value: a vector, found by gradient descent, that makes the model say the new target."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import get_args

import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from mechstyle.editing.keys import BARE, check_contexts
from mechstyle.editing.target_options import Target, TargetOptions, TargetWarning
from mechstyle.editing.target_rows import TargetRows, target_rows
from mechstyle.editing.target_runs import TargetKind, TargetRuns, requests_within, target_runs
from mechstyle.errors import InputError, RangeError, WorkError
from mechstyle.facts import EditRequest
from mechstyle.metrics import kl_divergence, token_logprobs
from mechstyle.models import HookedModel, require_hooked
from mechstyle.sites import Site, check_layer

__all__ = [
    "Target",
    "TargetOptions",
    "TargetWarning",
    "optimise_target",
    "optimise_targets",
    "search_targets",
]


def optimise_target(
    model: HookedModel,
    request: EditRequest,
    *,
    layer: int,
    contexts: Sequence[str] = (BARE,),
    options: TargetOptions | None = None,
    prepend_bos: bool | None = None,
    kind: TargetKind = "mlp",
) -> Target:
    """Find ``δ`` for one request, as ``optimise_targets`` does for many.

    Raises:
        TextError, RangeError, WorkError: as there.

    Meng et al. 2022 (ROME) eq. 4; Adam, early stop and clamp as in their code.

    >>> optimise_target(model, request, layer=4, contexts=("{}",)).losses[-1]  # doctest: +SKIP
    0.04
    """
    (found,) = search_targets(
        model,
        [request],
        layer=layer,
        contexts=contexts,
        options=options,
        prepend_bos=prepend_bos,
        kind=kind,
        stacklevel=3,
    )
    return found


def optimise_targets(
    model: HookedModel,
    requests: Sequence[EditRequest],
    *,
    layer: int,
    contexts: Sequence[str] = (BARE,),
    options: TargetOptions | None = None,
    prepend_bos: bool | None = None,
    kind: TargetKind = "mlp",
    batch_size: int | None = None,
    progress: bool = False,
) -> list[Target]:
    """Find for each request the ``δ`` which, added at the subject's last token, brings its new target about.

    Minimises ``mean_contexts(-mean_tokens log P(new target)) + κ KL(P_δ ‖ P) + ω ‖δ‖ / ‖v₀‖²`` by Adam, with
    ``δ`` projected to ``‖δ‖ ≤ c ‖v₀‖`` after every update. The model's weights get no gradients and do not
    change. Everything below the layer and before the subjects' last tokens is constant and run once. Requests
    share batches, and each stops by itself: the result is that of one by one, up to rounding (which Adam
    amplifies in fp32).

    Args:
        kind: what ``δ`` is added to: ``"mlp"``, the layer's MLP output (ROME), or ``"resid"``, what leaves
            the layer (MEMIT).
        batch_size: requests in one batch; None takes what fits into 512 MiB (on a GPU into a quarter of its
            free memory).
        progress: show a progress bar on stderr.

    Raises:
        InputError: no requests, something that is none, or an unknown ``kind``.
        TextError: a prompt cannot be tokenised.
        RangeError: the layer or ``batch_size`` is out of range.
        WorkError: a loss became NaN or infinite.

    Warns:
        TargetWarning: at the last layer, where other tokens do not see the change: ``δ`` is then zero.

    Meng et al. 2022 (ROME) eq. 4, Meng et al. 2023 (MEMIT) eq. 16.

    >>> [target.losses[-1] for target in optimise_targets(model, requests, layer=4)]  # doctest: +SKIP
    [0.04, 0.05]
    """
    return search_targets(
        model,
        requests,
        layer=layer,
        contexts=contexts,
        options=options,
        prepend_bos=prepend_bos,
        kind=kind,
        batch_size=batch_size,
        progress=progress,
        stacklevel=3,
    )


def search_targets(
    model: HookedModel,
    requests: Sequence[EditRequest],
    *,
    layer: int,
    contexts: Sequence[str],
    options: TargetOptions | None,
    prepend_bos: bool | None,
    kind: TargetKind,
    batch_size: int | None = None,
    progress: bool = False,
    stacklevel: int,
) -> list[Target]:
    """Find what ``optimise_targets`` finds, for a function that its user calls.

    Args:
        stacklevel: of the warning, counted from here.

    Raises:
        InputError, TextError, RangeError, WorkError: as ``optimise_targets``.

    Warns:
        TargetWarning: as ``optimise_targets``.

    >>> search_targets(model, requests, layer=4, kind="mlp", stacklevel=3, **rest)  # doctest: +SKIP
    """
    require_hooked(model)
    check_layer(layer, model.cfg.n_layers)
    options = TargetOptions() if options is None else options
    if not isinstance(options, TargetOptions):
        raise InputError(f"options: expected TargetOptions, got {type(options).__name__}.")
    chosen = check_contexts(contexts)
    if kind not in get_args(TargetKind):
        raise InputError(f"kind: expected 'mlp' or 'resid', got {kind!r}.")
    if batch_size is not None and (
        isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1
    ):
        raise RangeError(f"batch_size: expected a whole number of at least 1, got {batch_size!r}.")
    found: dict[int, Target] = {}
    # What is made in inference mode cannot have gradients.
    with (
        torch.inference_mode(False),
        Progress(console=Console(stderr=True), transient=True, disable=not progress) as bar,
    ):
        rows = target_rows(
            model,
            requests,
            chosen,
            kl_prompt=options.kl_prompt if options.kl_factor > 0 else None,
            kl_at_subject=options.kl_position == "subject",
            prepend_bos=prepend_bos,
        )
        # Above the last layer nothing is passed on to other tokens: the best change is none.
        last = layer == int(model.cfg.n_layers) - 1
        lost = {number for number, read in enumerate(rows.read_at_subject()) if last and not read}
        if lost:
            warnings.warn(
                f"target: what layer {layer}, the last one, gives at the subject's last token cannot reach "
                f"the answer of {len(lost)} request(s), first {requests[min(lost)].fact.prompt!r}: no change "
                "is wanted there. Take a lower layer.",
                TargetWarning,
                stacklevel=stacklevel,
            )
        size = requests_within(model, rows, layer) if batch_size is None else batch_size
        # Requests with much text behind the subject share batches.
        longest = torch.zeros(len(requests), dtype=torch.long)
        longest = longest.scatter_reduce(0, rows.request, rows.lengths - rows.subject, "amax")
        order = longest.argsort(stable=True).tolist()
        task = bar.add_task(f"targets ({size} requests at most)", total=len(requests))
        for first in range(0, len(order), size):
            some = order[first : first + size]
            batch, _ = rows.of(some)
            names = [requests[number].fact.prompt for number in some]
            still = {place for place, number in enumerate(some) if number in lost}
            targets = _search(model, batch, names, Site(layer, kind), options, still)
            found.update(zip(some, targets, strict=True))
            bar.advance(task, len(some))
    return [found[number] for number in range(len(requests))]


def _search(
    model: HookedModel,
    rows: TargetRows,
    names: Sequence[str],
    site: Site,
    options: TargetOptions,
    lost: Collection[int],
) -> list[Target]:
    """The targets of requests that share a batch; those that are lost get no change."""
    n_requests = len(rows.bare)
    with _frozen(model), torch.enable_grad():
        runs = target_runs(model, rows, site)
        states = runs.outputs()
        exact = torch.float64 if states.dtype == torch.float64 else torch.float32
        outputs = states[rows.bare.to(states.device)].to(exact)
        size = torch.linalg.vector_norm(outputs, dim=-1)
        deltas = torch.zeros_like(outputs, requires_grad=True)
        optimiser = torch.optim.Adam([deltas], lr=options.lr)
        active = list(range(n_requests))
        losses: list[list[float]] = [[] for _ in active]
        answer_nll: list[list[float]] = [[] for _ in active]
        final = torch.zeros_like(outputs)
        reference: Tensor | None = None
        for step in range(options.steps):
            chosen = torch.tensor(active, device=deltas.device)
            own = deltas[chosen]
            nll, kl_logits = _read(runs, rows, own, exact)
            # At the first evaluation delta is 0, so these are the unedited model's own.
            reference = kl_logits.detach() if reference is None else reference
            kl = kl_divergence(kl_logits, reference) if len(rows.kl_row) else torch.zeros_like(nll)
            decay = torch.linalg.vector_norm(own, dim=-1) / size[chosen] ** 2
            loss = nll + options.kl_factor * kl + options.weight_decay * decay
            stopped = list[int]()
            for place, number in enumerate(active):
                losses[number].append(loss[place].item())
                answer_nll[number].append(nll[place].item())
                if not math.isfinite(losses[number][-1]):
                    raise WorkError(
                        f"target of {names[number]!r}: the loss became {losses[number][-1]} at step {step}; "
                        "lower TargetOptions.lr."
                    )
                if losses[number][-1] < options.early_stop or step == options.steps - 1 or number in lost:
                    final[number] = deltas[number].detach()
                    stopped.append(number)
            if len(stopped) == len(active):
                break
            (deltas.grad,) = torch.autograd.grad(loss.sum(), deltas)
            optimiser.step()
            _clamp(deltas, options.clamp_norm * size)
            if stopped:
                kept = [place for place, number in enumerate(active) if number not in stopped]
                active = [active[place] for place in kept]
                rows, index = rows.of(kept)
                runs = runs.kept(rows, index)
                reference = reference[kept] if len(rows.kl_row) else reference
    return [
        Target(final[number], outputs[number], tuple(losses[number]), tuple(answer_nll[number]))
        for number in range(n_requests)
    ]


def _read(
    runs: TargetRuns, rows: TargetRows, deltas: Tensor, exact: torch.dtype
) -> tuple[Float[Tensor, " request"], Float[Tensor, "request_or_none vocab"]]:
    """Each request's mean over contexts of the mean over answer tokens of -log P; logits of the KL states."""
    row = torch.cat([rows.answer_row, rows.kl_row])
    end = torch.cat([rows.answer_end, torch.ones_like(rows.kl_row)])
    scores = runs.logits(deltas[rows.request.to(deltas.device)], row, end).to(exact)
    n_answers = len(rows.answer_row)
    logprobs = token_logprobs(scores[:n_answers, None], rows.answer_id[:, None])[:, 0]
    weighted = logprobs * rows.answer_weight.to(logprobs)
    request = rows.request[rows.answer_row].to(weighted.device)
    return -torch.zeros_like(deltas[:, 0]).index_add(0, request, weighted), scores[n_answers:]


def _clamp(deltas: Tensor, largest: Tensor) -> None:
    with torch.no_grad():
        norm = torch.linalg.vector_norm(deltas, dim=-1)
        scale = torch.where(norm > largest, largest / norm, torch.ones_like(norm))
        deltas.mul_(scale[:, None])


@contextmanager
def _frozen(model: HookedModel) -> Iterator[None]:
    """Keep gradients from being computed for the weights, and restore what required them."""
    trained = [weight for _, weight in model.named_parameters() if weight.requires_grad]
    try:
        for weight in trained:
            weight.requires_grad_(False)
        yield
    finally:
        for weight in trained:
            weight.requires_grad_(True)
