"""The wanted MLP output: a vector, found by gradient descent, that makes the model say the new target."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechstyle.editing.keys import BARE, check_contexts, last_subject_index
from mechstyle.errors import InputError, RangeError, TextError, WorkError
from mechstyle.facts import EditRequest, Fact
from mechstyle.metrics import kl_divergence
from mechstyle.models import HookedModel
from mechstyle.runs import residual_before, resume
from mechstyle.sites import Site, check_layer
from mechstyle.tokens import EncodedPrompt, encode, encode_fact, pad

__all__ = ["Target", "TargetOptions", "optimise_target"]

KlPosition = Literal["subject", "end"]


@dataclass(frozen=True)
class TargetOptions:
    """How the wanted value is searched; the defaults are those of ROME's public code.

    Args:
        steps: loss evaluations; as published the last one does not step, so there are ``steps - 1`` updates.
        lr: of Adam.
        weight_decay: factor of ``‖δ‖ / ‖v₀‖²``.
        kl_factor: factor of the KL divergence from the unedited model after ``kl_prompt`` ("essence drift").
        clamp_norm: ``‖δ‖`` is kept at or below this multiple of ``‖v₀‖``.
        early_stop: stop before a step when the total loss is below this.
        kl_prompt: the subject's own prompt, with ``{}`` for the subject.
        kl_position: the KL is read at the subject's last token (``"subject"``, as in the code) or at the last
            token of the prompt (``"end"``, as in the paper).

    Raises:
        RangeError: a number is out of range.
        TextError: ``kl_prompt`` does not hold ``{}`` exactly once.
        InputError: an unknown ``kl_position``.

    >>> TargetOptions(steps=25, clamp_norm=3.0).lr
    0.5
    """

    steps: int = 20
    lr: float = 0.5
    weight_decay: float = 0.5
    kl_factor: float = 0.0625
    clamp_norm: float = 4.0
    early_stop: float = 0.05
    kl_prompt: str = "{} is a"
    kl_position: KlPosition = "subject"

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise RangeError(f"TargetOptions.steps: expected an integer of 1 or more, got {self.steps!r}.")
        for name in ("lr", "clamp_norm"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise RangeError(
                    f"TargetOptions.{name}: expected a finite number > 0, got {getattr(self, name)}."
                )
        for name in ("weight_decay", "kl_factor", "early_stop"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise RangeError(
                    f"TargetOptions.{name}: expected a finite number >= 0, got {getattr(self, name)}."
                )
        if self.kl_prompt.count(BARE) != 1:
            raise TextError(
                f"TargetOptions.kl_prompt: expected '{BARE}' exactly once, got {self.kl_prompt!r}."
            )
        if self.kl_position not in get_args(KlPosition):
            raise InputError(
                f"TargetOptions.kl_position: expected 'subject' or 'end', got {self.kl_position!r}."
            )


@dataclass(frozen=True, eq=False)
class Target:
    """What was found: the MLP output wanted on the bare prompt is ``output + delta``.

    Args:
        delta: the change wanted at the subject's last token, fp32 (fp64 for fp64 models).
        output: the MLP output there on the bare prompt, before the edit.
        losses: total loss at each evaluation, first to last.
        answer_nll: its first part, mean over contexts of the mean over the new target's tokens of -log P, in
            nats.
    """

    delta: Float[Tensor, " d_model"]
    output: Float[Tensor, " d_model"]
    losses: tuple[float, ...]
    answer_nll: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class _Rows:
    """One right-padded batch: the contexts with the new target, and as the last row the KL prompt if used.

    ``at`` lists the (row, position) states that are read: those which predict answer tokens, then the KL
    state.
    """

    ids: Int[Tensor, "row pos"]
    subject: Int[Tensor, " row"]
    at: tuple[Int[Tensor, " state"], Int[Tensor, " state"]]
    answer_ids: Int[Tensor, " answer"]
    weights: Float[Tensor, " answer"]
    bare: int


def optimise_target(
    model: HookedModel,
    request: EditRequest,
    *,
    layer: int,
    contexts: Sequence[str] = (BARE,),
    options: TargetOptions | None = None,
    prepend_bos: bool | None = None,
) -> Target:
    """Find ``δ`` which, added to the MLP output at the subject's last token, brings the new target about.

    Minimises ``mean_contexts(-mean_tokens log P(new target)) + κ KL(P_δ ‖ P) + ω ‖δ‖ / ‖v₀‖²`` by Adam, with
    ``δ`` projected to ``‖δ‖ ≤ c ‖v₀‖`` after every update. The model's weights get no gradients and do not
    change. Everything below the layer is constant and run once.

    Raises:
        TextError: a prompt cannot be tokenised.
        RangeError: the layer is out of range.
        WorkError: the loss became NaN or infinite.

    Meng et al. 2022 (ROME) eq. 4; Adam, early stop and clamp as in their code.

    >>> optimise_target(model, request, layer=4, contexts=("{}",)).losses[-1]  # doctest: +SKIP
    0.04
    """
    check_layer(layer, model.cfg.n_layers)
    options = TargetOptions() if options is None else options
    rows = _rows(model, request, check_contexts(contexts), options, prepend_bos)
    residual = residual_before(model, rows.ids, layer)
    exact = torch.float64 if residual.dtype == torch.float64 else torch.float32
    delta = torch.zeros(residual.shape[-1], dtype=exact, device=residual.device, requires_grad=True)
    every_row = torch.arange(len(rows.ids), device=residual.device)
    subject = rows.subject.to(residual.device)
    outputs: list[Tensor] = []

    def add_delta(state: Tensor, hook: Any) -> Tensor:
        outputs.append(state.detach()[rows.bare, subject[rows.bare]].to(exact))
        return state.index_put(
            (every_row, subject), delta.to(state.dtype).expand(len(rows.ids), -1), accumulate=True
        )

    hooks = [(Site(layer, "mlp").hook, add_delta)]
    optimiser = torch.optim.Adam([delta], lr=options.lr)
    losses: list[float] = []
    answer_nll: list[float] = []
    reference: Tensor | None = None
    with _frozen(model), torch.enable_grad():
        for step in range(options.steps):
            scores = resume(model, residual, layer, at=rows.at, hooks=hooks, grad=True).to(exact)
            nll = _answer_nll(scores, rows)
            # At the first evaluation delta is 0, so these are the unedited model's own.
            reference = scores[len(rows.answer_ids) :].detach() if reference is None else reference
            size = torch.linalg.vector_norm(outputs[0])
            kl = kl_divergence(scores[len(rows.answer_ids) :], reference).sum()
            decay = torch.linalg.vector_norm(delta) / size**2
            loss = nll + options.kl_factor * kl + options.weight_decay * decay
            losses.append(loss.item())
            answer_nll.append(nll.item())
            if not math.isfinite(losses[-1]):
                raise WorkError(
                    f"target: the loss became {losses[-1]} at step {step}; lower TargetOptions.lr."
                )
            if losses[-1] < options.early_stop or step == options.steps - 1:
                break
            (delta.grad,) = torch.autograd.grad(loss, delta)
            optimiser.step()
            _clamp(delta, options.clamp_norm * size)
    return Target(delta.detach(), outputs[0], tuple(losses), tuple(answer_nll))


def _rows(
    model: HookedModel,
    request: EditRequest,
    contexts: tuple[str, ...],
    options: TargetOptions,
    prepend_bos: bool | None,
) -> _Rows:
    encoded = [
        encode_fact(model, request.fact, target=request.new_target, template=context, prepend_bos=prepend_bos)
        for context in contexts
    ]
    states = [
        (row, position)
        for row, one in enumerate(encoded)
        for position in range(one.n_prompt - 1, len(one) - 1)
    ]
    weights = [1 / (len(encoded) * len(one.target_ids)) for one in encoded for _ in one.target_ids]
    answer_ids = torch.cat([one.target_ids for one in encoded])
    if options.kl_factor > 0:
        own = _kl_prompt(model, request.fact, options, prepend_bos)
        states.append(
            (len(encoded), last_subject_index(own) if options.kl_position == "subject" else len(own) - 1)
        )
        encoded.append(own)
    rows, positions = torch.tensor(states).T
    return _Rows(
        ids=pad(encoded, pad_id=0).ids,
        subject=torch.tensor([last_subject_index(one) for one in encoded]),
        at=(rows, positions),
        answer_ids=answer_ids,
        weights=torch.tensor(weights, dtype=torch.float64),
        bare=contexts.index(BARE),
    )


def _kl_prompt(
    model: HookedModel, fact: Fact, options: TargetOptions, prepend_bos: bool | None
) -> EncodedPrompt:
    start = options.kl_prompt.index(BARE)
    text = options.kl_prompt.replace(BARE, fact.subject, 1)
    return encode(model, text, subject_offsets=(start, start + len(fact.subject)), prepend_bos=prepend_bos)


def _answer_nll(scores: Tensor, rows: _Rows) -> Tensor:
    """Mean over contexts of the mean over answer tokens of -log P."""
    answers = rows.answer_ids.to(scores.device)
    own = scores[: len(answers)]
    logprobs = own.gather(-1, answers[:, None])[:, 0] - own.logsumexp(-1)
    return -(logprobs * rows.weights.to(logprobs)).sum()


def _clamp(delta: Tensor, largest: Tensor) -> None:
    with torch.no_grad():
        norm = torch.linalg.vector_norm(delta)
        if norm > largest:
            delta.mul_(largest / norm)


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
