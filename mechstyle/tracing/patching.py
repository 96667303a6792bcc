"""Activation patching: states of one prompt's run in another's, and how much of the difference they make."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import xarray as xr

from mechstyle.errors import InputError, RangeError
from mechstyle.facts import Fact
from mechstyle.models import HookedModel
from mechstyle.tracing.answer import Metric
from mechstyle.tracing.engines import Engine
from mechstyle.tracing.grid import Tokens
from mechstyle.tracing.plan import Direction, plan_cells
from mechstyle.tracing.run_cells import run_cells
from mechstyle.tracing.setup import prepare_prompts
from mechstyle.tracing.targets import Answer
from mechstyle.tracing.trace import Trace

__all__ = ["activation_patching", "normalized_effect"]


def activation_patching(
    model: HookedModel,
    clean: Fact | str,
    corrupted: Fact | str,
    *,
    answer: Answer = None,
    kinds: Sequence[str] = ("resid", "mlp", "attn"),
    direction: Direction = "denoising",
    metric: Metric = "logprob",
    window: int | None = None,
    tokens: Tokens | None = None,
    neuron_layer: int | None = None,
    prepend_bos: bool | None = None,
    batch_size: int | None = None,
    engine: Engine = "auto",
    progress: bool = False,
) -> Trace:
    """Put one state of one prompt's run into the other's and measure the answer (Vig et al. 2020).

    Denoising asks what suffices to bring the answer back, noising what is needed for it (Heimersheim and
    Nanda 2024). Cells before the first token that differs have no effect and are not run.

    Args:
        clean: the prompt with the right answer; a Fact gives the tokens roles, and `answer=None` its target.
        corrupted: a prompt with as many tokens.
        answer: None is the clean fact's target; "predicted" is the model's own top token; else the exact
            continuation, or a `Contrast` of two (the logit difference of many papers).
        kinds: as in `causal_trace`: "resid", "mlp" and "attn" (windows), "heads" (what a head has taken in),
            "q", "k", "v" and "pattern" of a head, "neurons", "severed_mlp" and "severed_attn".
        direction: "denoising" puts clean states into the corrupted run, "noising" corrupted ones into the
            clean run.
        window: layers in an mlp or attn window; None is 10 of 48, scaled to the model's depth; 1 patches
            single layers.
        tokens: named sets of tokens that are patched together; None patches each token alone.
        neuron_layer: the layer of kind "neurons".

    Returns:
        a trace with one sample; `indirect_effect` is the change from the run that receives.

    Raises:
        TextError: the prompts differ in their number of tokens or in nothing, or cannot be tokenised.
        InputError: an unknown kind, direction or engine, a neuron layer without neurons or the reverse, or
            sets of tokens that the prompt does not have.
        RangeError: `window`, `neuron_layer`, `batch_size` or a token is out of range.
        ModelError: the model's logits are not finite.
        WorkError: a run gives a metric that is not finite.

    Example:
        >>> trace = activation_patching(
        ...     model, "Miles Davis plays the", "Jimi Hendrix plays the", answer=" trumpet", kinds=("heads",)
        ... )
        >>> normalized_effect(trace, "heads").dims
        ('token', 'layer', 'head')
    """
    plan = plan_cells(
        model,
        kinds,
        window=window,
        neuron_layer=neuron_layer,
        tokens=tokens,
        direction=direction,
        batch_size=batch_size,
        engine=engine,
    )
    setup = prepare_prompts(model, clean, corrupted, answer=answer, metric=metric, prepend_bos=prepend_bos)
    return run_cells(model, setup, plan, progress=progress)


def normalized_effect(
    trace: Trace, kind: str, *, least: float = 0.01, reduce: Literal["mean"] | None = "mean"
) -> xr.DataArray:
    """The indirect effect as a share of the difference between the two runs: 1 is all of it, 0 nothing.

    In denoising 1 restores the clean run's metric, in noising it destroys as much as the whole corruption.
    Shares may lie outside of 0 to 1. Over several samples it is the mean effect over the mean difference.

    Args:
        least: the smallest difference, in the metric's units, of which shares are taken: below, they would be
            rounding errors and noise made large.
        reduce: None gives each sample's own share, NaN where its difference is below `least`.

    Raises:
        InputError: the trace has no such kind, or its two runs differ by less than `least`.
        RangeError: `least` is not a number above 0.

    Example:
        >>> float(normalized_effect(trace, "resid").max())
        1.0
    """
    if isinstance(least, bool) or not isinstance(least, (int, float)) or not 0 < least < math.inf:
        raise RangeError(f"least: expected a number above 0, got {least!r}.")
    effect, total = trace.indirect_effect(kind, reduce=reduce), trace.total_effect(reduce=reduce)
    if trace.settings.get("direction") == "noising":
        total = -total
    if reduce == "mean" and abs(float(total)) < least:
        raise InputError(
            f"trace: its clean and corrupted runs differ by {float(total):.2g} ({trace.settings['metric']}), "
            f"less than {least:g}, so that shares of it say nothing. Look at indirect_effect, or give a "
            "smaller `least`."
        )
    share = effect / total.where(abs(total) >= least)
    return share.rename(kind).assign_attrs({"long_name": f"share of the effect of {kind}", "units": "1"})
