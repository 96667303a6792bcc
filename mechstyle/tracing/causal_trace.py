"""Causal tracing: corrupt the subject, put one clean state back, see what returns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from mechstyle.errors import InputError, ModelError, RangeError, TextError
from mechstyle.facts import Fact
from mechstyle.models import HookedModel, active_base, provenance, require_hooked
from mechstyle.runs import logits
from mechstyle.sites import Kind
from mechstyle.tokens import EncodedPrompt, encode_fact
from mechstyle.tracing.answer import MetricName as Metric
from mechstyle.tracing.answer import Question
from mechstyle.tracing.corruption import GaussianNoise
from mechstyle.tracing.engines import Engine, choose_engine, clean_run
from mechstyle.tracing.grid import cells_of, default_window
from mechstyle.tracing.trace import DIMS, Trace

__all__ = ["causal_trace"]

KINDS: tuple[Kind, ...] = ("resid", "mlp", "attn")
METRICS = ("prob", "logprob")
PREDICTED = "predicted"


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
    engine: Engine = "auto",
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
        batch_size: most rows in one forward pass, where a row is one cell under one noise draw; None takes
            what fits into 512 MiB (on a GPU into a quarter of its free memory).
        engine: "resume" computes only what a restored state can change; "whole" runs whole sequences; "auto"
            resumes where the model allows it (`mechstyle.blocks.can_resume`) and nobody has put hooks on it:
            hooks see the last positions only in a resumed run. Both give the same numbers up to rounding.
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
    require_hooked(model)
    chosen = _corruption(corruption, noise, sigma)
    n_layers = int(model.cfg.n_layers)
    window = default_window(n_layers) if window is None else window
    _check(kinds, metric, seed, samples=samples, window=window, batch_size=batch_size)
    engine = choose_engine(model, engine)
    encoded = encode_fact(model, fact, target=_target(fact, answer), prepend_bos=prepend_bos)
    if answer == PREDICTED:
        encoded = _with_predicted(model, encoded)
    found = chosen.embeddings(model, fact, encoded, samples=samples, seed=seed)
    subject, draws = found.tokens, found.values
    question = Question(encoded, metric)
    clean = clean_run(engine, model, question, kinds)
    if not bool(torch.isfinite(clean.logits).all()):
        raise ModelError(
            "model: its logits on the clean prompt are NaN or infinite. Load a model with finite weights."
        )
    rows = question.rows_within(model) if batch_size is None else batch_size
    tokens = range(subject.start, encoded.n_prompt)
    cells = [cell for kind in kinds for cell in cells_of(kind, tokens, window=window, n_layers=n_layers)]
    shape = (len(draws), encoded.n_prompt, n_layers)
    corrupted, grid = np.empty(len(draws)), {kind: np.empty(shape) for kind in kinds}
    with Progress(console=Console(stderr=True), transient=True, disable=not progress) as bar:
        task = bar.add_task(f"tracing ({engine}, {rows} rows at most)", total=len(cells) * len(draws))
        for first in range(0, len(draws), rows):
            here = slice(first, first + rows)
            runs = clean.corrupted(draws[here], max_rows=rows)
            corrupted[here] = runs.baseline()
            for values in grid.values():
                values[here] = corrupted[here][:, None, None]
            for cell, scores in runs.restored(cells):
                grid[cell.kind][here, cell.token, cell.layer] = scores
                bar.advance(task, len(scores))

    record = provenance(
        model,
        fact=fact.to_dict(),
        answer=encoded.text[encoded.offsets[encoded.n_prompt][0] :],
        answer_tokens=encoded.target_ids.tolist(),
        answer_source="target" if answer is None else PREDICTED if answer == PREDICTED else "given",
        knows=question.greedy(clean.logits),
        kinds=list(kinds),
        metric=metric,
        noise=found.record,
        samples=len(draws),
        seed=seed,
        window=window,
        prepend_bos=encoded.prepend_bos,
        active_edits=sorted(active_base(model)),
        engine=engine,
        max_batch=rows,
    )
    score = float(question.score(clean.logits, run="clean")[0])
    return Trace(
        _dataset(grid, clean=score, corrupted=corrupted, encoded=encoded, record=record, metric=metric)
    )


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


def _check(
    kinds: Sequence[str], metric: str, seed: int, *, samples: int, window: int, batch_size: int | None
) -> None:
    listed = isinstance(kinds, Sequence) and not isinstance(kinds, str)
    if not listed or not kinds or any(kinds.count(kind) > 1 or kind not in KINDS for kind in kinds):
        raise InputError(
            f"kinds: expected one or more different ones of {', '.join(KINDS)} in a tuple, got {kinds!r}."
        )
    if metric not in METRICS:
        raise InputError(f"metric: expected one of {', '.join(METRICS)}, got {metric!r}.")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InputError(f"seed: expected a whole number, got {seed!r}.")
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
