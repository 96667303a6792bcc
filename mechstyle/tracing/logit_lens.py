"""The logit lens: what each layer's state at each token would predict, if the layers above were left out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from mechstyle.answers import require_positive
from mechstyle.errors import InputError, NonFiniteError, RangeError
from mechstyle.facts import Fact
from mechstyle.metrics import kl_divergence
from mechstyle.models import HookedModel, provenance, require_hooked
from mechstyle.tokens import EncodedPrompt
from mechstyle.tracing.lens_states import LensState, read_states
from mechstyle.tracing.measured import Measured
from mechstyle.tracing.prompts import ask

__all__ = ["LogitLens", "logit_lens"]

STATES: tuple[LensState, ...] = get_args(LensState)
NUMBERS = {
    "answer_prob": ("probability of the answer's first token", "1"),
    "answer_logprob": ("log-probability of the answer's first token", "nats"),
    "answer_rank": ("tokens more probable than the answer's first", "1"),
    "entropy": ("entropy of the distribution", "nats"),
    "kl": ("KL(model's final distribution || this one)", "nats"),
}


@dataclass(frozen=True, eq=False)
class LogitLens(Measured):
    """What every state of a prompt says about the next token.

    Attributes:
        data: over (token, layer), with a leading axis `state` where several were asked for: `answer_prob`,
            `answer_logprob`, `answer_rank` (0 is the top), `entropy` and `kl`; over (token, layer, rank) the
            top tokens: `top_token`, `top_id`, `top_prob`. Layer -1 is the embedding; `layer_str` calls it
            "embed". Tokens are named by `token_str` and `role`. The attribute `provenance` is a JSON text.

    Example:
        >>> lens = logit_lens(model, fact)
        >>> lens.data["answer_prob"].isel(token=-1).to_series()
    """


def logit_lens(
    model: HookedModel,
    prompt: Fact | str,
    *,
    answer: str | None = None,
    top: int = 5,
    states: LensState | Sequence[LensState] = "resid",
    prepend_bos: bool | None = None,
) -> LogitLens:
    """Read each state of a prompt through the model's own final norm and unembedding (nostalgebraist 2020).

    The last layer's residual stream gives the model's own distribution. Only a part of the logits is held at
    a time, whatever the prompt's length and the model's depth.

    Args:
        answer: None is the fact's target, and for a text the model's own top token, as "predicted" is for
            both; else an exact continuation. Its first token is looked at.
        top: how many of the most probable tokens to name.
        states: "resid" is the residual stream behind a layer, and the embedding that enters the first;
            "mlp" and "attn" are what these add to it, read alone (layer -1 is then NaN).

    Raises:
        TextError: the prompt or the answer cannot be tokenised as asked, or is too long.
        RangeError: `top` is not 1 to the size of the vocabulary.
        InputError: an unknown state, or a prompt that is neither a fact nor text.
        NonFiniteError: the model's logits are not finite.

    Example:
        >>> lens = logit_lens(model, Fact("{} plays the", "Miles Davis", " trumpet"))
        >>> lens.data["top_token"].isel(token=-1, rank=0).values
        array([' the', ' the', ' guitar', ' trumpet', ' trumpet'], dtype=object)
    """
    require_hooked(model)
    asked = _checked_states(states)
    require_positive("top", top)
    if top > model.cfg.d_vocab:
        raise RangeError(f"top: expected at most {model.cfg.d_vocab}, the model's tokens, got {top}.")
    if answer is not None and not isinstance(answer, str):
        raise InputError(
            f"answer: expected a continuation, 'predicted' or None, got {type(answer).__name__}."
        )
    asking = ask(model, prompt, answer=answer, prepend_bos=prepend_bos)
    encoded = asking.encoded
    found = read_states(model, encoded.ids[None, : encoded.n_prompt], asked)
    shape = (len(asked), encoded.n_prompt, int(model.cfg.n_layers) + 1)
    numbers = {name: np.full(shape, np.nan) for name in NUMBERS}
    tops = {"top_id": np.full((*shape, top), -1), "top_prob": np.full((*shape, top), np.nan)}
    for columns in found.columns():
        final = found.unembed(found.of["resid"][-1:, columns])
        for place, state in enumerate(asked):
            below = shape[2] - len(found.of[state])
            for rows in found.rows(state, columns):
                scores = found.unembed(found.of[state][rows, columns])
                here = (place, columns, slice(below + rows.start, below + rows.stop))
                for name, values in _measured(scores, final, int(encoded.target_ids[0]), top).items():
                    (numbers | tops)[name][here] = values.cpu().numpy().swapaxes(0, 1)
    about = {name: value for name, value in asking.record.items() if name not in ("metric", "contrast")}
    record = provenance(model, **about, states=list(asked), top=top)
    data = _dataset(model, encoded, asked, numbers, tops).assign_attrs(
        provenance=json.dumps(record, sort_keys=True)
    )
    return LogitLens(data.isel(state=0, drop=True) if isinstance(states, str) else data)


def _checked_states(states: LensState | Sequence[LensState]) -> tuple[LensState, ...]:
    asked: tuple[Any, ...] = (states,) if isinstance(states, str) else tuple(states)
    if not asked or any(asked.count(state) > 1 or state not in STATES for state in asked):
        raise InputError(
            f"states: expected one or more different ones of {', '.join(STATES)}, got {states!r}."
        )
    return asked


def _measured(
    scores: Float[Tensor, "row pos vocab"], final: Float[Tensor, "1 pos vocab"], answer: int, top: int
) -> dict[str, Tensor]:
    """What is kept of the logits of a few states; ranks count the tokens with larger logits."""
    if not bool(torch.isfinite(scores).all()):
        raise NonFiniteError(
            "model: a state of the prompt gives logits that are NaN or infinite. Load it in a wider dtype."
        )
    logp = (scores if scores.dtype == torch.float64 else scores.float()).log_softmax(-1)
    best = logp.topk(top, dim=-1)
    own = logp[..., answer]
    return {
        "answer_prob": own.exp(),
        "answer_logprob": own,
        "answer_rank": (scores > scores[..., answer, None]).sum(-1),
        "entropy": -(logp.exp() * logp).sum(-1),
        "kl": kl_divergence(final, scores),
        "top_id": best.indices,
        "top_prob": best.values.exp(),
    }


def _dataset(
    model: HookedModel,
    encoded: EncodedPrompt,
    states: Sequence[LensState],
    numbers: Mapping[str, NDArray[np.float64]],
    tops: Mapping[str, NDArray[Any]],
) -> xr.Dataset:
    axes, n_layers = ("state", "token", "layer"), int(model.cfg.n_layers)
    named = {
        one: str(model.tokenizer.decode([one])) for one in np.unique(tops["top_id"]).tolist() if one >= 0
    }
    words = np.array([named.get(one, "") for one in tops["top_id"].ravel().tolist()], dtype=object)
    return xr.Dataset(
        {
            **{name: (axes, values, _described(*NUMBERS[name])) for name, values in numbers.items()},
            **{name: ((*axes, "rank"), values) for name, values in tops.items()},
            "top_token": ((*axes, "rank"), words.reshape(tops["top_id"].shape)),
        },
        coords={
            "state": list(states),
            "token": np.arange(encoded.n_prompt),
            "layer": np.arange(-1, n_layers),
            "rank": np.arange(tops["top_id"].shape[-1]),
            "token_str": ("token", np.array(encoded.strings[: encoded.n_prompt], dtype=object)),
            "role": ("token", np.array(encoded.roles, dtype=object)),
            "layer_str": ("layer", np.array(["embed", *map(str, range(n_layers))], dtype=object)),
        },
    )


def _described(long_name: str, units: str) -> dict[str, str]:
    return {"long_name": long_name, "units": units}
