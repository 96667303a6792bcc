"""Attribution patching: the effects of all cells estimated from gradients, without running any cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from mechstyle.answers import require_positive
from mechstyle.errors import InputError
from mechstyle.facts import Fact
from mechstyle.models import HookedModel
from mechstyle.runs import default_memory, rows_within
from mechstyle.tracing.answer import Metric
from mechstyle.tracing.assembly import Variable, assemble
from mechstyle.tracing.attribution_check import checked
from mechstyle.tracing.attribution_effects import Recipe, estimate
from mechstyle.tracing.attribution_runs import embedded
from mechstyle.tracing.corrupted import Corruption
from mechstyle.tracing.kinds import TracedKind
from mechstyle.tracing.plan import Direction, Plan, plan_cells
from mechstyle.tracing.setup import Setup, prepare_fact, prepare_prompts, require_draws
from mechstyle.tracing.targets import Answer
from mechstyle.tracing.trace import Trace

__all__ = ["attribution_patching"]

Method = Literal["gradient", "integrated"]


def attribution_patching(
    model: HookedModel,
    clean: Fact | str,
    corrupted: Fact | str | None = None,
    *,
    kinds: Sequence[str] = ("resid", "mlp", "attn"),
    method: Method = "gradient",
    steps: int = 10,
    direction: Direction = "denoising",
    corruption: Corruption | None = None,
    metric: Metric = "logprob",
    answer: Answer = None,
    window: int | None = None,
    neuron_layer: int | None = None,
    samples: int = 10,
    seed: int = 0,
    prepend_bos: bool | None = None,
    check: int = 20,
    batch_size: int | None = None,
    progress: bool = False,
) -> Trace:
    """Estimate what putting back each state would do, all cells at once (Nanda 2023; Syed et al. 2023).

    The effect of a state is (its source value - its base value) . (gradient of the metric there), where the
    base is the run that states are put into. Two forward runs and one backward run give all cells of all
    kinds. It is exact where the metric is linear in the state; elsewhere compare it with exact cells.

    "integrated" takes the mean gradient over `steps` runs whose token embeddings lie between the base's and
    the source's, at the midpoints (k + 1/2) / steps of the straight line (integrated gradients, Sundararajan
    et al. 2017, over the inputs as in EAP-IG, Hanna et al. 2024, which sums at right ends); the difference of
    states stays that of the two sides.

    A window of mlp or attn outputs, and a severed path, set several states: each counts with its gradient
    times its change from what the run gives once those before are set (`attribution_joint`).

    Args:
        clean: a Fact, whose subject is corrupted as in `causal_trace`; or the clean prompt of a pair.
        corrupted: the other prompt of the pair, with as many tokens; None corrupts the fact's subject.
        kinds: "resid", "mlp", "attn" (windows), "severed_mlp", "severed_attn", "heads", "q", "k", "v",
            "pattern" (one head's row of one query token), "neurons".
        direction: "denoising" puts clean states into the corrupted run, "noising" corrupted states into the
            clean one. A clean run that is sure of its answer has hardly a gradient: take "integrated" there.
        metric: with a gradient: "logprob", "prob", "neg_kl", or a function of the answer's logits.
        answer: None is the fact's target; "predicted" the model's own top token; else a continuation or a
            Contrast.
        window: layers in an mlp or attn window; None is 10 of 48, scaled to the model's depth.
        neuron_layer: the layer of kind "neurons".
        samples: corrupted subjects, for a fact.
        check: run so many random cells of each kind under the first sample, drawn by `seed`, and note their
            rank correlation with the estimates in `settings["check"]`; 0 for none. An estimate that nobody
            compared is worth little, and twenty cells cost no more than the estimate itself.
        batch_size: most rows in a run that keeps its graph; None takes what fits into 512 MiB (on a GPU into
            a quarter of its free memory).
        progress: show a progress bar on stderr.

    Returns:
        a trace with the baseline plus the estimated effect in each cell, so that `indirect_effect` is the
        estimate; `settings["method"]` says which one. A sum of effects has no bound as probabilities have.

    Raises:
        TextError: a prompt or the answer cannot be tokenised as asked, or the prompts differ in length.
        RangeError: `steps`, `samples`, `window`, `neuron_layer` or `batch_size` is out of range.
        InputError: an unknown kind, method or direction, options that do not go together, or a metric without
            a gradient: also "neg_kl" in noising by method "gradient", whose gradient at the clean run is 0.
        ModelError: the model's logits or gradients are not finite, or no gradient reaches a kind's states.
        WorkError: a corrupted run gives a metric that is not finite.

    Example:
        >>> estimated = attribution_patching(model, fact, kinds=("mlp", "heads"), method="integrated")
        >>> estimated.indirect_effect("heads").dims
        ('token', 'layer', 'head')
    """
    plan = plan_cells(
        model, kinds, window=window, neuron_layer=neuron_layer, direction=direction, batch_size=batch_size
    )
    if method not in get_args(Method):
        raise InputError(f"method: expected 'gradient' or 'integrated', got {method!r}.")
    require_positive("steps", steps)
    require_draws(samples, seed)
    if (metric, method, direction) == ("neg_kl", "gradient", "noising"):
        raise InputError(
            "metric: expected another one than 'neg_kl' in noising: its gradient at the clean run is 0 and "
            "estimates nothing. Use method='integrated', direction='denoising' or metric='logprob'."
        )
    if check != 0:
        require_positive("check", check)
    setup = _setup(
        model, clean, corrupted, corruption, metric=metric, answer=answer, samples=samples, seed=seed,
        prepend_bos=prepend_bos,
    )  # fmt: skip
    recipe = Recipe(
        plan,
        (0.0,) if method == "gradient" else tuple((step + 0.5) / steps for step in range(steps)),
        range(setup.first, setup.encoded.n_prompt),
        _rows(model, setup) if batch_size is None else batch_size,
    )
    parts = []
    with Progress(console=Console(stderr=True), transient=True, disable=not progress) as bar:
        task = bar.add_task(f"estimating ({method})", total=setup.samples * len(setup.questions))
        for one in setup.questions:
            clean_side = embedded(model, setup.clean(one.question))
            corrupted_side = embedded(model, setup.corrupted(one.question))
            parts.append(
                estimate(
                    model,
                    one.question,
                    clean_side,
                    corrupted_side,
                    recipe,
                    advance=lambda n: bar.advance(task, n),
                )
            )
    weights = np.array([one.weight for one in setup.questions])
    corrupted_scores = weights @ np.stack([part.corrupted for part in parts])
    clean_score = float(weights @ [part.clean for part in parts])
    baseline = np.full_like(corrupted_scores, clean_score) if recipe.noising else corrupted_scores
    effects = {
        kind: np.tensordot(weights, np.stack([part.effects[kind.name] for part in parts]), 1)
        for kind in plan.kinds
    }
    return assemble(
        model,
        setup,
        {kind.name: _whole_grid(kind, grid, baseline, setup, plan) for kind, grid in effects.items()},
        clean=clean_score,
        corrupted=corrupted_scores,
        sets=None,
        settings={
            **plan.record(),
            "method": method,
            "steps": steps if method == "integrated" else None,
            "knows": parts[0].knows,
            "first_token": setup.first,
            "max_batch": recipe.rows,
            "check": checked(
                model,
                setup,
                plan,
                {kind.name: grid[0] for kind, grid in effects.items()},
                n_cells=check,
                seed=seed,
                max_rows=batch_size or min(one.question.rows_within(model) for one in setup.questions),
            )
            if check
            else None,
        },
    )


def _setup(
    model: HookedModel,
    clean: Fact | str,
    corrupted: Fact | str | None,
    corruption: Corruption | None,
    *,
    metric: Metric,
    answer: Answer,
    samples: int,
    seed: int,
    prepend_bos: bool | None,
) -> Setup:
    if corrupted is None:
        if not isinstance(clean, Fact):
            raise InputError(
                "clean: expected a Fact, whose subject is corrupted, or two prompts, "
                f"got {type(clean).__name__} alone."
            )
        return prepare_fact(
            model, clean, corruption=corruption, metric=metric, answer=answer, samples=samples, seed=seed,
            prepend_bos=prepend_bos,
        )  # fmt: skip
    if corruption is not None:
        raise InputError("corruption: expected None, since the corrupted prompt was given; leave one out.")
    return prepare_prompts(model, clean, corrupted, answer=answer, metric=metric, prepend_bos=prepend_bos)


def _rows(model: HookedModel, setup: Setup) -> int:
    """Rows whose graph, with the states of all layers, fits into the default memory."""
    memory = default_memory(model) // int(model.cfg.n_layers)
    return min(
        rows_within(model, memory, width=width, n_positions=width, n_last=one.question.n_answer)
        for one in setup.questions
        for width in [one.question.ids.shape[1]]
    )


def _whole_grid(
    kind: TracedKind, effects: NDArray[np.float64], baseline: NDArray[np.float64], setup: Setup, plan: Plan
) -> Variable:
    """Baseline plus effect; before the first token that differs there is none."""
    empty = np.zeros((len(effects), setup.first, *effects.shape[2:]))
    grid = np.concatenate([empty, effects], axis=1)
    about = {"long_name": f"{setup.record['metric']} with {kind.name} put in, estimated"}
    values = grid + baseline.reshape(-1, *(1,) * (grid.ndim - 1))
    return Variable(kind.dims, values, about | ({"layer": plan.neuron_layer} if kind.one_layer else {}))
