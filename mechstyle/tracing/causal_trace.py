"""Causal tracing in its textbook form: corrupt the subject, put one clean state back, see what returns.

Plain hooks over whole sequences; a row of a batch is one restored token under one noise draw.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from mechstyle.errors import InputError, ModelError, RangeError, TextError
from mechstyle.facts import Fact
from mechstyle.models import HookedModel, active_base, provenance
from mechstyle.runs import capture, logits
from mechstyle.sites import Kind, Site
from mechstyle.tokens import EncodedPrompt, encode_fact
from mechstyle.tracing.corruption import GaussianNoise, reference_sigma
from mechstyle.tracing.restoration import CorruptedRuns, Metric
from mechstyle.tracing.trace import DIMS, Trace

__all__ = ["causal_trace", "default_window", "window_layers"]

KINDS: tuple[Kind, ...] = ("resid", "mlp", "attn")
METRICS = get_args(Metric)
PREDICTED = "predicted"
ROWS = 64


def causal_trace(
    model: HookedModel,
    fact: Fact,
    *,
    kinds: Sequence[Kind] = KINDS,
    corruption: GaussianNoise | None = None,
    noise: float | Float[Tensor, "sample subject_token d_model"] = 3.0,
    sigma: float | None = None,
    metric: Metric = "prob",
    answer: str | None = None,
    samples: int = 10,
    seed: int = 0,
    window: int | None = None,
    prepend_bos: bool | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Trace:
    """Restore one clean state at a time in a corrupted run and measure the answer (Meng et al. 2022, 2.1).

    Every cell sees the same noise draws. Cells before the subject equal the corrupted run and need none.

    Args:
        kinds: "resid" restores one block's output; "mlp" and "attn" restore their outputs in a window of
            layers.
        corruption: how the subject is corrupted; `noise` and `sigma` are short for
            `GaussianNoise(noise, sigma)`.
        noise: multiples of sigma, or explicit draws, whose number then replaces `samples`.
        sigma: None takes it from the model's fixed reference set, never from this fact.
        metric: probability or log-probability (nats) of the whole answer, teacher-forced.
        answer: None is the fact's target; "predicted" is the model's own top token; else the exact
            continuation.
        samples: number of noise draws.
        window: layers in an mlp or attn window; None is 10 of 48, scaled to the model's depth.
        batch_size: rows in one forward pass, where a row is a noise draw with one token restored; None is 64.
        progress: show a progress bar on stderr.

    Raises:
        TextError: the prompt cannot be tokenised as asked, or is too long.
        RangeError: `samples`, `noise`, `sigma`, `window` or `batch_size` is out of range.
        InputError: an unknown kind or metric, draws of a wrong shape, or two ways to say the noise.
        ModelError: the model's logits or embeddings are not finite.
        WorkError: a corrupted run gives a metric that is not finite.

    Example:
        >>> fact = Fact(template="{} plays the", subject="Miles Davis", target=" trumpet")
        >>> trace = causal_trace(model, fact, kinds=("resid",), samples=10, seed=0)
        >>> trace.indirect_effect("resid").dims
        ('token', 'layer')
    """
    if not isinstance(fact, Fact):
        raise InputError(f"fact: expected a Fact, got {type(fact).__name__}.")
    chosen = _corruption(corruption, noise, sigma)
    n_layers = int(model.cfg.n_layers)
    window = default_window(n_layers) if window is None else window
    _check(kinds, metric, samples=samples, window=window, batch_size=batch_size)
    encoded = encode_fact(model, fact, target=_target(fact, answer), prepend_bos=prepend_bos)
    if answer == PREDICTED:
        encoded = _with_predicted(model, encoded)
    sigma_used, source = _sigma(model, chosen)
    subject = _subject(encoded)
    draws = chosen.sample(
        sigma=sigma_used, n_tokens=len(subject), d_model=int(model.cfg.d_model), samples=samples, seed=seed
    )
    clean_logits = logits(model, encoded.ids[None])
    if not bool(torch.isfinite(clean_logits).all()):
        raise ModelError(
            "model: its logits on the clean prompt are NaN or infinite. Load a model with finite weights."
        )
    sites = [Site(layer, kind) for kind in kinds for layer in range(n_layers)]
    states = capture(model, encoded.ids[None], sites)
    runs = CorruptedRuns(model, encoded, subject, draws, states, metric, batch_size or ROWS)
    corrupted = runs.baseline()

    grid = {kind: np.tile(corrupted[:, None, None], (1, encoded.n_prompt, n_layers)) for kind in kinds}
    tokens = range(subject.start, encoded.n_prompt)
    console = Console(stderr=True)
    for site in track(sites, "tracing", console=console, disable=not progress, transient=True):
        width = 1 if site.kind == "resid" else window
        restored = [Site(layer, site.kind) for layer in window_layers(site.layer, width, n_layers)]
        grid[site.kind][:, tokens.start :, site.layer] = runs.restored(restored, tokens)

    record = provenance(
        model,
        fact=fact.to_dict(),
        answer=encoded.text[encoded.offsets[encoded.n_prompt][0] :],
        answer_tokens=encoded.target_ids.tolist(),
        answer_source="target" if answer is None else PREDICTED if answer == PREDICTED else "given",
        knows=_knows(clean_logits[0], encoded),
        kinds=list(kinds),
        metric=metric,
        noise={**chosen.record(), "sigma": sigma_used, "sigma_source": source},
        samples=len(draws),
        seed=seed,
        window=window,
        prepend_bos=encoded.prepend_bos,
        active_edits=sorted(active_base(model)),
    )
    clean = float(runs.score(clean_logits)[0])
    return Trace(
        _dataset(grid, clean=clean, corrupted=corrupted, encoded=encoded, record=record, metric=metric)
    )


def default_window(n_layers: int) -> int:
    """ROME's window of 10 layers of 48, scaled to a model's depth and at least 1.

    Example:
        >>> default_window(48), default_window(12)
        (10, 2)
    """
    return min(10, max(1, round(n_layers * 10 / 48)))


def window_layers(layer: int, window: int, n_layers: int) -> range:
    """The layers of a window centred on `layer`: max(0, l - w // 2) to min(n, l + ceil(w / 2)) - 1.

    Example:
        >>> list(window_layers(5, 4, 12)), list(window_layers(0, 4, 12))
        ([3, 4, 5, 6], [0, 1])
    """
    return range(max(0, layer - window // 2), min(n_layers, layer + math.ceil(window / 2)))


def _corruption(
    corruption: GaussianNoise | None, noise: float | Tensor, sigma: float | None
) -> GaussianNoise:
    if corruption is not None:
        if isinstance(noise, Tensor) or noise != 3.0 or sigma is not None:
            raise InputError(
                "corruption: it already says the noise, but noise or sigma came as well. "
                "Put them into GaussianNoise(multiple=..., sigma=..., draws=...)."
            )
        if not isinstance(corruption, GaussianNoise):
            raise InputError(f"corruption: expected a GaussianNoise, got {type(corruption).__name__}.")
        return corruption
    if isinstance(noise, Tensor):
        return GaussianNoise(draws=noise, sigma=sigma)
    if isinstance(noise, bool) or not isinstance(noise, (int, float)):
        raise InputError(f"noise: expected a number or a tensor of draws, got {type(noise).__name__}.")
    return GaussianNoise(multiple=float(noise), sigma=sigma)


def _check(kinds: Sequence[str], metric: str, *, samples: int, window: int, batch_size: int | None) -> None:
    if isinstance(kinds, str) or not kinds or len(set(kinds)) < len(kinds) or not set(kinds) <= set(KINDS):
        raise InputError(
            f"kinds: expected one or more different ones of {', '.join(KINDS)} in a tuple, got {kinds!r}."
        )
    if metric not in METRICS:
        raise InputError(f"metric: expected one of {', '.join(METRICS)}, got {metric!r}.")
    for name, value in (("samples", samples), ("window", window), ("batch_size", batch_size)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise RangeError(f"{name}: expected a whole number of at least 1, got {value!r}.")


def _target(fact: Fact, answer: str | None) -> str:
    if answer is None:
        return fact.target
    if not isinstance(answer, str) or not answer.strip():
        raise TextError(f"answer: expected the continuation to score, {PREDICTED!r} or None, got {answer!r}.")
    return "" if answer == PREDICTED else answer


def _with_predicted(model: HookedModel, encoded: EncodedPrompt) -> EncodedPrompt:
    """Append the model's own top token (its id: its text alone might be tokenised in another way)."""
    top = logits(model, encoded.ids[None])[0, -1].argmax().cpu()
    text = str(model.tokenizer.decode([int(top)]))
    if len(encoded) == model.cfg.n_ctx:
        raise TextError(
            f"prompt: too long, {len(encoded)} tokens leave no room for the answer "
            f"in a context of {model.cfg.n_ctx}."
        )
    start = len(encoded.text)
    return replace(
        encoded,
        text=encoded.text + text,
        ids=torch.cat([encoded.ids, top[None]]),
        strings=(*encoded.strings, text),
        offsets=(*encoded.offsets, (start, start + len(text))),
    )


def _subject(encoded: EncodedPrompt) -> range:
    if encoded.subject is None:
        raise TextError("fact: its prompt has no subject tokens to corrupt.")
    return encoded.subject


def _sigma(model: HookedModel, corruption: GaussianNoise) -> tuple[float | None, str]:
    if corruption.draws is not None:
        return corruption.sigma, "explicit draws"
    if corruption.sigma is not None:
        return corruption.sigma, "given"
    return reference_sigma(model)


def _knows(clean: Float[Tensor, "pos vocab"], encoded: EncodedPrompt) -> bool:
    """Whether greedy decoding of the clean prompt gives the answer."""
    greedy = clean[encoded.n_prompt - 1 : -1].argmax(-1).cpu()
    return bool(torch.equal(greedy, encoded.target_ids))


def _dataset(
    grid: dict[Kind, NDArray[np.float64]],
    *,
    clean: float,
    corrupted: NDArray[np.float64],
    encoded: EncodedPrompt,
    record: dict[str, Any],
    metric: str,
) -> xr.Dataset:
    n_samples, n_tokens, n_layers = next(iter(grid.values())).shape
    strings, roles = encoded.strings[:n_tokens], encoded.roles
    units = {"prob": "1", "logprob": "nats"}[metric]
    return xr.Dataset(
        {
            kind: (DIMS, values, {"long_name": f"{metric} with {kind} restored", "units": units})
            for kind, values in grid.items()
        },
        coords={
            "sample": np.arange(n_samples),
            "token": np.arange(n_tokens),
            "layer": np.arange(n_layers),
            "token_str": ("token", np.array(strings, dtype=object)),
            "role": ("token", np.array(roles, dtype=object)),
            "clean": ((), clean),
            "corrupted": ("sample", corrupted),
        },
        attrs={"provenance": json.dumps(record, sort_keys=True)},
    )
