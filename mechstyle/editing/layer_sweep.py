"""Which layer can be edited: a small edit at each, scored by comparing probabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd
from jaxtyping import Float
from rich.console import Console
from rich.progress import track
from torch import Tensor

from mechstyle.answers import AnswerScore, score_answers
from mechstyle.editing.inputs import checked_layers
from mechstyle.editing.keys import check_contexts, sample_contexts
from mechstyle.editing.methods import rome
from mechstyle.editing.target_options import TargetOptions
from mechstyle.editing.targets import optimise_targets
from mechstyle.errors import InputError, RangeError
from mechstyle.facts import EditRequest
from mechstyle.models import HookedModel, require_editable, require_hooked, resolve_bos
from mechstyle.tokens import EncodedPrompt, encode

__all__ = ["best_layer", "sweep_layers"]

KINDS: Final = ("efficacy", "paraphrase", "neighborhood")
FEW_CONTEXTS: Final = ((5, 2), (10, 2))
"""(tokens, prefixes) of the contexts that a sweep samples: a fifth of what an edit does."""
ROWS_AT_ONCE: Final = 64


@dataclass(frozen=True, eq=False)
class _Question:
    """A prompt with the answer that should win and the one that should lose."""

    kind: str
    winner: EncodedPrompt
    loser: EncodedPrompt


def sweep_layers(
    model: HookedModel,
    requests: EditRequest | Sequence[EditRequest],
    *,
    covariance: Mapping[int, Float[Tensor, "d_mlp d_mlp"]],
    layers: Sequence[int] | None = None,
    contexts: Sequence[str] | None = None,
    target_options: TargetOptions | None = None,
    seed: int = 0,
    prepend_bos: bool | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Edit each request alone at each layer by ROME, and score what became of it.

    Success is P(new) > P(true) on the prompt (efficacy) and on paraphrases, and P(true) > P(new) in the
    neighbourhood, as in ``evaluate``; P is exp of the mean token log-probability. The model is as before when
    this returns.

    Args:
        requests: a handful, with paraphrases and neighbours: without them a layer is chosen by efficacy.
        covariance: layer -> second moment of keys, as ``covariance`` returns.
        layers: to try; None is those of the covariance, without the model's last layer.
        contexts: None samples four prefixes by ``seed``.

    Returns:
        a row for each layer: ``layer``, ``efficacy``, ``paraphrase``, ``neighborhood`` (shares, first over a
        request's prompts and then over requests; NaN without prompts), ``score`` (their harmonic mean),
        ``magnitude`` (mean difference of the probabilities, over the kinds), ``n_requests``.

    Raises:
        InputError: no requests, no layers, or a covariance that lacks a layer or belongs to another model.
        RangeError: a layer is out of range.
        ModelError: a processed model, or one with NaN weights.
        TextError: a prompt cannot be tokenised.

    Meng et al. 2023 (MEMIT) and Hase et al. 2023 sweep layers like this.

    >>> sweep_layers(model, requests[:6], covariance=moments)  # doctest: +SKIP
    """
    require_hooked(model)
    given = (requests,) if isinstance(requests, EditRequest) else tuple(requests)
    if not given or not all(isinstance(request, EditRequest) for request in given):
        raise InputError("requests: expected one EditRequest or more, with paraphrases and neighbours.")
    require_editable(model)
    tried = _layers(model, layers, covariance)
    bos = resolve_bos(model, prepend_bos)
    questions = [_questions(model, request, bos) for request in given]
    sampled = sample_contexts(model, seed, lengths=FEW_CONTEXTS) if contexts is None else contexts
    chosen = check_contexts(sampled)
    rows = []
    console = Console(stderr=True)
    for layer in track(tried, "layers", console=console, disable=not progress, transient=True):
        targets = optimise_targets(
            model, given, layer=layer, contexts=chosen, options=target_options, prepend_bos=bos
        )
        found: list[dict[str, tuple[float, float]]] = []
        for request, target, asked in zip(given, targets, questions, strict=True):
            edit = rome(
                model, request, layer=layer, covariance=covariance, contexts=chosen, targets=[target],
                prepend_bos=bos,
            )  # fmt: skip
            with edit.applied(model):
                found.append(_answered(model, asked))
        rows.append({"layer": layer, **_summary(found), "n_requests": len(given)})
    return pd.DataFrame(rows)


