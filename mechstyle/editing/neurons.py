"""Knowledge neurons: which of the MLPs' neurons carry a fact, by integrated gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from mechstyle.editing.neuron_runs import NeuronRuns, neuron_runs
from mechstyle.errors import InputError, RangeError
from mechstyle.facts import EditRequest, Fact
from mechstyle.models import HookedModel, provenance, require_hooked, resolve_bos
from mechstyle.tokens import EncodedPrompt, encode_fact

__all__ = ["KnowledgeNeurons", "Neuron", "Rule", "knowledge_neurons"]

Rule = Literal["middle", "paper", "code"]
"""Where in each of the steps the gradient is taken."""

_OFFSETS: Final = MappingProxyType({"middle": 0.5, "paper": 1.0, "code": 0.0})


@dataclass(frozen=True)
class Neuron:
    """One neuron of an MLP: row ``index`` of the layer's ``W_out``.

    ``attribution`` is its mean over the phrasings, and ``share`` the share of them that pass the threshold.
    """

    layer: int
    index: int
    attribution: float = math.nan
    share: float = math.nan


@dataclass(frozen=True, eq=False)
class KnowledgeNeurons:
    """What ``knowledge_neurons`` found.

    Attributes:
        neurons: those that are kept, the largest attribution first; there may be none.
        attributions: of every neuron, the mean over the phrasings, in units of probability.
        probabilities: P(answer) of each phrasing.
        fingerprint: of the model.
        provenance: method, settings, prompts and versions, as JSON values.
    """

    neurons: tuple[Neuron, ...]
    attributions: Float[Tensor, "layer d_mlp"]
    probabilities: tuple[float, ...]
    fingerprint: str
    provenance: Mapping[str, Any] = field(default_factory=dict)


def knowledge_neurons(
    model: HookedModel,
    fact: Fact | EditRequest,
    *,
    templates: Sequence[str] = (),
    steps: int = 20,
    threshold: float = 0.2,
    share: float = 0.7,
    rule: Rule = "middle",
    prepend_bos: bool | None = None,
    batch_size: int = 64,
) -> KnowledgeNeurons:
    """Find the neurons that carry P(answer), by integrated gradients, in every phrasing of a fact.

    For each phrasing and layer, all neurons of the layer are scaled together from 0 to what they are, at the
    prompt's last token (for BERT the published position is the mask's); a neuron's attribution is its
    activation times its mean gradient on the way. The attributions of one layer add up to P(answer) minus
    P(answer) with that layer silenced there, up to the error of so few steps. An answer of several tokens
    counts whole, teacher-forced, and the position stays the prompt's last token.

    Args:
        fact: with its old target as the answer; of a request also its ``phrasings``.
        templates: more phrasings, each with ``{}`` where the subject stands.
        steps: gradients on the way, the same distance apart.
        threshold: share of the phrasing's largest attribution that a neuron must reach.
        share: share of the phrasings in which it must do so. (The public code also moves it by 0.05 until
            facts have 2 to 5 neurons on average.)
        rule: where in each step the gradient is taken: its "middle" has the smallest error, the "paper" takes
            its end and the public "code" its beginning.
        prepend_bos: None means the model's default.
        batch_size: sequences in one run; it does not change the result.

    Raises:
        InputError: something else than a fact or request, an unknown rule, or a model without MLPs.
        RangeError: ``steps`` or ``batch_size`` below 1, ``threshold`` or ``share`` not in (0, 1].
        TextError: a phrasing cannot be tokenised, or is no template.

    Dai et al. 2022 (Knowledge Neurons in Pretrained Transformers), sections 3.2 and 3.3.

    >>> found = knowledge_neurons(model, fact, templates=["The instrument of {} is the"])  # doctest: +SKIP
    >>> found.neurons[0]  # doctest: +SKIP
    Neuron(layer=1, index=402, attribution=0.31, share=1.0)
    """
    require_hooked(model)
    phrased = _phrasings(fact, templates)
    _check_counts(steps, threshold, share, batch_size)
    if rule not in get_args(Rule):
        raise InputError(f"rule: expected one of {', '.join(get_args(Rule))}, got {rule!r}.")
    bos = resolve_bos(model, prepend_bos)
    encoded = [encode_fact(model, one, prepend_bos=bos) for one in phrased]
    origin = provenance(model)
    points = (torch.arange(steps, dtype=torch.float64) + _OFFSETS[rule]) / steps

    found, logp = _attributions(model, encoded, points, batch_size)
    settings = {
        "method": "knowledge_neurons",
        "steps": steps,
        "rule": rule,
        "threshold": threshold,
        "share": share,
        "prepend_bos": bos,
        "prompts": [one.prompt for one in phrased],
        "answer": phrased[0].target,
    }
    return KnowledgeNeurons(
        neurons=_shared(found, threshold, share),
        attributions=found.mean(0),
        probabilities=tuple(math.exp(one) for one in logp),
        fingerprint=str(origin["fingerprint"]),
        provenance={**origin, "settings": settings},
    )


def _check_counts(steps: int, threshold: float, share: float, batch_size: int) -> None:
    for name, count in (("steps", steps), ("batch_size", batch_size)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise RangeError(f"{name}: expected a whole number of 1 or more, got {count!r}.")
    for name, part in (("threshold", threshold), ("share", share)):
        if isinstance(part, bool) or not isinstance(part, Real) or not 0 < part <= 1:
            raise RangeError(f"{name}: expected a number above 0 and at most 1, got {part!r}.")


def _phrasings(fact: Fact | EditRequest, templates: Sequence[str]) -> tuple[Fact, ...]:
    """The fact in all its different phrasings."""
    if not isinstance(fact, (Fact, EditRequest)):
        raise InputError(f"fact: expected a Fact or an EditRequest, got a {type(fact).__name__}.")
    if isinstance(templates, str) or not isinstance(templates, Sequence):
        raise InputError(f"templates: expected a list of templates, got one {type(templates).__name__}.")
    own = fact.phrased if isinstance(fact, EditRequest) else (fact,)
    first = own[0]
    more = (Fact(template, first.subject, first.target, first.relation) for template in templates)
    return tuple(dict.fromkeys((*own, *more)))


def _attributions(
    model: HookedModel, encoded: Sequence[EncodedPrompt], points: Float[Tensor, " point"], batch_size: int
) -> tuple[Float[Tensor, "prompt layer d_mlp"], list[float]]:
    """Each prompt's attributions, fp64 on the CPU, and its log P(answer)."""
    found, logp = [], []
    together = max(1, batch_size // len(points))
    for first in range(0, len(encoded), together):
        runs = neuron_runs(model, encoded[first : first + together])
        observed = runs.observed()
        slopes = [
            sum(
                (
                    _slope(runs, layer, observed[:, layer], some)
                    for some in points.split(max(1, batch_size // together))
                ),
                torch.zeros(()),
            )
            for layer in range(observed.shape[1])
        ]
        found.append(observed.double().cpu() * torch.stack(slopes, dim=1) / len(points))
        logp += runs.answer_logp(0, observed[None, :, 0]).detach()[0].tolist()
    return torch.cat(found), logp


def _slope(
    runs: NeuronRuns, layer: int, observed: Float[Tensor, "row d_mlp"], points: Float[Tensor, " point"]
) -> Float[Tensor, "row d_mlp"]:
    """Sum over the points of the gradient of P(answer) by the layer's neurons, scaled down to each point."""
    wide = torch.promote_types(observed.dtype, torch.float32)
    neurons = (points.to(observed.device, wide)[:, None, None] * observed.to(wide)).requires_grad_(True)
    logp = runs.answer_logp(layer, neurons)
    (slope,) = torch.autograd.grad(logp.sum(), neurons)
    # P's gradient from that of log P: a small P of a long answer would vanish in fp32.
    return (slope.double().cpu() * logp.detach().double().exp().cpu()[..., None]).sum(0)


def _shared(
    attributions: Float[Tensor, "prompt layer d_mlp"], threshold: float, share: float
) -> tuple[Neuron, ...]:
    """Neurons that reach the threshold in enough phrasings; a phrasing without a positive one has none."""
    most = attributions.amax(dim=(1, 2), keepdim=True)
    passing = ((attributions >= threshold * most) & (most > 0)).double().mean(0)
    mean = attributions.mean(0)
    # A share of 0.7 of ten phrasings is seven: rounding must not make it eight.
    kept = (passing >= share - 1e-9).nonzero().tolist()
    found = [Neuron(layer, i, float(mean[layer, i]), float(passing[layer, i])) for layer, i in kept]
    return tuple(sorted(found, key=lambda one: (-one.attribution, one.layer, one.index)))
