"""Saliency: which of a prompt's tokens the answer depends on, by gradients at the token embeddings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from mechstyle.answers import require_positive
from mechstyle.errors import InputError, WorkError
from mechstyle.facts import Fact
from mechstyle.models import HookedModel, provenance
from mechstyle.tracing.answer import Metric
from mechstyle.tracing.baselines import Baseline, baseline_embeddings, baseline_name, given_embeddings
from mechstyle.tracing.measured import Measured
from mechstyle.tracing.prompts import AskedPrompt, ask
from mechstyle.tracing.targets import Answer

__all__ = ["Saliency", "saliency"]

Method = Literal["integrated_gradients", "gradient_x_input"]
METHODS: tuple[str, ...] = get_args(Method)


@dataclass(frozen=True, eq=False)
class Saliency(Measured):
    """How much each token of a prompt adds to the metric, against one baseline or several.

    Attributes:
        data: over (baseline, token): `score`, the attribution summed over the embedding's entries, and
            `norm`, its Euclidean length. Over (baseline): `at_baseline`, the metric there, and `gap`, the sum
            of the scores minus (`value` - `at_baseline`), which is 0 for exact integrated gradients. `value`
            is the metric of the prompt itself. Tokens are named by `token_str` and `role`. The attribute
            `provenance` is a JSON text.

    Example:
        >>> found = saliency(model, fact, baseline=("bos", "mean"))
        >>> found.data["score"].sel(baseline="mean").to_series()
    """


def saliency(
    model: HookedModel,
    prompt: Fact | str,
    *,
    answer: Answer = None,
    metric: Metric = "logprob",
    method: Method = "integrated_gradients",
    baseline: Baseline | Sequence[Baseline] | None = None,
    steps: int = 50,
    embeddings: Float[Tensor, "token d_model"] | None = None,
    prepend_bos: bool | None = None,
) -> Saliency:
    """Attribute the metric to the prompt's token embeddings by gradients, with captum.

    Integrated gradients (Sundararajan et al. 2017) are the mean gradient on the straight line from a
    baseline, times the difference to it: their sum is the metric minus that of the baseline, up to `gap`,
    which more steps shrink. Gradient times input (Shrikumar et al. 2016) is their first-order form for the
    baseline 0. Positions keep what the model adds for them; the answer's own tokens are never changed.

    Args:
        answer: None is the fact's target, and for a text the model's own top token; "predicted", an exact
            continuation, or a `Contrast` of two.
        metric: "logprob" (nats), "prob", "neg_kl" or a function of the logits that predict the answer.
        baseline: at every token the embedding of "bos", "eos" or "pad", the "mean" over the vocabulary,
            "zero", or a tensor; several give a row each. None is "bos"; gradient times input has only "zero".
        steps: points on the line, by Gauss-Legendre.
        embeddings: attribute to these instead of to the tokens' own (a swapped word, say).

    Raises:
        TextError: the prompt or the answer cannot be tokenised as asked.
        InputError: an unknown method, metric or baseline, or a tensor of another shape.
        RangeError: `steps` is below 1.
        ModelError: the tokenizer has no such token, or the model's logits are not finite.
        WorkError: an attribution is not finite.

    Example:
        >>> found = saliency(model, Fact("{} plays the", "Miles Davis", " trumpet"), baseline="mean")
        >>> found.data["token_str"].values[int(found.data["score"][0].argmax())]
        ' Davis'
    """
    chosen = _checked(method, baseline, steps)
    asking = ask(model, prompt, answer=answer, metric=metric, prepend_bos=prepend_bos).given()
    own = asking.embeddings()
    inputs = own if embeddings is None else given_embeddings("embeddings", embeddings, own)
    starts = [baseline_embeddings(model, one, own) for one in chosen]
    attribute = _Attribution(asking, steps)
    rows = [attribute.of(method, inputs, start) for start in starts]
    with torch.no_grad():
        value, *below = asking.values(torch.stack([inputs, *starts])).double().tolist()
    found = torch.stack(rows).double().cpu()
    if not bool(torch.isfinite(found).all()):
        raise WorkError(
            f"saliency: {method} gave NaN or infinity. Load the model in a wider dtype, or choose another "
            "baseline."
        )
    scores, units = found.sum(-1).numpy(), {"units": asking.asked[0].question.units}
    record = provenance(
        model,
        **asking.record,
        method=method,
        steps=steps,
        embeddings="given" if embeddings is not None else None,
    )
    names = [baseline_name(one, number) for number, one in enumerate(chosen)]
    data = xr.Dataset(
        {
            "score": (("baseline", "token"), scores, units),
            "norm": (("baseline", "token"), found.norm(dim=-1).numpy(), units),
            "at_baseline": ("baseline", below, units),
            "gap": ("baseline", scores.sum(-1) - (value - np.array(below)), units),
            "value": ((), value, units),
        },
        coords={
            "baseline": np.array(names, dtype=object),
            "token": np.arange(asking.n_prompt),
            "token_str": ("token", np.array(asking.encoded.strings[: asking.n_prompt], dtype=object)),
            "role": ("token", np.array(asking.encoded.roles, dtype=object)),
        },
        attrs={"provenance": json.dumps(record, sort_keys=True)},
    )
    return Saliency(data)


@dataclass(frozen=True, eq=False)
class _Attribution:
    """captum's methods on the metric as a function of the prompt's embeddings."""

    asking: AskedPrompt
    steps: int

    def of(self, method: str, inputs: Tensor, start: Tensor) -> Float[Tensor, "token d_model"]:
        """The attribution to every entry of the embeddings."""
        # Slow to import, and wanted only here.
        from captum.attr import InputXGradient, IntegratedGradients

        # captum would set the flag by itself, and warn.
        point = inputs[None].detach().clone().requires_grad_()
        if method == "gradient_x_input":
            found: Tensor = InputXGradient(self._metric).attribute(point)
        else:
            # A backward pass keeps the states of every layer.
            rows = max(1, self.asking.rows() // int(self.asking.model.cfg.n_layers))
            found = IntegratedGradients(self._metric).attribute(
                point, start[None], n_steps=self.steps, internal_batch_size=rows
            )
        return found[0].detach()

    def _metric(self, embeddings: Float[Tensor, "row token d_model"]) -> Float[Tensor, " row"]:
        return self.asking.values(embeddings, grad=True)


def _checked(method: str, baseline: Baseline | Sequence[Baseline] | None, steps: int) -> tuple[Baseline, ...]:
    """The baselines, once all of these are known to be usable."""
    if method not in METHODS:
        raise InputError(f"method: expected one of {', '.join(METHODS)}, got {method!r}.")
    require_positive("steps", steps)
    if baseline is None:
        return ("zero",) if method == "gradient_x_input" else ("bos",)
    chosen = (baseline,) if isinstance(baseline, (str, Tensor)) else tuple(baseline)
    names = [baseline_name(one, number) for number, one in enumerate(chosen)]
    if not chosen or len(set(names)) < len(names):
        raise InputError(f"baseline: expected one or more different baselines, got {names}.")
    if method == "gradient_x_input" and names != ["zero"]:
        raise InputError(
            f"baseline: 'gradient_x_input' has no baseline but 'zero', got {names}. Leave it out, or choose "
            "'integrated_gradients'."
        )
    return chosen