def best_layer(sweep: pd.DataFrame) -> int:
    """The layer of the highest score; among equals the one of the largest magnitude, then the lowest.

    >>> best_layer(sweep_layers(model, requests))  # doctest: +SKIP
    1
    """
    order = sweep.sort_values(["score", "magnitude", "layer"], ascending=[False, False, True])
    return int(order["layer"].iloc[0])


def _layers(
    model: HookedModel,
    layers: Sequence[int] | None,
    covariance: Mapping[int, Float[Tensor, "d_mlp d_mlp"]],
) -> tuple[int, ...]:
    last = int(model.cfg.n_layers) - 1
    if not isinstance(covariance, Mapping):
        raise InputError(
            "covariance: expected a mapping layer -> matrix, as covariance() returns, "
            f"got {type(covariance).__name__}."
        )
    tried = checked_layers(model, [one for one in covariance if one != last] if layers is None else layers)
    if last in tried:
        raise RangeError(f"layers: expected layers below the last, {last}, where no answer can be reached.")
    absent = [layer for layer in tried if layer not in covariance]
    if absent:
        raise InputError(
            f"covariance: expected layers {list(tried)} in it, got {sorted(covariance)}; collect it with "
            f"layers={list(tried)}."
        )
    return tried


def _questions(model: HookedModel, request: EditRequest, bos: bool) -> list[_Question]:
    fact, new = request.fact, request.new_target
    prompts = [("efficacy", fact.prompt), *(("paraphrase", prompt) for prompt in request.paraphrases)]

    def pair(prompt: str, true: str) -> tuple[EncodedPrompt, EncodedPrompt]:
        first, second = (encode(model, prompt, target=target, prepend_bos=bos) for target in (new, true))
        return first, second

    found = [_Question(kind, *pair(prompt, fact.target)) for kind, prompt in prompts]
    for prompt, true in request.neighborhood:
        changed, kept = pair(prompt, true)
        found.append(_Question("neighborhood", winner=kept, loser=changed))
    return found


def _answered(model: HookedModel, questions: Sequence[_Question]) -> dict[str, tuple[float, float]]:
    """Kind -> share of the prompts where the right answer wins, and the mean difference of probabilities."""
    encoded = [one for question in questions for one in (question.winner, question.loser)]
    scored = score_answers(model, encoded, batch_size=ROWS_AT_ONCE)
    gains: dict[str, list[float]] = {}
    for question, winner, loser in zip(questions, scored[::2], scored[1::2], strict=True):
        gains.setdefault(question.kind, []).append(_probability(winner) - _probability(loser))
    return {
        kind: (sum(gain > 0 for gain in some) / len(some), sum(some) / len(some))
        for kind, some in gains.items()
    }


def _probability(answer: AnswerScore) -> float:
    return math.exp(answer.mean_logp)


def _summary(found: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, float]:
    """Means over the requests that have prompts of a kind."""
    shares: dict[str, float] = {}
    sizes: list[float] = []
    for kind in KINDS:
        some = [one[kind] for one in found if kind in one]
        shares[kind] = sum(share for share, _ in some) / len(some) if some else math.nan
        sizes += [sum(size for _, size in some) / len(some)] if some else []
    known = [share for share in shares.values() if not math.isnan(share)]
    score = len(known) / sum(1 / share for share in known) if min(known) > 0 else 0.0
    return {**shares, "score": score, "magnitude": sum(sizes) / len(sizes)}
